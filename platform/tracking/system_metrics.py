"""CPU, memory, disk, network and GPU of a machine, in a run's metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .mlflow_runs import Run

SAMPLING_INTERVAL_S = 5
SAMPLES_PER_VALUE = 2
"""A value every ten seconds, 8,640 in a training of a day."""


@contextmanager
def log_system_metrics(run: Run, wanted: bool) -> Iterator[None]:
    """Log the metrics of this machine while inside, if wanted."""
    if not wanted:
        yield
        return
    import mlflow
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    mlflow.set_tracking_uri(run.uri)
    monitor = SystemMetricsMonitor(
        run.run_id,
        sampling_interval=SAMPLING_INTERVAL_S,
        samples_before_logging=SAMPLES_PER_VALUE,
        resume_logging=True,
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
