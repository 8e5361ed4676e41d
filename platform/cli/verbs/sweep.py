"""whipray sweep: many trainings, the best one registered."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from ..options import DryRun, Json, On, Overrides, Yes
from ..output import next_commands, print_json, stderr_console, stdout_console, sweep_table, what
from .train import show_plan, size


def sweep(
    space_name: Annotated[
        str, typer.Argument(help="A search space's name or a YAML file.", metavar="SPACE")
    ],
    overrides: Overrides = None,
    recipe: Annotated[
        str, typer.Option("--recipe", help="A recipe's name or a YAML file.")
    ] = "digits-lt",
    name: Annotated[
        str | None, typer.Option("--name", help="Of the sweep; default: space and recipe.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Searched trainings.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep of this name, if there is one.")
    ] = False,
    on: On = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Search a space by training, guidance by sampling; register the best as @champion."""
    from ...config.experiment import load_experiment
    from ...config.layers import Layer
    from ...config.space_files import load_space

    space = load_space(space_name)
    layers = [Layer(f"space {space_name}", space.base)]
    asked = [f"tuning.trials={trials}"] if trials is not None else []
    resolved = load_experiment(recipe, [*asked, *(overrides or [])], layers)
    experiment = resolved.value
    sweep_name = name or f"{space_name.rpartition('/')[2].removesuffix('.yaml')}-{experiment.name}"

    from ...tuning.sweep import Sweep

    planned = Sweep(sweep_name, experiment, space)
    planned.check_points()
    if on and not dry_run:
        from ...launching.launch import sweep_task
        from ..remote import send

        task = sweep_task(sweep_name, experiment, space, resume)
        send(on, task, {**_plan(planned, resume), **size(experiment)}, as_json, yes)
    known = planned.check_identity(resume)
    if dry_run:
        show_plan(resolved, _plan(planned, known), as_json)
        return

    from ...tuning.champion import register_best
    from ..status_line import StatusLine

    with StatusLine(stderr_console, planned.status.text):
        result = planned.run()
        champion = register_best(planned, result)
    rank_by = experiment.evaluation.rank_by
    best = result.best["number"] if result.best else None
    grid = champion.grid if champion else None
    if as_json:
        print_json(
            {
                "sweep": sweep_name,
                "mlflow_run": result.parent.run_id,
                "rank_by": rank_by,
                "trials": result.rows,
                "best": best,
                "model": champion.version.uri if champion else None,
                "champion": champion is not None and champion.stays is None,
                "grid": grid,
            }
        )
    else:
        stdout_console.print(sweep_table(result.rows, rank_by, best))
        stderr_console.print(
            "\nkid, fid: lower is better; agreement: share of images that a classifier of the real "
            "images\nassigns to the class asked for; [95 % interval]. Compare only within one "
            "extractor and reference."
        )
    if champion is None or result.best is None:
        raise typer.Exit(1)
    if not as_json:
        version = champion.version
        alias = version.uri if champion.stays else f"models:/{version.name}@champion"
        stderr_console.print(f"\nbest  trial {best} ({what(result.best)}) is {alias}", markup=False)
        if champion.stays:
            promote = f"whipray models {version.name} --champion {version.version}"
            stderr_console.print(
                f"      {champion.stays};\n      `{promote}` changes that", markup=False
            )
        stderr_console.print(f"grid  {grid}", markup=False)
        next_commands(
            "whipray ui",
            f"whipray sample {alias} --classes 9 --per-class 16 --out tail.png",
            f"whipray sweep {space_name} --recipe {recipe} --name {sweep_name} "
            f"--trials {experiment.tuning.trials * 2} --resume {shlex.join(overrides or [])}".strip(),
        )


def _plan(planned: Any, known: bool) -> dict[str, Any]:
    experiment, space = planned.experiment, planned.space
    size = space.size("sample")
    points = experiment.tuning.sample_points
    return {
        "sweep": f"{planned.name} ({'resumed' if known else 'new'})",
        **_pretraining(planned),
        "trainings": f"{experiment.tuning.trials} searched",
        "baselines": ", ".join(baseline.name for baseline in space.baselines) or "none",
        "searched": ", ".join(space.train),
        "seed points": len(space.seed_points),
        "guidance": f"{min(points, size) if size else points} points on each checkpoint "
        f"({', '.join(space.sample) or 'none searched'}), no training",
    }


def _pretraining(planned: Any) -> dict[str, str]:
    if not planned.has_pretraining:
        return {}
    images = planned.experiment.training.images
    once = planned.space.pretrain.images_of(images)
    return {"pre-training": f"{once:,} images once, then {images - once:,} in each training"}
