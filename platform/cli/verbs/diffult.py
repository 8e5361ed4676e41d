"""whipray diffult: DiffuLT from end to end, with the controls that say what it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ....trainers.errors import Problem, combine
from .. import completion
from ..consoles import next_commands, print_json, print_warnings, stderr_console
from ..options import DryRun, Json, On, Overrides, Recipe, Workers, Yes, workers_of
from ..stores import StoreOptions, with_store_options

if TYPE_CHECKING:  # imported on use, so that `--help` is quick
    from ...analysis.diffult.order import Order
    from ...analysis.diffult.pipeline import Pipeline
    from ...config.experiment import Experiment
    from ...config.layers import Resolved


@with_store_options
def diffult(
    recipe: Recipe,
    store: StoreOptions,
    overrides: Overrides = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Name of the run; default: the recipe's name.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Take this trained model: a run, SWEEP/TRIAL, or models:/NAME@ALIAS. The recipe then says "
            "the images, filter, and classifiers.",
            autocompletion=completion.targets,
        ),
    ] = None,
    chosen: Annotated[
        str | None,
        typer.Option(
            "--chosen",
            help="Train the best point of this sweep, which chose on validation images, on all training "
            "images, and read the test images once.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Classifiers of each arm.")] = 5,
    arms: Annotated[
        str | None, typer.Option("--arms", help="Arms to train, with commas; default: all.")
    ] = None,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls/--no-controls",
            help="Also train on repeated and augmented real images, and on unfiltered and randomly chosen "
            "generated ones: without these a gain may be due to balance and length alone.",
        ),
    ] = True,
    workers: Workers = "",
    on: On = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Fill classes up with generated images and measure what classifiers gain (DiffuLT).

    It trains the diffusion model and f_0, a classifier, on the long tail, generates what classes lack of
    balancing.to images, leaves out what balancing.filter rejects, and trains classifiers on the rest, over
    several seeds and beside controls. What is in the store is not made again: another filter, number or weight
    repeats only what depends on it.

    After an interruption, run the same command again.
    """
    from ...analysis.diffult.order import make_order
    from ...analysis.diffult.pipeline import Pipeline
    from ...tuning.chosen import load_recipe
    from ..status_line import StatusLine

    config = store.overrides(overrides or [])
    known, default, point = load_recipe(recipe, config, chosen)
    order, resolved = make_order(
        known,
        default,
        overrides or [],
        run=run,
        model=model,
        arms=arms,
        controls=controls,
        seeds=seeds,
        workers=workers_of(workers),
        chosen=point,
    )
    if on:
        options = ["--model", model] if model else ["--run", order.run]
        options += ["--chosen", chosen] if chosen else []
        _on_cluster(
            order, resolved, [*options, "--workers", workers or "all"], on, dry_run, as_json, yes
        )
        return
    pipeline = Pipeline(order, stderr_console.print, dry_run)
    if dry_run:
        _show_plan(pipeline, resolved, as_json)
        return

    from ...api.documents import diffult_document
    from ..diffult_outcome import print_result

    with StatusLine(stderr_console, pipeline.status):
        result = pipeline.run()
    if result.note:
        stderr_console.print(result.note)
    if as_json:
        print_warnings(result.document["warnings"])
        print_json(diffult_document(result))
        return
    print_result(result)
    words = ["whipray", "diffult", recipe, *(["--model", model] if model else ["--run", order.run])]
    words += [*(["--arms", arms] if arms else []), *([] if controls else ["--no-controls"])]
    words += ["--seeds", str(seeds), *store.words]
    others = ["balancing.filter.probability=1e-3", "classification.generated_weight=0.3"]
    next_commands(
        # What was chosen on other images is not to be changed by what the test images say.
        *([*words, *_without(overrides or [], o), o] for o in ([] if chosen else others)),
        ["whipray", "evaluate", order.run, *store.words],
    )


def _without(overrides: list[str], other: str) -> list[str]:
    """Return the overrides but for one of the same key as `other`."""
    key = f"{other.partition('=')[0]}="
    return [given for given in overrides if not given.startswith(key)]


def _show_plan(pipeline: Pipeline, resolved: Resolved[Experiment], as_json: bool) -> None:
    """Print the steps, what of each exists, and the time to expect."""
    from ...analysis.diffult.plan import Plan
    from ...runs.notes import describe_data, find_warnings
    from ...runs.preflight import find_problems
    from ...runs.single_run import SingleRun
    from ..diffult_outcome import describe_order
    from ..plan import show_plan

    order = pipeline.order
    facts: dict[str, Any] = {**describe_order(order)}
    problems: list[Problem] = []
    warnings: list[str] = []
    if not order.is_trained:
        subject = SingleRun(order.run, order.experiment).subject(dry_run=True)
        problems, warnings = find_problems(subject), find_warnings(subject)
        facts["data"] = describe_data(subject) or "cannot be used"
    if not problems:
        try:
            plan = Plan.of(pipeline)
            facts |= (
                {"pipeline": plan.steps(), "seconds": plan.seconds} if as_json else plan.lines()
            )
        except Problem as problem:
            problems.append(problem)
    show_plan(resolved, facts, problems, as_json, warnings)


def _on_cluster(
    order: Order,
    resolved: Resolved[Experiment],
    options: list[str],
    on: str,
    dry_run: bool,
    as_json: bool,
    yes: bool,
) -> None:
    """Send the pipeline to a cluster, or print what would be sent."""
    from ...analysis.diffult.order import repeated_keys
    from ...analysis.diffult.plan import work_in_training_images
    from ...launching.shared_config import describe_data_paths
    from ...launching.tasks import diffult_task
    from ...runs.preflight import ELSEWHERE, find_problems
    from ...runs.single_run import SingleRun
    from ..diffult_outcome import describe_order
    from ..plan import show_plan, training_facts
    from ..remote import outlook, send

    options = [*options, "--seeds", str(order.seeds), "--arms", ",".join(order.arms)]
    images = work_in_training_images(order)
    task = diffult_task(order.run, resolved.value, options, images, repeated_keys(order))
    facts: dict[str, Any] = {**describe_order(order)}
    if paths := describe_data_paths(resolved.value):
        facts["data"] = paths
    subject = SingleRun("checked", order.experiment).subject(dry_run=True)
    problems = [] if order.is_trained else find_problems(subject, ELSEWHERE)
    if dry_run:
        show_plan(resolved, {**facts, **outlook(on, task)}, problems, as_json)
        return
    if problems:
        raise combine(problems)
    send(on, task, {**facts, **training_facts(resolved.value)}, as_json, yes)
