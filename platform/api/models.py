"""Trained models, ready to generate images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...trainers.errors import UsageProblem
from ...trainers.model import Model, is_exported, open_model

if TYPE_CHECKING:  # a folder's model is loaded without the platform
    from ..storage.store import Storage


def load_model(
    reference: str | Path, *, storage: Storage | str | None = None, tracking: str | None = None
) -> Model:
    """Return an exported or registered model, or the model of a run's last checkpoint (its EMA weights).

    A folder is read with PyTorch, safetensors, pydantic and NumPy alone.

    Args:
        reference: a folder with an exported model, models:/NAME@ALIAS, models:/NAME/VERSION, a run, or
            SWEEP/TRIAL.
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Raises:
        UsageProblem: no such model or run, or what reads it is not installed.
        CheckpointProblem: a model that is not Whipray's, or a damaged checkpoint.
    """
    folder = Path(str(reference).removeprefix("file://"))
    if is_exported(folder) or is_exported(folder / "model"):
        return open_model(folder)
    try:
        from ..analysis.sample import load_target
        from .stores import open_store
    except ModuleNotFoundError as error:
        raise UsageProblem(
            f"{reference}: no folder with an exported model, and {error.name} is not installed, which "
            "runs and registered models need",
            "give a folder with model.json and model.safetensors, or install it all: pip install 'whipray[run]'",
        ) from error
    return Model(load_target(open_store(storage), tracking, str(reference)))
