"""Which libraries may log."""

from __future__ import annotations

import logging


def quiet_logs() -> None:
    """Libraries talk when something is wrong; Tune not even then: the study holds the reason."""
    for name in ("ray", "ray.train", "alembic", "mlflow", "DeepSpeed", "botocore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
