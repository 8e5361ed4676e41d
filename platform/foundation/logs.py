"""Which log lines are shown."""

from __future__ import annotations

import logging
import sys

_VERBOSE = "whipray-verbose"
"""Name of the handler by which all lines are shown."""


def quiet_logs() -> None:
    """Silence third-party loggers below WARNING; Tune below CRITICAL: the study records failures.

    Nothing happens with `whipray --verbose`.
    """
    if verbose():
        return
    for name in ("ray", "ray.train", "alembic", "mlflow", "DeepSpeed", "botocore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def show_all_logs() -> None:
    """Show the lines of all libraries from INFO on, with their times, on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name(_VERBOSE)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)


def verbose() -> bool:
    """Return whether this process shows all lines."""
    return any(handler.get_name() == _VERBOSE for handler in logging.getLogger().handlers)
