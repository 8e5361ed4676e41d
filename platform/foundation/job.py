"""Whether this process drives a job on a cluster.

A job's driver trains on Ray's workers, never in its own process: the head may have no GPU.
"""

from __future__ import annotations

import os

_VARIABLE = "WHIPRAY_JOB"


def enter_cluster_job(name: str) -> None:
    """Mark this process, and those that it starts, as the driver of a job."""
    os.environ[_VARIABLE] = name


def in_cluster_job() -> bool:
    """Return whether this process drives a job on a cluster."""
    return _VARIABLE in os.environ
