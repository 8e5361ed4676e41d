"""whipray train: one training, evaluated and recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..options import DryRun, Json, On, Overrides, Recipe, Yes
from ..output import metrics_table, next_commands, print_json, stderr_console, stdout_console

if TYPE_CHECKING:
    from ...config.experiment import Experiment
    from ...config.layers import Resolved


def train(
    recipe: Recipe,
    overrides: Overrides = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Name of the run; default: the recipe's name.")
    ] = None,
    on: On = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train one model, evaluate it and record both. The same command goes on where it stopped."""
    from ...config.experiment import load_experiment

    resolved = load_experiment(recipe, overrides or [])
    experiment = resolved.value
    name = run or Path(recipe).stem
    if dry_run:
        show_plan(resolved, {"run": name, "trainings": 1}, as_json)
        return
    if on:
        from ...launching.launch import train_task
        from ..remote import send

        task = train_task(name, experiment)
        send(on, task, {"run": name, **size(experiment)}, as_json, yes)

    from ...runs.single_run import SingleRun
    from ..status_line import StatusLine

    single = SingleRun(name, experiment)
    with StatusLine(stderr_console, single.status):
        finished = single.execute()
    assert finished.best is not None
    for note in finished.trained.notes:
        stderr_console.print(note, markup=False)
    page = single.store.uri_of(f"{finished.best.folder}/report.html")
    if as_json:
        print_json({"run": name, "mlflow_run": single.run_id, **finished.summary(), "report": page})
        return
    stdout_console.print(metrics_table(finished.best.metrics))
    stderr_console.print(f"\nreport  {page}", markup=False)
    stderr_console.print(
        f"grid    {single.store.uri_of(finished.best.folder + '/grid.png')}", markup=False
    )
    next_commands(
        f"whipray evaluate {name} sampling.omega=1.5",
        f"whipray sample {name} --per-class 8 --out samples.png",
        "whipray ui",
    )


def show_plan(resolved: Resolved[Experiment], plan: dict[str, Any], as_json: bool) -> None:
    """The resolved config with origins, and what would run."""
    from ...config.layers import flatten, render

    experiment = resolved.value
    facts = {**plan, **size(experiment)}
    if as_json:
        print_json({"plan": facts, "config": flatten(experiment), "origins": resolved.origins})
        return
    stdout_console.print(render(resolved, colour=stdout_console.is_terminal), markup=False, end="")
    stderr_console.print("\nwould run:")
    for key, value in facts.items():
        stderr_console.print(f"  {key:<12}{value}", markup=False)


def size(experiment: Experiment) -> dict[str, Any]:
    """What a training is, in a few lines."""
    loop, scaling, objective = experiment.training, experiment.scaling, experiment.objective
    start = experiment.start
    steps = -(-loop.images // loop.batch_size)
    return {
        "objective": f"call over {objective.base.name}"
        if objective.name == "call"
        else objective.name,
        **({"starts from": f"{start.model}{', LoRA' if start.lora else ''}"} if start else {}),
        "steps": f"{steps:,} of {loop.batch_size} images",
        "workers": f"{scaling.workers} x {scaling.cpus_per_worker} CPU, "
        f"{scaling.gpus_per_worker:g} GPU, ZeRO {experiment.engine.zero_stage}, "
        f"{experiment.engine.precision}",
        "storage": experiment.storage.uri,
    }
