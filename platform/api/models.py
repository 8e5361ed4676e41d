"""Trained models, ready to generate images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def sample(
    reference: str,
    out: str | Path = "samples.png",
    *,
    classes: Sequence[str] = ("all",),
    per_class: int = 10,
    omega: float | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    check_copies: bool = False,
    storage: Storage | str | None = None,
    tracking: str | None = None,
) -> dict[str, Any]:
    """Generate images into a file or a folder; `load_model(reference).sample()` gives arrays.

    Args:
        reference: a run, SWEEP/TRIAL, or models:/NAME@ALIAS.
        out: a .png file for a grid, or an empty folder for single images.
        classes: ids or names.
        per_class: images of each.
        omega: guidance strength; None: the model's.
        sampler: as `sampling.sampler.name`; None: the model's.
        steps: of the sampler; None: the model's.
        seed: of the noise.
        check_copies: compare them with all training images; a table beside `out` names the nearest.
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Returns:
        the document that `whipray sample --json` prints.

    Raises:
        UsageProblem: no such model or class, a setting out of range, or `out` cannot be written.
    """
    from ..analysis.sample_files import sample_files
    from .documents import samples_document
    from .stores import open_store

    samples = sample_files(
        open_store(storage),
        tracking,
        reference,
        Path(out),
        classes=list(classes),
        per_class=per_class,
        omega=omega,
        steps=steps,
        seed=seed,
        sampler=sampler,
        check_copies=check_copies,
    )
    return samples_document(reference, samples)
