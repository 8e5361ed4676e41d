"""The `tracking:` block of a config."""

from __future__ import annotations

from pydantic import field_validator

from ...trainers.config import Config
from ..foundation.addresses import check_no_secret

VARIABLE = "MLFLOW_TRACKING_URI"


class TrackingConfig(Config):
    """The MLflow server. A password belongs in MLFLOW_TRACKING_PASSWORD, never in a config."""

    uri: str | None = None
    """None: MLFLOW_TRACKING_URI, `tracking` in whipray.toml, or an SQLite file beside the runs. An address with a login, options or
    a fragment is refused: the config is stored with every run."""
    experiment: str = "whipray"
    system_metrics: bool = True
    """Log usage of CPU, memory, disk, network and GPU with every run."""

    @field_validator("uri")
    @classmethod
    def _plain_address(cls, uri: str | None) -> str | None:
        return uri and check_no_secret(
            uri,
            "tracking.uri",
            "give the address alone, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; "
            "a database's address belongs into MLFLOW_TRACKING_URI",
        )
