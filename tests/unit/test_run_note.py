"""What MLflow says of a run: the images as inputs, and the note."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from mlflow import MlflowClient
from support.training import at, tiny

from whipray.platform.config.experiment import with_values
from whipray.platform.config.space_files import parse_space
from whipray.platform.config.tracking import TrackingConfig
from whipray.platform.runs.beginning import begin, prepare
from whipray.platform.runs.preflight import Subject
from whipray.platform.runs.run_note import (
    describe_images,
    describe_source,
    log_datasets,
    note_of_run,
    note_of_sweep,
)
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.mlflow_runs import Run
from whipray.platform.tracking.tracker import Tracker, open_tracker
from whipray.platform.tuning.trial_records import Point
from whipray.platform.tuning.trial_spec import TrialSpec

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

METRICS = {
    f"{name}/{group}{end}": value
    for name, value in (("kid", 0.1234), ("fid", 12.3))
    for group in ("overall", "few")
    for end in ("", "_low", "_high")
}


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    store = Storage(at(tmp_path_factory.mktemp("store")).config)
    return open_tracker(TrackingConfig(), store)


@pytest.fixture(scope="module")
def run(tracker: Tracker) -> Run:
    return tracker.run("run/a", "a", {})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of MLflow's client, without those that these make in turn."""
    made: list[str] = []

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() in within:
                return method(*args, **kwargs)
            made.append(name)
            within.add(threading.current_thread())
            try:
                return method(*args, **kwargs)
            finally:
                within.discard(threading.current_thread())

        return call

    within: set[threading.Thread] = set()
    for name, method in vars(MlflowClient).items():
        if not name.startswith("_") and callable(method):
            monkeypatch.setattr(MlflowClient, name, counted(name, method))
    return made


def test_the_images_are_inputs_once(run: Run, tmp_path: Path) -> None:
    experiment = tiny()
    images = describe_images(experiment.data.load(tmp_path))
    for _ in range(2):  # a run that is continued
        log_datasets(run, experiment, images)
    inputs = MlflowClient(run.uri).get_run(run.run_id).inputs.dataset_inputs
    of = {each.tags[0].value: each.dataset for each in inputs}
    assert len(inputs) == 2
    assert of["training"].digest == images["train_fingerprint"]
    assert of["reference"].digest == images["reference_fingerprint"]
    profile = json.loads(of["training"].profile)
    assert profile["classes"] == dict(zip(images["classes"], images["train"], strict=True))
    assert profile["images"] == sum(images["train"])


def test_a_trial_begins_in_few_requests_and_reads_no_image_of_its_sweep(
    tracker: Tracker, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = at(tmp_path / "store")
    sweep = prepare(Subject(tiny(), root.child("sweeps/s")))
    monkeypatch.setattr("whipray.platform.runs.preflight.load_images", Mock(side_effect=KeyError))
    space = parse_space(
        "description: d\ntrain: {optimizer.lr: {type: float, low: 0, high: 1}}", "s"
    )
    values = {"optimizer.lr": 0.5}
    point = Point(0, values, resumed=False)
    experiment = with_values(tiny(), values, "trial")
    spec = TrialSpec("s", point, experiment, root, space, pickle.loads(pickle.dumps(tracker)), "p")
    plan = spec.plan()
    begin(plan, prepare(Subject(plan.experiment, plan.store), sweep))
    once = list(calls)
    assert len(once) <= 10, once
    logged = MlflowClient(plan.run.uri).get_run(plan.run.run_id)
    assert logged.data.params["optimizer.lr"] == "0.5"
    assert logged.data.tags["mlflow.note.content"].startswith("**Run s/0**")
    assert "whipray.code" in logged.data.tags
    assert len(logged.inputs.dataset_inputs) == 2

    calls.clear()
    again = spec.plan()  # its process was lost
    begin(again, prepare(Subject(again.experiment, again.store), sweep))
    assert (again.run.run_id, len(calls) <= len(once)) == (plan.run.run_id, True)
    with pytest.raises(KeyError):  # images of its own are read
        prepare(Subject(plan.experiment, plan.store))


def test_a_source_names_no_private_folder() -> None:
    experiment = tiny(data={"source": "folder", "root": "/home/ann/secret/photos", "image_size": 8})
    source = describe_source(experiment)
    assert (source["source"], source["root"]) == ("folder", "photos")
    assert "/home" not in json.dumps(source)


def test_a_note_says_what_a_run_is_and_came_to(run: Run, tmp_path: Path) -> None:
    store = at(tmp_path).child("runs/a_b")
    experiment = tiny()
    images = {"classes": ["x", "y"], "train": [90, 5], "reference": [20, 20]}
    before = note_of_run(run, store, experiment, images)
    assert "**Run a\\_b**" in before
    assert "95 training images (90 to 5 of a class), 40 to compare with" in before
    assert before.endswith("Not evaluated yet.")
    after = note_of_run(run, store, experiment, images, METRICS)
    assert "| KID (lower is better) | 0.1234 (0.1234 to 0.1234) |" in after
    assert f"/runs/{run.run_id}/artifacts/evaluation/report.html)" in after
    assert f"whipray sample a_b --per-class 8 --out samples.png --storage {tmp_path}" in after
    assert "undefined" in note_of_run(run, store, experiment, images, {
        key: value for key, value in METRICS.items() if "few" not in key
    })  # fmt: skip
    sweep = note_of_sweep(
        run, at(tmp_path).child("sweeps/s"), experiment, images, ["lr"], "Done.", METRICS
    )
    assert "**Sweep s**" in sweep
    assert "Searched: `lr`" in sweep
    assert "Done." in sweep
    assert "| FID (lower is better) | 12.30 (12.30 to 12.30) |" in sweep
