"""Commands that begin in the same new folder at once."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from support import writers
from support.shell import WAIT_S

pytestmark = pytest.mark.slow


def test_all_processes_that_open_a_new_database_at_once_write_to_it(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    command = writers.start("runs", uri, "shared", count=3)
    done = subprocess.run(
        command,
        env=writers.environment(),
        timeout=WAIT_S,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with closing(sqlite3.connect(tmp_path / "runs" / "mlflow.db")) as database:
        runs = database.execute("SELECT status FROM runs").fetchall()
        experiments = database.execute("SELECT count(*) FROM experiments").fetchone()
    assert runs == [("FINISHED",)] * 3
    assert experiments == (2,)  # MLflow's own, and the one that all write to
