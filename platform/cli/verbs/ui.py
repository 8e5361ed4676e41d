"""whipray ui: MLflow's UI on the store's runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from ..consoles import stderr_console
from ..stores import StoreOptions, with_store_options


@with_store_options
def ui(
    store: StoreOptions,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Local port.")] = 5000,
) -> None:
    """Open MLflow's UI on the store's runs."""
    from ...config.experiment import TrackingConfig
    from ...foundation.text import redact
    from ...tracking.server import configure_mlflow, require_records, tracking_uri

    uri = tracking_uri(TrackingConfig(uri=store.tracking), store.open())
    if uri.startswith(("http://", "https://")):
        stderr_console.print(f"open {redact(uri)}: MLflow already runs there as a server")
        return
    require_records(uri)
    configure_mlflow()
    stderr_console.print(f"http://127.0.0.1:{port} shows {redact(uri)}; Ctrl-C stops it")
    # MLflow 3.17 starts eight more processes for background jobs, whose features we do not use.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # from MLflow's own dependencies
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [*command, *arguments])
