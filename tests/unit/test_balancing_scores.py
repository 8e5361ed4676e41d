"""Scores of generated images against an independent float64 reading, and the filters on them."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray
from support.balancing import trained_source
from support.training import tiny

from whipray.platform.balancing import distances
from whipray.platform.balancing import scores as scoring
from whipray.platform.balancing.distances import nearest_in_class
from whipray.platform.balancing.f0 import load_f0
from whipray.platform.balancing.filling import Filled, ImageSource
from whipray.platform.balancing.filters import (
    Kept,
    apply_filter,
    check_every_class_keeps_some,
    parse_filter,
    random_like,
)
from whipray.platform.balancing.scores import Scores, score
from whipray.platform.config.balancing import FilterConfig
from whipray.platform.evaluation.metrics.memorisation import TrainingImages
from whipray.trainers.classification.config import ClassificationConfig
from whipray.trainers.classification.losses import DRWConfig
from whipray.trainers.classification.trained import TrainedClassifier
from whipray.trainers.data import PackedImages, Splits
from whipray.trainers.errors import DataProblem, UsageProblem


def scores_of(**given: list[float]) -> Scores:
    """Scores of which only the given ones matter."""
    n = len(next(iter(given.values())))
    nothing = np.zeros(n, np.int64)
    values = {
        "pixel_distance": np.full(n, 1.0, np.float32),
        "feature_distance": np.full(n, 1.0, np.float32),
        "probability": np.full(n, 0.5),
        "copy_ratio": np.ones(n),
    } | {name: np.array(column) for name, column in given.items()}
    return Scores(nearest_pixels=nothing, nearest_features=nothing, copy_of=nothing, **values)  # type: ignore[arg-type]


def filtered(config: FilterConfig, scores: Scores, labels: list[int] | None = None) -> Kept:
    n = len(scores.probability)
    return apply_filter(config, scores, np.array(labels or [0] * n), 0.4)


def test_a_threshold_keeps_what_lies_on_it_and_says_why_it_rejects() -> None:
    scores = scores_of(
        probability=[5e-7, 3.1e-9, 1.0, math.nan],
        pixel_distance=[3500.0, 3500.0, 3500.00025, 10.0],
        copy_ratio=[0.4, 0.4, 0.4, 0.31],
    )
    kept = filtered(FilterConfig(probability=5e-7, pixel_distance=3500, near_copies=False), scores)
    assert kept.mask.tolist() == [True, False, False, False]
    assert kept.reasons == (
        "",
        "probability 3.1e-09 < 5e-07",
        "pixel_distance 3500.00025 > 3500",
        "probability nan < 5e-07; copy_ratio 0.31 < 0.4",
    )
    assert filtered(FilterConfig(), scores).mask.all()


def test_a_class_without_a_kept_image_is_named_with_its_best_value() -> None:
    labels = [0, 0, 2, 2, 5]
    scores = scores_of(probability=[1e-9, 0.9, 1e-9, 3.1492e-8, 7.7e-9])
    config = FilterConfig(probability=5e-7)
    kept = filtered(config, scores, labels)
    names = [f"c{c}" for c in range(6)]
    with pytest.raises(UsageProblem) as raised:
        check_every_class_keeps_some(kept, scores, np.array(labels), names, config)
    assert raised.value.what == (
        "the filter rejects all generated images of 2 of 3 classes; the best values of each: "
        "c2 (probability 3.15e-08), c5 (probability 7.7e-09)"
    )
    assert "probability>=7.7e-09" in raised.value.fix
    looser = FilterConfig(probability=7.7e-9)
    check_every_class_keeps_some(
        filtered(looser, scores, labels), scores, np.array(labels), names, looser
    )


def test_the_threshold_that_is_suggested_keeps_an_image_of_every_class() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 3)
    for name, strict in (("probability", 1.0), ("pixel_distance", 0.0)):
        scores = scores_of(**{name: rng.random(120) ** 9})  # type: ignore[arg-type]
        config = FilterConfig(**{name: strict})  # type: ignore[arg-type]
        with pytest.raises(UsageProblem, match="and 30 more") as raised:
            check_every_class_keeps_some(
                apply_filter(config, scores, labels, 0.4),
                scores,
                labels,
                [str(c) for c in range(40)],
                config,
            )
        suggested = parse_filter(raised.value.fix.split()[1])
        kept = apply_filter(suggested, scores, labels, 0.4)
        assert len(np.unique(labels[kept.mask])) == 40
        assert not kept.mask.all()


def test_a_random_subset_has_the_filter_s_number_of_each_class() -> None:
    rng = np.random.default_rng(1)
    labels = np.sort(rng.integers(0, 7, 500))
    kept = rng.random(500) < 0.3
    kept[labels == 4] = False
    subset = random_like(kept, labels, 0)
    assert (
        np.bincount(labels[subset], minlength=7) == np.bincount(labels[kept], minlength=7)
    ).all()
    assert (subset == random_like(kept, labels, 0)).all()
    assert (subset != random_like(kept, labels, 1)).any()
    assert (subset & kept).any()
    assert (subset & ~kept).any()  # whatever the filter says of each


def test_filters_are_read_as_they_are_written() -> None:
    assert parse_filter() == FilterConfig()
    assert parse_filter(
        "probability>=5e-7", " feature_distance <= 9 ", "no_copies"
    ) == FilterConfig(probability=5e-7, feature_distance=9, near_copies=False)


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        (
            ["probabilty>=1"],
            "--filter probabilty>=1: no such criterion",
            "did you mean probability? ",
        ),
        (["probability<=1"], "is kept at least at its threshold", "write 'probability>=1'"),
        (["pixel_distance>=3"], "is kept at most at its threshold", "write 'pixel_distance<=3'"),
        (["probability>0.5"], "is kept at least", "write 'probability>=0.5'"),
        (["probability"], "--filter probability: no threshold", "quote it for the shell"),
        (["probability>=2"], "2 is no threshold", "give a number from 0 to 1"),
        (["probability>=nan"], "nan is no threshold", "give a number from 0 to 1"),
        (["pixel_distance<=-1"], "-1 is no threshold", "give a number of at least 0"),
        (["feature_distance<=inf"], "inf is no threshold", "give a number of at least 0"),
        (["feature_distance<="], "nothing is no threshold", "give a number of at least 0"),
        (["no_copies>=1"], "no_copies takes no number", "give no_copies alone"),
        ([""], "no such criterion", "there are"),
        (["probability>=0.1", "probability>=0.2"], "probability more than once", "give it once"),
    ],
)
def test_a_filter_that_is_none_is_refused_in_one_line(
    words: list[str], what: str, fix: str
) -> None:
    with pytest.raises(UsageProblem) as raised:
        parse_filter(*words)
    assert what in raised.value.what
    assert fix in raised.value.fix
    assert "\n" not in str(raised.value)


def nearest_by_float64(
    images: NDArray[Any], labels: NDArray[Any], train: NDArray[Any], train_labels: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distance to the nearest training image of the same class, and the first of those, one by one."""
    flat = train.reshape(len(train), -1).astype(np.float64)
    found = []
    for image, label in zip(images, labels, strict=True):
        each = np.sqrt(((flat - image.reshape(-1).astype(np.float64)) ** 2).sum(1))
        each[train_labels != label] = np.inf
        found.append((each.min(), each.argmin()))
    distance, index = zip(*found, strict=True)
    return np.array(distance), np.array(index)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("ROWS", 5), ("COLUMNS", 7), ("EXACT", 32)):
        monkeypatch.setattr(distances, name, size)


@pytest.mark.parametrize("values", [2, 40, 256], ids=["ties", "near", "far"])
@pytest.mark.usefixtures("small_blocks")
def test_pixel_distances_are_exact_whatever_the_blocks(values: int) -> None:
    rng = np.random.default_rng(values)
    size = 5 if values == 2 else 75
    train, labels = rng.integers(0, values, (90, 1, 1, size), np.uint8), rng.integers(0, 4, 90)
    images, asked = rng.integers(0, values, (60, 1, 1, size), np.uint8), rng.integers(0, 4, 60)
    images[:30] = train[:30]  # exact copies
    asked[:30] = labels[:30]
    images[30:40] = train[30:40] ^ np.uint8(1)  # next to them
    found = nearest_in_class(images, asked, train, labels)
    distance, index = nearest_by_float64(images, asked, train, labels)
    assert (found.distance == distance.astype(np.float32)).all()
    assert (found.distance[:30] == 0).all()
    assert (found.index == index).all()


def test_pixel_distances_of_many_values_are_exact() -> None:
    """Black and white of 64 x 64 pixels, the largest sums that there are, and copies but for a value."""
    rng = np.random.default_rng(0)
    train = rng.choice(np.array([0, 255], np.uint8), (30, 3, 64, 64))
    train[0], train[1] = 0, 255
    train[3] = train[2]
    train[3, 0, 0, 0] ^= 1
    labels = np.zeros(30, np.int64)
    images = np.concatenate([train, 255 - train])
    asked = np.zeros(60, np.int64)
    found = nearest_in_class(images, asked, train, labels)
    distance, index = nearest_by_float64(images, asked, train, labels)
    assert (found.distance == distance.astype(np.float32)).all()
    assert (found.index == index).all()
    assert (found.index[:30] == np.arange(30)).all()


@pytest.mark.usefixtures("small_blocks")
def test_feature_distances_agree_with_float64() -> None:
    rng = np.random.default_rng(0)
    train = (1e3 + rng.random((80, 64))).astype(np.float32)  # far from 0 and near each other
    labels = rng.integers(0, 3, 80)
    images = np.concatenate([train[:20], train[20:40] + np.float32(1e-3), train[40:] * 2])
    found = nearest_in_class(images, labels, train, labels)
    distance, index = nearest_by_float64(images, labels, train, labels)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-6)
    assert (found.distance[:20] == 0).all()
    assert (found.index == index).all()


def test_a_class_without_training_images_has_none_nearest() -> None:
    pixels = np.zeros((2, 1, 2, 2), np.uint8)
    found = nearest_in_class(pixels, np.array([0, 1]), pixels, np.array([0, 0]))
    assert found.distance.tolist() == [0, math.inf]
    assert found.index.tolist() == [0, -1]


COUNTS = np.array([0, 0, 1, 3, 5, 7, 9, 11, 13, 15])
F0 = ClassificationConfig(network="resnet8", epochs=2, flip=False)


@dataclass(frozen=True)
class Lab:
    """Images of a run that was just born, and f_0."""

    filled: Filled
    splits: Splits
    f0: TrainedClassifier

    @property
    def source(self) -> ImageSource:
        return self.filled.source

    def score(self) -> Scores:
        return score(self.filled, self.splits, self.f0, 1)

    def files(self) -> dict[Path, bytes]:
        """The scores in the store."""
        folder = Path(self.source.store.root.path)
        return {file: file.read_bytes() for file in folder.rglob("*.scores-*")}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("store")
        patch.setenv("WHIPRAY_CACHE", str(folder / "cache"))
        changes = {"sampling.sampler.steps": 2, "evaluation.shard_images": 16}
        experiment = tiny(training__images=64, **changes)
        source = trained_source(experiment, folder)
        f0 = load_f0(source.store.root, source.splits, F0, lambda _line: None)
        yield Lab(source.fill(COUNTS, 1), source.splits, f0)


def test_scores_are_those_of_an_independent_reading(lab: Lab) -> None:
    scores, labels = lab.score(), lab.filled.labels
    images, train = lab.filled.read_all().images, lab.splits.train
    assert len(labels) == COUNTS.sum()
    for read, tolerance, distance, nearest in (
        (lambda x: x, 1e-6, scores.pixel_distance, scores.nearest_pixels),
        (lab.f0.features, 1e-3, scores.feature_distance, scores.nearest_features),
    ):
        expected, index = nearest_by_float64(read(images), labels, read(train.images), train.labels)
        np.testing.assert_allclose(distance, expected, rtol=tolerance)
        assert (nearest == index).all()
    logits = lab.f0.logits(images).astype(np.float64)
    odds = np.exp(logits - logits[np.arange(len(labels)), labels][:, None])
    np.testing.assert_allclose(scores.probability, 1 / odds.sum(1), rtol=1e-4)
    copies = TrainingImages(train.images, train.labels, "").find_nearest(images)
    assert (scores.copy_of == copies.nearest).all()
    assert (scores.copy_ratio == copies.ratio).all()


def test_a_training_image_has_no_distance_to_itself(lab: Lab) -> None:
    train = lab.splits.train
    found = nearest_in_class(train.images, train.labels, train.images, train.labels)
    assert (found.distance == 0).all()
    assert (train.images[found.index] == train.images).all()


def test_scores_are_kept_by_shard_and_only_what_is_missing_or_damaged_is_made(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, files = lab.score(), lab.files()
    assert len(files) == len(lab.filled.shards) == 6
    lost, damaged, *_ = files
    lost.unlink()
    damaged.write_bytes(files[damaged][:-1])
    scored = []
    work = scoring.ScoreWorker.score
    monkeypatch.setattr(
        scoring.ScoreWorker,
        "score",
        lambda self, shard, on: scored.append(shard) or work(self, shard, on),
    )
    again = lab.score()
    assert len(scored) == 2
    assert lab.files() == files
    assert caplog.records[0].message == f"{damaged}: damaged; making it again"
    for name, values in vars(first).items():
        np.testing.assert_array_equal(getattr(again, name), values)

    # what is there needs no model, no training image and no network
    monkeypatch.setattr(scoring, "Workers", partial(pytest.fail, "worked again"))
    lab.score()
    other = replace(lab.f0, class_names=lab.f0.class_names[::-1])
    with pytest.raises(DataProblem, match=r"f_0 knows 10 classes, .* \(9 is 0\)"):
        score(lab.filled, lab.splits, other, 1)


def test_a_worker_in_another_process_has_the_same_scores(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes to Ray is pickled: f_0 comes from the store then, the training images from their source."""
    first, files = lab.score(), lab.files()
    for file in files:
        file.unlink()

    class Elsewhere:
        """The pool of workers, each of them out of a pickle."""

        def __init__(self, worker: scoring.ScoreWorker, count: int, _scaling: object) -> None:
            assert count == 2
            self.workers = [pickle.loads(pickle.dumps(worker)) for _ in range(count)]

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_error: object) -> None:
            pass

        def run(self, _task: str, shards: list[Any], _on: object) -> None:
            for number, shard in enumerate(shards):
                self.workers[number % 2].score(shard)

    monkeypatch.setattr(scoring, "Workers", Elsewhere)
    again = score(lab.filled, lab.splits, lab.f0, 2)
    assert lab.files() == files
    for name, values in vars(first).items():
        np.testing.assert_array_equal(getattr(again, name), values)


def test_f_0_is_trained_once_and_on_the_training_images_alone(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    root, lines = lab.source.store.root, []
    reference = lab.splits.reference
    others = PackedImages(255 - reference.images, reference.labels, reference.class_names)
    config = F0.model_copy(
        update={"generated_weight": 0.3, "epoch_of": "real", "loss": DRWConfig()}
    )
    again = load_f0(root, replace(lab.splits, reference=others), config, lines.append)
    assert lines == []
    some = reference.images[:9]
    assert (again.logits(some) == lab.f0.logits(some)).all()
    assert again.config.loss.name == "ce"

    [file] = Path(root.path).glob("classifiers/*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 4
    file.write_bytes(content)
    made = load_f0(root, lab.splits, F0, lines.append)
    assert [line.partition(",")[0] for line in lines] == [
        "training f_0: epoch 1 of 2",
        "training f_0: epoch 2 of 2",
    ]
    assert caplog.records[0].message.startswith(f"{file}: not a whole classifier")
    np.testing.assert_allclose(made.logits(some), lab.f0.logits(some), rtol=1e-3, atol=1e-3)
