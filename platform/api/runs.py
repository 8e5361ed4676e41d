"""Train, search and evaluate from Python, with the functions behind the commands of the same names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import experiment as experiments
from ..config.experiment import Experiment
from ..config.paths import with_absolute_paths
from ..storage.store import Storage
from .documents import evaluation_document, run_document, sweep_document
from .stores import open_store


def load_experiment(recipe: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment of a recipe; relative paths in it are those of the present folder.

    Args:
        recipe: a packaged recipe's name, or a YAML file.
        overrides: `key=value`, as on the command line: `["objective.tau=1.5"]`.

    Raises:
        UsageProblem: no such recipe, or a key or value that the config refuses.
    """
    return with_absolute_paths(experiments.load_experiment(str(recipe), list(overrides)).value)


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

    single = SingleRun(experiment.name if run is None else run, experiment)
    result = single.execute()
    return run_document(single, result)


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
    from ..tuning.champion import register_best
    from ..tuning.sweep import plan_sweep

    _, planned = plan_sweep(str(space), str(recipe), list(overrides), name)
    planned.check_identity(resume)
    result = planned.run()
    champion = register_best(planned, result)
    return sweep_document(planned, result, champion)


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
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Returns:
        the document that `whipray evaluate --json` prints: metrics, provenance, report and others.

    Raises:
        UsageProblem: no such run or model, or an override of anything else.
    """
    from ..analysis.target import evaluate_run

    result = evaluate_run(open_store(storage), tracking, reference, overrides, lambda _line: None)
    return evaluation_document(result)
