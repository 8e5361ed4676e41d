"""Fixtures that several test files share: real servers and a really small disk."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import pytest

sys.path.append(str(Path(__file__).parent))  # for `support`, which is no package of its own

from support.servers import MLflowServer, Moto, Postgres, Server, Swift

from whipray.platform.foundation.environment import environment

# A shell starts background jobs with Ctrl-C ignored, and whatever they start inherits that: the
# commands that are interrupted here would not notice. So does `nohup` with a terminal that is closed.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--minutes", type=float, default=math.inf, help="skip slow tests that would begin later"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick ones first, and what is there to be broken last."""
    marks = ("slow", "faults")
    items.sort(key=lambda item: [item.get_closest_marker(mark) is not None for mark in marks])


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--minutes")
    if item.get_closest_marker("slow") and time.monotonic() - BEGAN > 60 * minutes:
        pytest.skip(f"{minutes:g} minutes are over: `make test` runs it")


@pytest.fixture(autouse=True)
def _own_endpoint() -> Iterator[None]:
    """A process keeps the endpoint of the last store that it loaded images for; the next test has none."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_REGION")
    with environment({name: os.environ.get(name) for name in names}):
        yield


def running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An S3 server in memory, which accepts every key."""
    yield from running(Moto(tmp_path_factory.mktemp("moto")))


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An S3 server on disk, which checks keys and survives a kill."""
    if not Swift.venv.exists():
        pytest.skip("OpenStack Swift is not installed in .venv-s3")
    yield from running(Swift(tmp_path_factory.mktemp("swift")))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server."""
    binaries = Postgres.binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed")
    if find_spec("psycopg2") is None:
        pytest.skip("psycopg2 is not installed")
    folder = Path(mkdtemp(prefix="whipray-postgres-"))  # pytest's own folders are root's alone
    server = Postgres(folder, binaries)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def mlflow_server(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MLflowServer]:
    """MLflow with basic auth on PostgreSQL."""
    if find_spec("flask_wtf") is None:
        pytest.skip("MLflow's basic auth needs mlflow[auth]")
    server = MLflowServer(tmp_path_factory.mktemp("mlflow"), postgres)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for one MiB."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
