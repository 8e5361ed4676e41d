"""whipray train: train, evaluate and record one model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ....trainers.errors import Problem, combine
from ..consoles import print_json, print_warnings, stderr_console
from ..options import DryRun, Json, On, Overrides, Recipe, Yes
from ..pictures import layer_of_pictures, name_of_pictures, names_pictures
from ..stores import StoreOptions, options_of, with_store_options

if TYPE_CHECKING:  # imported on use, so that `--help` is quick
    from ...config.layers import Layer


@with_store_options
def train(
    recipe: Recipe,
    store: StoreOptions,
    overrides: Overrides = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Name of the run; default: the recipe's name.")
    ] = None,
    on: On = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train one model, evaluate it and record both.

    With a folder of class folders (./photos, photos/) or a .parquet file as RECIPE, the recipe is the one that
    `whipray init` proposes.

    After an interruption, run the same command again: it resumes from the last checkpoint.
    """
    from ...config.experiment import load_experiment
    from ...foundation.names import check_name
    from ...runs.notes import describe_data, find_warnings
    from ...runs.preflight import ELSEWHERE, find_problems
    from ...runs.single_run import SingleRun
    from ..plan import show_plan, training_facts

    start: str | Layer = recipe
    default = Path(recipe).stem
    if names_pictures(recipe):
        default = name_of_pictures(recipe)
        given = check_name(default if run is None else run, "a run")  # before a step is measured
        start = layer_of_pictures(recipe, given, store, on)
    resolved = load_experiment(start, store.overrides(overrides or []))
    experiment = resolved.value
    name = check_name(default if run is None else run, "a run")
    facts: dict[str, Any] = {"run": name}
    single = SingleRun(name, experiment, stderr_console.print)
    problems: list[Problem] = []
    if on:
        from ...launching.shared_config import describe_data_paths
        from ...launching.tasks import train_task
        from ..remote import outlook, send

        task = train_task(name, experiment)
        if paths := describe_data_paths(experiment):
            facts["data"] = paths
        problems = find_problems(single.subject(dry_run=True), ELSEWHERE)
        if not dry_run:
            if problems:
                raise combine(problems)
            send(on, task, {**facts, **training_facts(experiment)}, as_json, yes)
        facts |= outlook(on, task)
    if dry_run:
        subject, warnings = single.subject(dry_run=True), []
        if not on:
            problems, warnings = find_problems(subject), find_warnings(subject)
            facts["data"] = describe_data(subject) or "cannot be used"
        show_plan(resolved, {**facts, "trainings": 1}, problems, as_json, warnings)
        return

    from ...api.documents import run_document
    from ..outcome import print_outcome
    from ..status_line import StatusLine

    with StatusLine(stderr_console, single.status):
        finished = single.execute()
    assert finished.best is not None
    for note in finished.trained.notes:
        stderr_console.print(note)
    if as_json:
        print_warnings(finished.best.warnings)
        print_json(run_document(single, finished))
        return
    print_outcome(single, finished, options_of(experiment).words)
