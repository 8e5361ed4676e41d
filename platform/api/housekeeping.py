"""What a store holds, and housekeeping in it, with the functions behind `whipray runs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..storage.store import Storage
from .documents import garbage_document, removal_document, runs_document
from .stores import open_store

if TYPE_CHECKING:
    from ..tracking.versions import Version


def runs(*, storage: Storage | str | None = None, tracking: str | None = None) -> dict[str, Any]:
    """Return the store's runs and sweeps with their state, main metric, size and registered versions.

    Args:
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Returns:
        the document that `whipray runs list --json` prints.
    """
    from ..housekeeping.inventory import Inventory
    from ..housekeeping.listing import list_runs

    inventory = Inventory(open_store(storage))
    return runs_document(
        inventory, list_runs(inventory, _known_versions(inventory.root, tracking) or [])
    )


def show_run(
    run: str, *, storage: Storage | str | None = None, tracking: str | None = None
) -> dict[str, Any]:
    """Return what a run is: its data and settings, checkpoints, evaluations, sizes and pages.

    Args:
        run: a run, SWEEP/TRIAL, or a sweep.
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Returns:
        the document that `whipray runs show --json` prints.

    Raises:
        UsageProblem: no such run.
    """
    from ..housekeeping.details import describe
    from ..housekeeping.inventory import Inventory

    inventory = Inventory(open_store(storage))
    return describe(inventory, inventory.find(run), _known_versions(inventory.root, tracking) or [])


def remove_runs(
    runs: Sequence[str], *, storage: Storage | str | None = None, tracking: str | None = None
) -> dict[str, Any]:
    """Remove runs and sweeps from the store, and mark them as deleted in MLflow; nothing is asked.

    Args:
        runs: runs, SWEEP/TRIAL, or sweeps.
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Returns:
        the document that `whipray runs rm --json` prints.

    Raises:
        UsageProblem: no such run, or one that a registered version, a process or another run needs; then
            nothing is removed.
    """
    from ..housekeeping.inventory import Inventory
    from ..housekeeping.records import Records
    from ..housekeeping.removal import plan_removal

    inventory = Inventory(open_store(storage))
    removal = plan_removal(inventory, list(runs), _known_versions(inventory.root, tracking) or [])
    removal.execute(Records(inventory.root, tracking))
    return removal_document(removal)


def rename_run(
    run: str, new: str, *, storage: Storage | str | None = None, tracking: str | None = None
) -> None:
    """Rename a run, in the store and in MLflow.

    Args:
        run: its name.
        new: its new name.
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Raises:
        UsageProblem: no such run, or the name is taken or cannot be one.
    """
    from ..housekeeping import renaming
    from ..housekeeping.inventory import Inventory
    from ..housekeeping.records import Records

    inventory = Inventory(open_store(storage))
    records = Records(inventory.root, tracking)
    renaming.rename_run(
        inventory, run, new, records, _known_versions(inventory.root, tracking) or []
    )


def export_model(
    reference: str,
    folder: str | Path,
    *,
    storage: Storage | str | None = None,
    tracking: str | None = None,
) -> Path:
    """Write a model with its model card to a new folder, which `load_model` takes anywhere.

    Args:
        reference: a run, SWEEP/TRIAL, or models:/NAME@ALIAS.
        folder: a new one, or an empty one.
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Returns:
        the folder.

    Raises:
        UsageProblem: no such run or model, or the folder holds something.
    """
    from ..housekeeping import export

    export.export_model(open_store(storage), tracking, reference, Path(folder))
    return Path(folder)


def collect_garbage(
    *, free: bool = False, storage: Storage | str | None = None, tracking: str | None = None
) -> dict[str, Any]:
    """Return what nothing refers to any more, with sizes.

    Args:
        free: remove it.
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Returns:
        the document that `whipray runs gc --json` prints.
    """
    from ..housekeeping.garbage import find_garbage
    from ..housekeeping.inventory import Inventory

    inventory = Inventory(open_store(storage))
    garbage = find_garbage(inventory, _known_versions(inventory.root, tracking))
    if free:
        for each in garbage:
            each.free(inventory.root)
    return garbage_document(garbage, free)


def _known_versions(root: Storage, tracking: str | None) -> list[Version] | None:
    """Return all registered versions; None where nothing was recorded yet."""
    from ..config.tracking import TrackingConfig
    from ..tracking.records import known_versions

    return known_versions(TrackingConfig(uri=tracking), root)
