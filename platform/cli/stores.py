"""The store and the tracking server that a command's options name."""

from __future__ import annotations

from typing import Any

from ...trainers.errors import UsageProblem
from ..config.experiment import TrackingConfig
from ..storage.config import StorageConfig
from ..storage.store import Storage
from ..tracking.mlflow_runs import Tracker


def open_storage(uri: str | None, endpoint: str | None) -> Storage:
    """The store of the options, or the default folder."""
    return Storage(store_config(uri, endpoint))


def store_config(uri: str | None, endpoint: str | None) -> StorageConfig:
    """What the options say of the store.

    Raises:
        UsageProblem: no folder, bucket or address.
    """
    given: dict[str, Any] = {"uri": uri} if uri else {}
    if endpoint:
        given["endpoint_url"] = endpoint
    try:
        return StorageConfig.model_validate(given)
    except ValueError as error:
        raise UsageProblem(
            f"--storage or --endpoint: {error}".splitlines()[0], "give a folder or s3://bucket"
        ) from error


def open_tracker(uri: str | None, endpoint: str | None, tracking: str | None) -> Tracker:
    """MLflow of the options."""
    return Tracker(TrackingConfig(uri=tracking), open_storage(uri, endpoint))
