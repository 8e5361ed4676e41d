"""`whipray classify` on a tiny run of digits: what it trains, keeps, records and says."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.training import at, tiny, train

from whipray.platform.checkpoints import CheckpointStore
from whipray.platform.classification.classify import Classified, classify, draw, settings_of
from whipray.platform.cli import main as cli
from whipray.platform.evaluation.evaluator import open_model
from whipray.platform.places import RunPlace, find_run
from whipray.platform.storage import Storage
from whipray.platform.tracking import Tracker
from whipray.trainers.data.batches import to_uint8
from whipray.trainers.errors import UsageProblem

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),  # MLflow's own
    pytest.mark.filterwarnings("ignore:`use_.* is deprecated"),  # Ray Data, of its own
]

SHORT = ("classification.epochs=1", "sampling.steps=2")
FIGURES = {
    *(f"accuracy/{group}" for group in ("overall", "many", "medium", "few")),
    "precision",
    "recall",
}


@dataclass(frozen=True)
class Lab:
    """A store with a run `tiny`."""

    root: Storage

    @property
    def place(self) -> RunPlace:
        return find_run(self.root, "tiny")

    def classify(self, *overrides: str, **options: Any) -> Classified:
        options = {"per_class": 3, "seeds": 2} | options
        return classify(self.place, [*SHORT, *overrides], **options)

    def track(self) -> Tracker:
        """MLflow beside the runs, knowing the run."""
        tracker = Tracker(self.place.experiment.tracking, self.root)
        tracker.run("run/tiny", "tiny", {}).finish("FINISHED")
        return tracker


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store to copy; tests that change nothing may use it as it is."""
    folder = tmp_path_factory.mktemp("store")
    train(tiny(training__images=64), folder / "runs/tiny")
    return folder


@pytest.fixture
def lab(tmp_path: Path, trained: Path) -> Lab:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return Lab(at(tmp_path))


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # of Ray's workers
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def test_every_classifier_is_trained_once(lab: Lab) -> None:
    first = lab.classify()
    assert first.trained == 4
    document = first.document
    assert document["images"] == {
        "real": [100, 71, 51, 36, 26, 18, 13, 9, 6, 5],
        "generated": [3] * 10,
        "test": [74] * 10,
    }
    assert document["groups"] == {"many": [0, 1, 2], "medium": [3, 4, 5], "few": [6, 7, 8, 9]}
    assert document["classification"]["flip"] is False  # as the run was trained
    assert set(document["difference"]) == FIGURES
    for arm in ("real", "real_and_generated"):
        found = document["arms"][arm]
        assert [one["seed"] for one in found["trained"]] == [0, 1]
        for name, figure in found["figures"].items():
            values = [one["figures"][name] for one in found["trained"]]
            assert figure["value"] == pytest.approx(np.mean(values))
            assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
        for one in found["trained"]:
            assert one["figures"]["recall"] == pytest.approx(np.mean(one["per_class_recall"]))
            assert one["best_accuracy_chosen_on_test"] >= one["figures"]["accuracy/overall"]
    losses = [[one["train_loss"] for one in a["trained"]] for a in document["arms"].values()]
    assert len({loss for of_arm in losses for loss in of_arm}) == 4
    assert lab.classify() == Classified(document, first.folder, 0)
    kept = json.loads(lab.place.store.read_text(f"{first.folder}/result.json"))
    assert kept == document

    # a job that was stopped trains what is missing, and comes to the same figures
    lab.place.store.delete("classification")
    lab.root.delete(next(iter(lab.root.list("classifiers"))))
    assert lab.classify() == Classified(document, first.folder, 1)

    # what has no generated images does not depend on them, nor on their weight
    assert lab.classify("classification.generated_weight=0.3").trained == 2
    assert lab.classify(per_class=4).trained == 2
    assert lab.classify("sampling.omega=1").trained == 2
    assert lab.classify(seeds=3).trained == 2
    assert lab.classify("classification.lr=0.05").trained == 4


def test_classes_are_filled_up_with_their_own_images(lab: Lab) -> None:
    counts = np.array([0, 0, 0, 0, 0, 0, 0, 1, 4, 5])
    found = lab.classify(fill_to=10, per_class=None, seeds=1)
    assert found.document["images"]["generated"] == counts.tolist()

    place = lab.place
    sampling = settings_of(place.experiment, SHORT).sampling
    experiment = place.experiment.model_copy(update={"sampling": sampling})
    manifest = CheckpointStore(place.store).read_manifest(place.checkpoint)
    drawn = draw(place, experiment, manifest, "elsewhere", counts, 1, lambda _line: None)
    assert drawn.labels.tolist() == np.repeat(np.arange(10), counts).tolist()
    model = open_model(place.store, place.checkpoint, experiment)
    eights = to_uint8(model.sample(torch.full((4,), 8), sampling, experiment.seed)).numpy()
    gap = np.abs(drawn.images[drawn.labels == 8].astype(int) - eights)
    assert gap.max() <= 1  # rounding: they were batched otherwise


def test_ray_comes_to_the_same_figures(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    here = lab.classify(per_class=9)
    for folder in ("classifiers", "runs/tiny/classification", "runs/tiny/samples"):
        lab.root.delete(folder)
    there = lab.classify(per_class=9, workers=2)
    assert there == here


def say(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["whipray", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def test_what_a_person_sees(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = lab.track()
    run = tracker.find("run/tiny")
    command = ("classify", "tiny", *SHORT, "--per-class", "3", "--storage", lab.root.uri)
    assert say(monkeypatch, *command, "--seeds", "2") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["real", "real", "+", "generated", "difference"]
    assert [line.partition("  ")[0].strip() for line in lines[1:]] == [
        "accuracy overall",
        "accuracy many",
        "accuracy medium",
        "accuracy few",
        "precision",
        "recall",
    ]
    assert "335 real and 30 generated images, tested on 740; 1 epochs" in err
    assert "whipray classify tiny --per-class 3 --seeds 5" in err

    assert say(monkeypatch, *command, "--seeds", "2", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["classifiers_trained"] == 0
    told = {name: figure["within_noise"] for name, figure in document["difference"].items()}
    for line in lines[1:]:
        name = line.partition("  ")[0].strip().replace(" ", "/")
        assert ("within noise" in line) is told[name]
    metrics = tracker.client.get_run(run.run_id).data.metrics
    few = document["arms"]["real"]["figures"]["accuracy/few"]
    assert metrics["classification/real/accuracy/few"] == few["value"]
    assert metrics["classification/real/accuracy/few_high"] == few["high"]
    (artifact,) = tracker.client.list_artifacts(run.run_id, "classification")
    assert Path(document["result"]).parent.name in artifact.path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing", "--per-class", "3"), "no run nothing"),
        (("tiny",), "how many images to generate"),
        (("tiny", "--per-class", "0"), "--per-class is 0"),
        (("tiny", "--fill-to", "5"), "--fill-to is 5"),
        (("tiny", "--per-class", "3", "--seeds", "0"), "--seeds is 0"),
        (("tiny", "--per-class", "3", "classification.epoch=1"), "classification.epochs"),
        (("tiny", "--per-class", "3", "objective.tau=1"), "objective.tau cannot be changed"),
    ],
)
def test_a_mistake_is_answered_in_two_lines(
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    assert say(monkeypatch, "classify", *arguments, "--storage", str(trained)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 2, err
    assert said in err


def test_a_cluster_without_room_is_said_so(lab: Lab) -> None:
    with pytest.raises(UsageProblem, match="room"):
        lab.classify("scaling.cpus_per_worker=999", workers=2, arms=("real",))


def test_a_run_that_mlflow_does_not_know_is_classified_all_the_same(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("classify", "tiny", *SHORT, "--fill-to", "6", "--storage", lab.root.uri)
    assert say(monkeypatch, *command) == 0
    out, err = capsys.readouterr()
    assert "not recorded in MLflow: MLflow has no run run/tiny" in err
    assert "--seeds 5 says how sure" in err
    assert "within noise" not in out  # which one seed cannot tell
