"""Check that everything a run needs works."""

from __future__ import annotations

from typing import Any

from ..storage.store import Storage
from .stores import open_store


def doctor(
    *, ray: bool = False, storage: Storage | str | None = None, tracking: str | None = None
) -> list[dict[str, Any]]:
    """Check libraries, devices, memory, disk, the store and MLflow; a check that fails does not raise.

    Args:
        ray: check Ray too: attach to RAY_ADDRESS, or start a local Ray.
        storage: the store of the runs; None: WHIPRAY_STORAGE, or ./whipray-runs.
        tracking: MLflow's address; None: MLFLOW_TRACKING_URI, or beside the runs.

    Returns:
        `checks` of the document that `whipray doctor --json` prints: name, ok, detail and fix of each.
    """
    from ..config.tracking import TrackingConfig
    from ..diagnostics.doctor import checks
    from ..tracking.server import tracking_uri

    root = open_store(storage)
    uri = tracking_uri(TrackingConfig(uri=tracking), root)
    return [vars(check) for check in checks(root.config, uri, ray=ray)]
