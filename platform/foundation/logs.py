"""Which third-party loggers may be heard."""

from __future__ import annotations

import logging


def quiet_logs() -> None:
    """Silence third-party loggers below WARNING; Tune below CRITICAL: the study records failures."""
    for name in ("ray", "ray.train", "alembic", "mlflow", "DeepSpeed", "botocore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
