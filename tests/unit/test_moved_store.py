"""An SQLite database whose folder was moved or copied."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow.tracking._tracking_service import utils

from whipray.platform.config.tracking import TrackingConfig
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.layout import Tag
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.tracker import Tracker, open_tracker

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


def opened(folder: Path) -> Tracker:
    utils._artifact_repos_cache.clear()  # MLflow's, by a run's id: as in another process
    return open_tracker(TrackingConfig(), Storage(StorageConfig(uri=str(folder))))


def test_artifacts_follow_their_database_wherever_it_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "whipray")
    places = [tmp_path / name for name in ("first one", "50% off", "last", "copy")]
    first, *others = places
    tracker = opened(first)
    run = tracker.run("run/r", "r", {Tag.KIND: "run"})
    run.log_text("0", "0.txt")
    run.set_tags({Tag.STORE: f"{first}/runs/r"})
    opened(first)
    assert caplog.messages == []
    for number, place in enumerate(others, 1):
        before = places[number - 1]
        if place.name == "copy":
            shutil.copytree(before, place)
        else:
            before.rename(place)
        tracker = opened(place)
        (said,) = caplog.messages
        assert said.startswith(f"{place} was at {before} before")
        caplog.clear()
        found = tracker.existing("run/r")
        assert found is not None
        found.log_text(str(number), f"{number}.txt")
        files = {file.path for file in tracker.client.list_artifacts(found.run_id)}
        assert files == {f"{n}.txt" for n in range(number + 1)}
        assert len(list(place.glob(f"artifacts/{found.run_id}/artifacts/*.txt"))) == number + 1
        assert tracker.tags_of("run/r")[Tag.STORE] == f"{place}/runs/r"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "last"]
    assert len(list((tmp_path / "last").rglob("*.txt"))) == 3  # the copy left it alone


def test_a_database_that_is_reached_by_two_names_is_not_moved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(tmp_path / "store")
    other = tmp_path / "other"
    other.mkdir()
    (other / "mlflow.db").hardlink_to(tmp_path / "store/mlflow.db")
    opened(other)
    assert caplog.messages == []
    with sqlite3.connect(other / "mlflow.db") as database:
        ((where,),) = database.execute(
            "SELECT artifact_location FROM experiments WHERE name = 'whipray'"
        )
    assert where == f"{tmp_path}/store/artifacts"
