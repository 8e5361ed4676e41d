"""whipray ui: MLflow's pages of the store's runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from typing import Annotated

import typer

from ....trainers.errors import Problem
from ..consoles import stderr_console
from ..exit_codes import INTERRUPTED
from ..stores import StoreOptions, with_store_options

HOST = "127.0.0.1"


@with_store_options
def ui(
    store: StoreOptions,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Local port.")] = 5000,
    open_page: Annotated[bool, typer.Option("--open", help="Open them in a browser.")] = False,
) -> None:
    """Show MLflow's pages of the store's runs, until Ctrl-C."""
    from ...foundation.text import without_login
    from ..status_line import StatusLine

    tracker = store.open_tracker()
    # MLflow begins at a page on language models; these are the runs, as trainings of models.
    runs = f"#/experiments/{tracker.experiment_id}/runs?workflowType=machine_learning"
    if tracker.uri.startswith(("http://", "https://")):
        page = f"{without_login(tracker.uri).rstrip('/')}/{runs}"
        stderr_console.print(f"{page}: MLflow already runs there as a server")
        _open(page, open_page)
        return
    _require_free(port)
    page = f"http://{HOST}:{port}/{runs}"
    server = _start(tracker.uri, port)
    try:
        with StatusLine(stderr_console, "starting MLflow"):
            _wait_until_it_answers(server, port)
        stderr_console.print(f"{page} shows the runs; Ctrl-C stops it")
        _open(page, open_page)
        server.wait()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        server.terminate()
        server.wait()
    raise Problem("MLflow's server has ended", "its own lines are above")


def _require_free(port: int) -> None:
    """Check that the port can be listened on.

    Raises:
        Problem: it cannot; it names one that can.
    """
    with socket.socket() as wanted, socket.socket() as other:
        wanted.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            wanted.bind((HOST, port))
        except OSError as error:
            other.bind((HOST, 0))
            raise Problem(
                f"port {port} cannot be used ({error.strerror})",
                f"give another one: --port {other.getsockname()[1]}",
            ) from error


def _start(uri: str, port: int) -> subprocess.Popen[bytes]:
    """Start MLflow's server; `open_tracker` has set what it reads from the environment."""
    # MLflow 3.17 starts eight more processes for background jobs, whose features we do not use.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # from MLflow's own dependencies
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    quiet = ["--workers", "1", "--uvicorn-opts", "--log-level=warning"]
    return subprocess.Popen([*command, "--host", HOST, "--port", str(port), *quiet])


def _wait_until_it_answers(server: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the server answers, or has ended."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=10):
                return
        except OSError:
            time.sleep(0.2)


def _open(page: str, wanted: bool) -> None:
    if wanted and not webbrowser.open(page):
        stderr_console.print("no browser was found")
