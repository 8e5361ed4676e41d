"""Runs and studies on the servers that a team has: MLflow with basic auth, PostgreSQL."""

from __future__ import annotations

import subprocess
from pathlib import Path

import optuna
import pytest
from support import writers
from support.servers import MLflowServer, Postgres
from support.shell import WAIT_S

from whipray.platform.config.tracking import TrackingConfig
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.errors import TrackingProblem
from whipray.platform.tracking.mlflow_runs import Run
from whipray.platform.tracking.tracker import Tracker, open_tracker
from whipray.platform.tuning.study_storage import close_storage, open_storage

pytestmark = pytest.mark.slow


@pytest.fixture
def logged_in(mlflow_server: MLflowServer, monkeypatch: pytest.MonkeyPatch) -> MLflowServer:
    for name, value in mlflow_server.environment().items():
        monkeypatch.setenv(name, value)
    return mlflow_server


def track(server: MLflowServer, folder: Path) -> Tracker:
    config = TrackingConfig(uri=server.endpoint, experiment="runs")
    return open_tracker(config, Storage(StorageConfig(uri=str(folder))))


def history(tracker: Tracker, run: Run, name: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, in the order of the steps."""
    found = tracker.client.get_metric_history(run.run_id, name)
    return sorted((metric.step, metric.value) for metric in found)


@pytest.mark.parametrize("login", [{}, {"MLFLOW_TRACKING_PASSWORD": "hunter2hunter2"}])
def test_a_missing_or_wrong_login_says_what_to_set(
    logged_in: MLflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    login: dict[str, str],
) -> None:
    for name in logged_in.environment():
        monkeypatch.delenv(name)
    for name, value in (logged_in.environment() | login).items() if login else ():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrackingProblem) as caught:
        track(logged_in, tmp_path)
    address = f"MLflow at {logged_in.endpoint}"
    assert caught.value.what == f"{address} refuses the login: none was given, or a wrong one"
    assert caught.value.fix == "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


def test_a_login_in_the_address_stays_out_of_sight(
    mlflow_server: MLflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in mlflow_server.environment():
        monkeypatch.setenv(name, "")  # so that what is set here ends with the test
    login = f"{mlflow_server.username}:{mlflow_server.secret_key}"
    address = mlflow_server.endpoint.replace("//", f"//{login}@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    tracker = open_tracker(TrackingConfig(), Storage(StorageConfig(uri=str(tmp_path))))
    assert tracker.uri == tracker.run("login", "login", {}).uri == mlflow_server.endpoint


def test_what_a_run_writes_is_there(logged_in: MLflowServer, tmp_path: Path) -> None:
    tracker = track(logged_in, tmp_path)
    run = tracker.run("whole", "a run", {"whipray.kind": "run"})
    run.log_metrics({"loss": 0.5}, 64)
    run.log_json({"classes": [3, 1]}, "dataset.json")
    run.set_tags({"whipray.outcome": "finished"})
    run.finish("FINISHED")
    found = tracker.client.get_run(tracker.find("whole").run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"loss": 0.5}
    assert found.data.tags["whipray.outcome"] == "finished"
    assert [file.path for file in tracker.client.list_artifacts(run.run_id)] == ["dataset.json"]

    later = tracker.find("whole")
    later.log_metrics({"later": 1.0}, 64)
    later.flush()
    assert tracker.client.get_run(run.run_id).data.metrics["later"] == 1.0


def write(what: str, address: str, name: str) -> None:
    done = subprocess.run(
        writers.start(what, address, name),
        env=writers.environment(),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_sixteen_writers_lose_no_metric(logged_in: MLflowServer, tmp_path: Path) -> None:
    write("runs", logged_in.endpoint, "runs")
    tracker = track(logged_in, tmp_path)
    for writer in range(writers.WRITERS):
        run = tracker.find(writers.key(writer))
        expected = [(n, writers.value(writer, n)) for n in range(writers.REPORTS)]
        assert history(tracker, run, "loss") == expected
        assert history(tracker, run, "lr") == [(n, 0.5) for n in range(writers.REPORTS)]


def test_sixteen_writers_lose_no_trial(postgres: Postgres) -> None:
    address = postgres.make_database("study")
    storage = open_storage(address)
    study = optuna.create_study(study_name="sweep", storage=storage)
    write("trials", address, "sweep")
    trials = study.get_trials()
    assert [trial.number for trial in trials] == list(range(writers.WRITERS * writers.TRIALS))
    assert all(trial.values == [trial.params["x"]] for trial in trials)
    done = [trial.user_attrs["writer"] for trial in trials]
    assert sorted(done) == sorted(list(range(writers.WRITERS)) * writers.TRIALS)
    close_storage(storage)
