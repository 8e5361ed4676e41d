"""Train, search and evaluate from Python, with the functions behind the commands of the same names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import experiment as experiments
from ..config.experiment import Experiment
from ..config.layers import Layer
from ..storage.store import Storage
from .stores import open_store


def load_experiment(recipe: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment of a recipe.

    Args:
        recipe: a packaged recipe's name, or a YAML file.
        overrides: `key=value`, as on the command line: `["objective.tau=1.5"]`.

    Raises:
        UsageProblem: no such recipe, or a key or value that the config refuses.
    """
    return experiments.load_experiment(str(recipe), list(overrides)).value


def train(experiment: Experiment, run: str | None = None) -> dict[str, Any]:
    """Train one model, evaluate it and record both; a run of this name is continued.

    Ctrl-C saves a checkpoint before it raises `KeyboardInterrupt`.

    Args:
        run: name of the run; None: the experiment's.

    Returns:
        the document that `whipray train --json` prints: run, checkpoint, metrics, sampling, report
        and others.

    Raises:
        Problem: the data, the store or MLflow cannot be used, the training diverged, or the run was
            begun with another experiment.
    """
    from ..runs.single_run import SingleRun

    single = SingleRun(run or experiment.name, experiment)
    result = single.execute()
    assert result.best is not None
    return {
        "run": single.name,
        "mlflow_run": single.run_id,
        **result.summary(),
        "report": single.store.uri_of(f"{result.best.folder}/report.html"),
    }


def sweep(
    space: str | Path,
    recipe: str | Path = "digits-lt",
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Search a space by training, guidance by sampling, and register the best model.

    Args:
        space: a packaged search space's name, or a YAML file.
        recipe: of every trial; the space's own `base:` and then `overrides` come on top.
        name: of the sweep; None: from space and recipe.
        resume: continue the sweep of this name if it exists.

    Returns:
        the document that `whipray sweep --json` prints: its `trials` are the rows of the table,
        `best` the number of the best trial, `model` its registered version; both None without a
        complete trial.

    Raises:
        Problem: as `train`; and a sweep of this name exists, or differs from this one.
    """
    from ..config.space_files import load_space
    from ..tuning.champion import register_best
    from ..tuning.sweep import Sweep

    read = load_space(str(space))
    layers = [Layer(f"space {space}", read.base)]
    experiment = experiments.load_experiment(str(recipe), list(overrides), layers).value
    planned = Sweep(name or f"{Path(space).stem}-{experiment.name}", experiment, read)
    planned.check_points()
    planned.check_identity(resume)
    result = planned.run()
    champion = register_best(planned, result)
    return {
        "sweep": planned.name,
        "mlflow_run": result.parent.run_id,
        "rank_by": experiment.evaluation.rank_by,
        "trials": result.rows,
        "best": result.best["number"] if result.best else None,
        "model": champion.version.uri if champion else None,
        "champion": champion is not None and champion.stays is None,
        "grid": champion.grid if champion else None,
    }


def evaluate(
    reference: str,
    overrides: Sequence[str] = (),
    *,
    storage: Storage | str | None = None,
    tracking: str | None = None,
) -> dict[str, Any]:
    """Compute every metric of a run or a registered model; existing images and results are kept.

    Args:
        reference: a run, SWEEP/TRIAL, or models:/NAME@ALIAS.
        overrides: of `sampling.*`, `evaluation.*` and `scaling.*`.
        storage: the store of the runs; None: ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Returns:
        the document that `whipray evaluate --json` prints: metrics, provenance, report and others.

    Raises:
        UsageProblem: no such run or model, or an override of anything else.
    """
    from ..analysis.target import evaluate_again, find_target
    from ..runs.run import record

    root = open_store(storage)
    target = find_target(root, tracking, reference, list(overrides))
    result, generated = evaluate_again(target, lambda _line: None)
    stored = target.place
    note = target.record(root, lambda run: record(run, stored.store, result, result.folder))
    return {
        "run": target.name,
        "checkpoint": stored.checkpoint,
        "metrics": result.metrics,
        "provenance": result.provenance,
        "images_generated": generated,
        "report": stored.store.uri_of(f"{result.folder}/report.html"),
        "note": note,
    }
