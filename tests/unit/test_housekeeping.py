"""Runs listed, shown, removed, renamed and exported, and what nothing refers to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.checkpoints import make_checkpoint, save
from support.training import tiny

from whipray.platform.config.tracking import TrackingConfig
from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.layout import Tag, VersionTag, run_address
from whipray.platform.storage.store import Storage
from whipray.platform.tracking import registry
from whipray.platform.tracking.records import has_runs, read_versions
from whipray.platform.tracking.tracker import Tracker, open_tracker

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

QUICK = (["models"], ["models", "m"])
"""Commands that read alone."""


@pytest.fixture
def root(tmp_path: Path) -> Storage:
    """A store with a run `mine` and a trial `s/3` that is registered twice."""
    store = Storage(StorageConfig(uri=str(tmp_path / "store")))
    for target in ("mine", "s/3"):
        config = tiny().model_dump(mode="json")
        checkpoint = make_checkpoint(tmp_path / target, 256, config=config)
        save(CheckpointStore(store.child(run_address(target).folder)), checkpoint)
    tracker = opened(store)
    tracker.run("run/mine", "mine", {Tag.KIND: "run"})
    trial = tracker.run("sweep/s/3", "3", {Tag.KIND: "trial"})
    tracker.client.create_registered_model("m")
    for _ in range(2):
        tags = {VersionTag.SWEEP: "s", VersionTag.TRIAL: "3", "text": 'with "quotes"\n'}
        tracker.client.create_model_version("m", "file:///x", trial.run_id, tags=tags)
    tracker.client.set_registered_model_alias("m", registry.CHAMPION, "1")
    return store


def opened(store: Storage) -> Tracker:
    return open_tracker(TrackingConfig(), store)


def test_versions_read_without_mlflow_are_those_that_mlflow_says(root: Storage) -> None:
    database = Path(root.path) / "mlflow.db"
    assert read_versions(database) == registry.versions(opened(root), "m")
    opened(root).client.delete_model_version("m", "2")
    assert read_versions(database) == registry.versions(opened(root), "m")
    assert has_runs(database) is True


def test_another_database_is_left_to_mlflow(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database")
    assert read_versions(tmp_path / "mlflow.db") is None
    assert has_runs(tmp_path / "nothing.db") is None
    assert not (tmp_path / "nothing.db").exists()


def test_a_command_that_only_reads_imports_neither_torch_nor_mlflow(root: Storage) -> None:
    """They take one and two seconds."""
    code = (
        "import sys\n"
        "from whipray.platform.cli.main import main\n"
        "for words in %r:\n"
        "    sys.argv = ['whipray', *words]\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code, words\n"
        "print({'torch', 'mlflow', 'ray', 'pandas', 'sklearn', 'scipy'} & {*sys.modules})\n"
    )
    words = [[*each, "--storage", root.uri] for each in QUICK]
    done = subprocess.run(
        [sys.executable, "-c", code % (words,)], capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("set()\n"), done.stdout + done.stderr
