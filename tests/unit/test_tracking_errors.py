"""Databases and addresses that MLflow cannot use: one line each that says why and what to do."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.marks import MLFLOW_WARNINGS

from whipray.platform.config.tracking import TrackingConfig
from whipray.platform.diagnostics import doctor
from whipray.platform.storage import layout
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.errors import TrackingOutage, TrackingProblem
from whipray.platform.tracking.server import sqlite_file, tracking_uri
from whipray.platform.tracking.tracker import Tracker, open_tracker
from whipray.trainers.errors import Problem, UsageProblem

pytestmark = [*MLFLOW_WARNINGS]


def open_in(folder: Path) -> Tracker:
    return open_tracker(TrackingConfig(), Storage(StorageConfig(uri=str(folder))))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a database, to copy: to make one takes seconds."""
    folder = tmp_path_factory.mktemp("made")
    open_in(folder)
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def _no_other_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def write(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path: Path) -> None:
    path.write_bytes(b"not a database" * 999)


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def set_schema(version: str) -> Callable[[Path], None]:
    return lambda path: write(path, f"UPDATE alembic_version SET version_num = '{version}'")


@pytest.mark.parametrize(
    ("spoil", "what", "fix"),
    [
        (
            set_schema("451aebb31d03"),
            "was made by an older MLflow",
            r"mlflow db upgrade sqlite:///",
        ),
        (set_schema("deadbeef0000"), "was made by a newer MLflow", r"install the MLflow that made"),
        (cut, "is damaged, or was cut short", "restore it from a copy"),
        (overwrite, "is damaged, or was cut short", "restore it from a copy"),
        (replace_by_a_folder, "a folder, where MLflow's database belongs", "move it away"),
        (lambda path: write(path, "DROP TABLE runs"), "lacks tables of MLflow", "restore it"),
    ],
)
def test_a_database_that_cannot_be_used_says_why(
    made: Path, tmp_path: Path, spoil: Callable[[Path], None], what: str, fix: str
) -> None:
    path = Path(shutil.copy(made, tmp_path))
    spoil(path)
    with pytest.raises(Problem, match=rf"{path}:? {what}.* — .*{fix}") as caught:
        open_in(tmp_path).run("a", "a", {})
    assert not isinstance(caught.value, TrackingOutage)


def test_a_database_that_another_program_holds_may_be_had_later(made: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(made, tmp_path))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingOutage, match=rf"{path} is locked by another .*fuser {path}"):
            open_in(tmp_path)
    open_in(tmp_path)


def test_a_store_that_is_deleted_ends_its_run_at_once(made: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs"
    store.mkdir()
    path = Path(shutil.copy(made, store))
    run = open_in(store).run("a", "a", {})
    run.log_metrics({"loss": 1.0}, 1)
    run.flush()
    shutil.rmtree(store)
    run.log_metrics({"loss": 1.0}, 2)
    with pytest.raises(TrackingProblem, match=rf"{path} is gone: it was deleted or moved"):
        run.flush()
    with pytest.raises(TrackingProblem, match="is gone"):
        run.log_metrics({"loss": 1.0}, 3)


def test_a_full_disk_is_named_and_waited_for(made: Path, small_disk: Path) -> None:
    disk_size = shutil.disk_usage(small_disk).total
    path = Path(shutil.copy(made, small_disk))
    run = open_in(small_disk).run("a", "a", {})
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(disk_size))
    with pytest.raises(TrackingOutage, match=rf"{path} cannot grow: the disk at {small_disk} is"):
        run._write_metrics(many_metrics())
    filler.unlink()
    run._write_metrics(many_metrics())


def many_metrics() -> list[object]:
    from mlflow.entities import Metric

    return [Metric(f"metric-{number}", 0.5, 0, 0) for number in range(50)]


def test_a_deleted_experiment_says_how_to_have_it_back(made: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(made, tmp_path))
    tracker = open_in(tmp_path)
    tracker.client.delete_experiment(tracker.experiment_id)
    said = (
        rf"experiment whipray is deleted — .*restore -x {tracker.experiment_id}` .*or set tracking"
    )
    with pytest.raises(UsageProblem, match=said):
        open_in(tmp_path)
    storage = StorageConfig(uri=str(tmp_path))
    check = doctor._check("tracking", lambda: doctor._tracking(f"sqlite:///{path}", storage), "")
    assert (check.ok, check.detail) == (False, "MLflow's experiment whipray is deleted")


@pytest.mark.parametrize("name", ["100%25", "a?b", "a#b", "50% of it"])
def test_a_folder_of_any_name_has_its_database_and_files_in_it(
    made: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = Path(shutil.copy(made, folder))
    tracker = open_tracker(
        TrackingConfig(experiment="new"), Storage(StorageConfig(uri=str(folder)))
    )
    assert sqlite_file(tracker.uri) == path
    run = tracker.run("a", "a", {})
    run.log_text("hello", "note.txt")
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    (note,) = tmp_path.rglob("note.txt")
    assert note.is_relative_to(folder / layout.MLFLOW_ARTIFACTS)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("address", "fix"),
    [
        ("./mlruns", r"sqlite:////\S+/mlruns/mlflow\.db, or http://HOST:5000"),
        ("/srv/mlruns", r"sqlite:////srv/mlruns/mlflow\.db"),
        ("file:///srv/mlruns", r"sqlite:////srv/mlruns/mlflow\.db"),
        ("127.0.0.1:5000", "write http://127.0.0.1:5000"),
        ("mlflow.lab:5000/", "write http://mlflow.lab:5000/"),
        ("sqlite://mlflow.db", "write sqlite:///mlflow.db"),
    ],
)
def test_an_address_that_is_none_says_which_would_be(
    address: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(UsageProblem, match=rf"MLFLOW_TRACKING_URI.* — .*{fix}"):
        tracking_uri(TrackingConfig(), Storage(StorageConfig()))


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:5000", "sqlite:///mlflow.db", "postgresql://host/db", "databricks"],
)
def test_an_address_that_can_be_one_is_taken(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert tracking_uri(TrackingConfig(), Storage(StorageConfig())) == address
