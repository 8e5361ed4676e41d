"""`whipray classify` on a tiny run of digits: what it trains, keeps, records and says."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.marks import MLFLOW_WARNINGS
from support.training import at, tiny, train

from whipray.platform.analysis.classify.classify import classify
from whipray.platform.analysis.classify.result import ClassificationResult
from whipray.platform.analysis.classify.settings import resolve_settings
from whipray.platform.balancing.classifiers import ClassifierTraining, train_missing
from whipray.platform.balancing.filling import ImageSource
from whipray.platform.cli import main as cli
from whipray.platform.compute.ray_session import ray_session
from whipray.platform.config.scaling import ScalingConfig
from whipray.platform.generation.loading import load_model
from whipray.platform.runs.find_run import StoredRun, find_run
from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.tracker import Tracker, open_tracker
from whipray.trainers.classification.config import ClassificationConfig
from whipray.trainers.data import Digits
from whipray.trainers.data.batches import to_uint8
from whipray.trainers.errors import UsageProblem
from whipray.trainers.integrity import unseal

pytestmark = [
    pytest.mark.slow,
    *MLFLOW_WARNINGS,
    pytest.mark.filterwarnings("ignore:`use_.* is deprecated"),  # Ray Data, of its own
]

SHORT = ("classification.epochs=1", "sampling.sampler.steps=2")
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
    def place(self) -> StoredRun:
        return find_run(self.root, "tiny")

    def classify(self, *overrides: str, **options: Any) -> ClassificationResult:
        options = {"per_class": 3, "seeds": 2} | options
        return classify(self.place, [*SHORT, *overrides], **options)

    def track(self) -> Tracker:
        """MLflow beside the runs, knowing the run."""
        tracker = open_tracker(self.place.experiment.tracking, self.root)
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
    assert first.trained == 6
    document = first.document
    assert document["images"] == {
        "real": [100, 71, 51, 36, 26, 18, 13, 9, 6, 5],
        "test": [74] * 10,
        "added": {"real": [0] * 10, "repeated": [3] * 10, "generated": [3] * 10},
        "steps": {"real": 3, "repeated": 3, "generated": 3},
    }
    assert document["groups"] == {"many": [0, 1, 2], "medium": [3, 4, 5], "few": [6, 7, 8, 9]}
    assert document["classification"]["flip"] is False  # as the run was trained
    assert document["compared"] == "generated"
    assert list(document["differences"]) == ["repeated", "real"]
    assert all(set(difference) == FIGURES for difference in document["differences"].values())
    assert list(document["arms"]) == ["real", "repeated", "generated"]
    for arm in document["arms"]:
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
    assert len({loss for of_arm in losses for loss in of_arm}) == 6
    assert lab.classify() == ClassificationResult(document, first.folder, 0)
    kept = lab.place.store.read_text(f"{first.folder}/result.json")
    assert unseal(kept) == document

    # what is damaged is made again
    lab.place.store.write_text(f"{first.folder}/result.json", kept.replace("recall", "reball", 1))
    damaged = next(iter(lab.root.list("classifiers")))
    lab.root.write_text(damaged, lab.root.read_text(damaged).replace("train_loss", "train_lost"))
    assert lab.classify() == ClassificationResult(document, first.folder, 1)

    # a job that was stopped trains what is missing, and comes to the same figures
    lab.place.store.delete("classification")
    lab.root.delete(next(iter(lab.root.list("classifiers"))))
    assert lab.classify() == ClassificationResult(document, first.folder, 1)

    # what has no generated images does not depend on them; copies have their number and weight
    assert lab.classify("sampling.guidance.omega=1").trained == 2
    assert lab.classify("classification.generated_weight=0.3").trained == 4
    assert lab.classify(per_class=4).trained == 4
    assert lab.classify(seeds=3).trained == 3
    assert lab.classify("classification.lr=0.05").trained == 6


def test_runs_on_the_same_data_share_what_has_no_generated_images(lab: Lab) -> None:
    train(tiny(training__images=32), Path(lab.root.path) / "runs/other")
    here = lab.classify().document
    there = classify(find_run(lab.root, "other"), SHORT, per_class=3, seeds=2)
    assert there.trained == 2
    for arm in ("real", "repeated"):
        assert there.document["arms"][arm] == here["arms"][arm]
    generated = [document["arms"]["generated"] for document in (here, there.document)]
    assert generated[0] != generated[1]


def test_classes_are_filled_up_with_their_own_images(lab: Lab) -> None:
    counts = np.array([0, 0, 0, 0, 0, 0, 0, 1, 4, 5])
    found = lab.classify(fill_to=10, per_class=None, seeds=1)
    assert found.document["images"]["added"]["generated"] == counts.tolist()

    place = lab.place
    sampling = resolve_settings(place.experiment, SHORT).sampling
    experiment = place.experiment.model_copy(update={"sampling": sampling})
    manifest = CheckpointStore(place.store).read_manifest(place.checkpoint)
    splits = experiment.data.load(Path())
    source = ImageSource(place.store, place.checkpoint, experiment, manifest, splits)
    drawn = source.fill(counts, 1).read_all()
    assert drawn.labels.tolist() == np.repeat(np.arange(10), counts).tolist()
    model = load_model(place.store, place.checkpoint, experiment.sampling)
    eights = to_uint8(model.sample(torch.full((4,), 8), sampling, experiment.seed)).numpy()
    gap = np.abs(drawn.images[drawn.labels == 8].astype(int) - eights)
    assert gap.max() <= 1  # rounding: they were batched otherwise


def test_ray_comes_to_the_same_figures(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = lab.classify(per_class=9)
    for folder in ("classifiers", "runs/tiny/classification", "runs/tiny/samples"):
        lab.root.delete(folder)
    with ray_session():
        with pytest.raises(UsageProblem, match="room"):
            lab.classify("scaling.cpus_per_worker=999", per_class=9, workers=2)
        two = lab.classify(per_class=9, workers=2)
    assert two == one


def test_two_workers_train_one_classifier_together(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    splits, lines = Digits().load(Path()), list[str]()
    config = ClassificationConfig(network="resnet8", epochs=1, batch_size=32, lr=0.02)
    training = ClassifierTraining({"few": [8, 9]}, config, cpus=1)
    classifier = training.run("real", 0, splits, None)

    def train_on(workers: int) -> dict[str, Any]:
        lab.root.delete("classifiers")
        scaling = ScalingConfig(workers=workers)
        arguments = (lab.root, training, splits, pytest.fail, [classifier], 1, scaling)
        outcomes, trained = train_missing(*arguments, lines.append)
        assert trained == 1
        return outcomes[classifier]

    alone = train_on(1)
    with ray_session():
        together = train_on(2)
        with pytest.raises(UsageProblem, match="this machine has room for"):
            train_on(64)
    assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-3)
    assert together["figures"] == pytest.approx(alone["figures"], abs=0.02)  # a few of 740 images
    assert lines[-1].startswith("classifier 1 of 1 on 2 workers: epoch 1 of 1")


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
    titles = ["real", "repeated", "generated", "generated - repeated", "generated - real"]
    assert re.split("  +", lines[0].strip()) == titles
    assert [line.partition("  ")[0].strip() for line in lines[1:]] == [
        "accuracy overall",
        "accuracy many",
        "accuracy medium",
        "accuracy few",
        "precision",
        "recall",
    ]
    assert "335 real and 30 generated images, tested on 740; 1 epochs" in err
    assert "accuracy that generated images give beyond repeated real ones: few " in err
    assert "whipray classify tiny --per-class 3 --seeds 5" in err

    assert say(monkeypatch, *command, "--seeds", "2", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["classifiers_trained"] == 0
    for line in lines[1:]:
        row = re.split("  +", line.strip())
        name = row[0].replace(" ", "/")
        for shown, arm in zip(row[-2:], ("repeated", "real"), strict=True):
            figure = document["differences"][arm][name]
            assert shown.startswith(f"{figure['value']:+.3f} [")
            assert ("within noise" in shown) is figure["within_noise"]
    metrics = tracker.client.get_run(run.run_id).data.metrics
    few = document["arms"]["real"]["figures"]["accuracy/few"]
    assert metrics["classification/real/accuracy/few"] == few["value"]
    assert metrics["classification/real/accuracy/few_high"] == few["high"]
    beyond = document["differences"]["repeated"]["accuracy/few"]
    assert metrics["classification/generated-repeated/accuracy/few"] == beyond["value"]
    (artifact,) = tracker.client.list_artifacts(run.run_id, "classification")
    assert Path(document["result"]).parent.name in artifact.path

    assert say(monkeypatch, *command, "--seeds", "2", "--no-control") == 0
    out, err = capsys.readouterr()
    bare = out.splitlines()
    assert re.split("  +", bare[0].strip()) == ["real", "generated", "generated - real"]
    for line, before in zip(bare[1:], lines[1:], strict=True):
        cells = re.split("  +", before.strip())
        assert re.split("  +", line.strip()) == [*cells[:2], cells[3], cells[5]]
    assert "repet" not in err
    assert "--per-class 3 --no-control --seeds 5" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing", "--per-class", "3"), "no run nothing"),
        (("tiny",), "not clear how many images to generate"),
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


def test_a_run_that_mlflow_does_not_know_is_classified_all_the_same(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("classify", "tiny", *SHORT, "--fill-to", "6", "--storage", lab.root.uri)
    assert say(monkeypatch, *command) == 0
    out, err = capsys.readouterr()
    assert re.search("not recorded in MLflow: MLflow at .* has no run run/tiny", err)
    assert "--seeds 5 gives an interval" in err
    assert "within noise" not in out  # which one seed cannot tell
