"""whipray ui: MLflow on the same store."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from ..options import StorageUri, TrackingUri
from ..output import stderr_console


def ui(
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 5000,
    storage: StorageUri = None,
    tracking: TrackingUri = None,
) -> None:
    """Open MLflow's pages on the runs: sweeps, trials, metrics, pictures, models."""
    from ...config.experiment import TrackingConfig
    from ...foundation.text import redact
    from ...tracking.mlflow_runs import tracking_uri
    from ..stores import open_storage

    uri = tracking_uri(TrackingConfig(uri=tracking), open_storage(storage, None))
    if uri.startswith(("http://", "https://")):
        stderr_console.print(f"MLflow is a server already: {redact(uri)}", markup=False)
        return
    stderr_console.print(
        f"http://127.0.0.1:{port} shows {redact(uri)}; Ctrl-C ends it", markup=False
    )
    # its background jobs serve features that we have no use for, with ten processes
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # of its own libraries
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [*command, *arguments])
