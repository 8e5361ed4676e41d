"""Registered models: list them, and register that of a run."""

from __future__ import annotations

from typing import Any

from ..storage.store import Storage
from .documents import version_document
from .stores import open_store


def models(
    name: str | None = None, *, storage: Storage | str | None = None, tracking: str | None = None
) -> list[dict[str, Any]]:
    """Return the registered versions, by name, the newest of each first.

    Args:
        name: of one model; None: all models.
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Returns:
        `models` of the document that `whipray models --json` prints.

    Raises:
        UsageProblem: no model has this name.
    """
    from ..config.tracking import TrackingConfig
    from ..tracking import registry
    from ..tracking.tracker import open_existing_tracker

    tracker = open_existing_tracker(TrackingConfig(uri=tracking), open_store(storage))
    if name is not None:
        registry.resolve(tracker, f"models:/{name}")  # its error names the models that exist
    names = registry.names(tracker) if name is None else [name]
    return [version_document(v) for each in names for v in registry.versions(tracker, each)]


def register(
    run: str,
    name: str | None = None,
    *,
    alias: str | None = None,
    storage: Storage | str | None = None,
    tracking: str | None = None,
) -> dict[str, Any]:
    """Register the model of a run with its model card; what is registered already is found again.

    Args:
        run: a run, or SWEEP/TRIAL.
        name: of the model; None: the experiment's.
        alias: to point at the version, such as `champion`.
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: the run's.

    Returns:
        the document that `whipray register --json` prints; `uri` is the version's address.

    Raises:
        UsageProblem: no such run, or a name that cannot be one.
    """
    from ..analysis.register import register_run

    return version_document(register_run(open_store(storage), tracking, run, name, alias))
