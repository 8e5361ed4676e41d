"""Two commands that train one run, in a folder and in a bucket."""

from __future__ import annotations

import re
import socket
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from support.marks import MLFLOW_WARNINGS
from support.servers import Server
from support.shell import TINY, WAIT_S, Shell
from support.tracking import statuses

pytestmark = [
    pytest.mark.slow,
    pytest.mark.faults,
    *MLFLOW_WARNINGS,
]


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_of_two_that_start_at_once_one_trains_and_a_killed_one_is_replaced(
    kind: str, tmp_path: Path, moto: Server
) -> None:
    shell = Shell(tmp_path)
    runs = tmp_path / "whipray-runs"
    runs.mkdir()
    store = [f"storage.uri={runs}"]
    if kind == "bucket":
        shell.environment |= moto.environment()
        moto.make_bucket("one-writer")
        store = ["storage.uri=s3://one-writer/store", f"storage.endpoint_url={moto.endpoint}"]
    command = [
        "train",
        "digits-demo",
        "--run",
        "r",
        *store,
        f"tracking.uri=sqlite:///{runs}/mlflow.db",
    ]
    endless = [*TINY, "training.images=640000", "training.checkpoint_every_images=640000"]

    rivals = [shell.start(*command, *endless) for _ in range(2)]
    try:
        refused = first_to_end(rivals)
        (trains,) = (rival for rival in rivals if rival is not refused)
        _, err = refused.communicate()
        assert refused.returncode == 2, err
        holder = (
            f"process {trains.pid} on {re.escape(socket.gethostname())}, since 20.* is training"
        )
        assert re.search(holder, err), err
        deadline = time.monotonic() + WAIT_S
        while not has_a_run(runs / "mlflow.db"):
            assert trains.poll() is None
            assert time.monotonic() < deadline
            time.sleep(1)
    finally:
        for rival in rivals:
            rival.kill()
            rival.communicate()

    code, _, err = shell.run(*command, *TINY, "training.images=640")
    assert code == 0, err
    assert statuses(tmp_path) == {"run/r": "FINISHED"}


def has_a_run(database: Path) -> bool:
    """Return whether MLflow has a run; reads only, since the command may be making the tables."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return bool(connection.execute("select count(*) from runs").fetchone()[0])
    except sqlite3.OperationalError:
        return False


def first_to_end(rivals: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for rival in rivals:
            if rival.poll() is not None:
                return rival
        time.sleep(0.1)
    raise AssertionError("both train")
