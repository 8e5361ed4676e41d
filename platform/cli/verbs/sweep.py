"""whipray sweep: tune hyperparameters over many trainings and register the best model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ....trainers.errors import combine
from .. import completion
from ..consoles import (
    next_commands,
    print_error,
    print_json,
    print_warnings,
    stderr_console,
    stdout_console,
)
from ..exit_codes import FAILURE
from ..options import DryRun, Json, On, Overrides, Yes
from ..stores import StoreOptions, options_of, with_store_options

if TYPE_CHECKING:  # imported on use, so that `--help` is quick
    from ...tuning.champion import Champion
    from ...tuning.sweep import Sweep
    from ...tuning.sweep_result import SweepResult

LEGEND = """
kid, fid: lower is better; agreement: share of images that a classifier trained on real images
assigns to their class; [95 % interval]. Compare only values of one extractor and reference set."""
LEGEND_OF_CLASSIFIERS = """
accuracy: of classifiers trained on real and generated images, every class alike; [95 % interval].
Compare only values on the same real images."""

SpaceName = Annotated[
    str,
    typer.Argument(
        help="Name of a search space, or a YAML file.",
        metavar="SPACE",
        autocompletion=completion.spaces,
    ),
]


@with_store_options
def sweep(
    space_name: SpaceName,
    store: StoreOptions,
    overrides: Overrides = None,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="Name of a recipe, or a YAML file.",
            autocompletion=completion.recipes,
        ),
    ] = "digits-lt",
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the sweep; default: the space's and the recipe's."),
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Number of trials, besides baselines.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the sweep of this name if it exists.")
    ] = False,
    on: On = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Tune a search space and register the best model as @champion.

    Hyperparameters are tuned by training, guidance by sampling from each trial's checkpoint.
    """
    from ...runs.notes import describe_data, find_warnings
    from ...runs.preflight import ELSEWHERE
    from ...tuning.sweep import plan_sweep
    from ..plan import show_plan, training_facts

    options = [f"tuning.trials={trials}"] if trials is not None else []
    given = [*options, *store.overrides(overrides or [])]
    resolved, planned = plan_sweep(space_name, recipe, given, name)
    planned.on_note = stderr_console.print
    experiment = resolved.value
    if on:
        from ...launching.shared_config import describe_data_paths
        from ...launching.tasks import sweep_task
        from ..remote import outlook, send

        task = sweep_task(planned.name, experiment, planned.space, resume)
        problems = planned.points.find_problems(planned.subject(dry_run=True), ELSEWHERE)
        plan = _plan(planned, resume)
        if paths := describe_data_paths(experiment):
            plan["data"] = paths
        if not dry_run:
            if problems:
                raise combine(problems)
            send(on, task, {**plan, **training_facts(experiment)}, as_json, yes)
        show_plan(resolved, {**plan, **outlook(on, task)}, problems, as_json)
        return
    exists = planned.check_identity(resume)
    if dry_run:
        subject = planned.subject(dry_run=True)
        problems = planned.points.find_problems(subject)
        facts = {**_plan(planned, exists), "data": describe_data(subject) or "cannot be used"}
        show_plan(resolved, facts, problems, as_json, find_warnings(subject))
        return

    from ...api.documents import sweep_document
    from ...tuning.champion import register_best
    from ..status_line import StatusLine

    with StatusLine(stderr_console, planned.status.text):
        result = planned.run()
        champion = register_best(planned, result)
    document = sweep_document(planned, result, champion)
    if (problem := result.problem) is not None:
        # One document: it has the error and the trials, whose reasons differ.
        document["error"] = {"code": FAILURE, "message": problem.what, "hint": problem.fix}
    if champion is not None:
        print_warnings(champion.warnings)
    if as_json:
        print_json(document)
    else:
        _print_result(planned, result, champion)
    if champion is None or problem is not None:
        assert problem is not None  # the two go together
        print_error(problem.what, problem.fix, FAILURE, as_json=False)
        raise typer.Exit(FAILURE)
    if not as_json:
        where = options_of(experiment).words
        tail = ["--classes", champion.rarest_class, "--per-class", "16", "--out", "tail.png"]
        again = ["whipray", "sweep", space_name, "--recipe", recipe, "--name", planned.name]
        more = ["--trials", str(2 * experiment.tuning.trials), "--resume"]
        chosen = ["whipray", "diffult", recipe, "--chosen", planned.name, *store.words]
        next_commands(
            # A search on validation images ends with one look at the test images.
            *([] if experiment.data.validation is None else [chosen]),
            ["whipray", "ui", *where],
            ["whipray", "sample", _best_uri(champion), *tail, *where],
            [*again, *more, *(overrides or []), *store.words],
        )


def _plan(planned: Sweep, exists: bool) -> dict[str, Any]:
    """Return what the sweep would do, by subject."""
    experiment, space = planned.experiment, planned.space
    size = space.size("sample")
    points = experiment.tuning.sample_points
    pretraining = {}
    if space.pretrain is not None and planned.points.has_pretraining:
        images = experiment.training.images
        once = space.pretrain.images_of(images)
        text = f"{once:,} images once, then {images - once:,} in each training"
        pretraining = {"pre-training": text}
    return {
        "sweep": f"{planned.name} ({'resumed' if exists else 'new'})",
        **pretraining,
        "trials": experiment.tuning.trials,
        "baselines": ", ".join(baseline.name for baseline in space.baselines) or "none",
        "searched": ", ".join(space.train),
        "seed points": len(space.seed_points),
        "sample level": f"{min(points, size) if size else points} points on each checkpoint "
        f"({', '.join(space.sample) or 'none searched'}), without training",
    }


def _print_result(planned: Sweep, result: SweepResult, champion: Champion | None) -> None:
    """Print the table of trials, and which model was registered."""
    from ...evaluation.goal import Goal
    from ...evaluation.metrics import METRIC_OF
    from ..tables import describe_trial, sweep_table

    best = result.best["number"] if result.best else None
    rank_by = planned.experiment.evaluation.rank_by
    table, left_out = sweep_table(result.rows, rank_by, best, stdout_console.width)
    stdout_console.print(table)
    is_accuracy = METRIC_OF[Goal.parse(rank_by).metric].from_classifiers
    stderr_console.print(LEGEND_OF_CLASSIFIERS if is_accuracy else LEGEND)
    if left_out:
        stderr_console.print(f"no room on a line for {', '.join(left_out)}: --json has them")
    if champion is None or result.best is None:
        return
    stderr_console.print(
        f"\nbest  trial {best} ({describe_trial(result.best)}) is {_best_uri(champion)}"
    )
    if champion.reason_not_promoted:
        version = champion.version
        promote = f"whipray models {version.name} --champion {version.version}"
        stderr_console.print(
            f"      {champion.reason_not_promoted};\n      `{promote}` makes it the champion"
        )
    stderr_console.print(f"grid  {champion.grid}")
    stderr_console.print(f"      {champion.verdict.sentence}")


def _best_uri(champion: Champion) -> str:
    """Return the URI of the registered model, by its alias if it has become the champion."""
    version = champion.version
    return version.uri if champion.reason_not_promoted else f"models:/{version.name}@champion"
