"""Whether this process runs in a job of a cluster."""

from __future__ import annotations

JOB_ENVIRONMENT = "WHIPRAY_JOB"
"""Set in a job's driver: its name. Whoever runs in a job trains on Ray's workers, not in itself."""
