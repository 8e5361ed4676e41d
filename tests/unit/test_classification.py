"""The classifier that judges generated images: its recipe, its figures, their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel  # type: ignore[import-untyped]
from torch import Tensor

from whipray.platform.balancing.added_images import wanted_counts
from whipray.platform.balancing.summary import student_interval, summarise
from whipray.trainers.classification.augment import augment
from whipray.trainers.classification.config import ClassificationConfig
from whipray.trainers.classification.fit import Outcome, train_and_test, train_classifier
from whipray.trainers.classification.losses import CrossEntropyConfig
from whipray.trainers.classification.recipe import Normaliser, learning_rate
from whipray.trainers.classification.scores import score
from whipray.trainers.classification.trained import TrainedClassifier, load_classifier
from whipray.trainers.data import Digits, PackedImages, Splits
from whipray.trainers.errors import (
    CheckpointProblem,
    DataProblem,
    DivergenceProblem,
    UsageProblem,
)
from whipray.trainers.randomness import BatchRandom

CPU = torch.device("cpu")
HALVES = {"many": range(5), "few": range(5, 10)}


@pytest.fixture(scope="module")
def digits() -> Splits:
    return Digits().load(Path())


def small(splits: Splits, each: int = 4) -> tuple[PackedImages, PackedImages]:
    """A few images of every digit to train on, and some to test."""

    def first(images: PackedImages) -> PackedImages:
        rows = [np.flatnonzero(images.labels == c)[:each] for c in range(10)]
        return images.select(np.concatenate(rows))

    return first(splits.train), first(splits.reference)


# --- the recipe ------------------------------------------------------------------------------


def ldam(epoch: int) -> float:
    """The rule of LDAM-DRW's `adjust_learning_rate` in words; epochs counted from 1."""
    if epoch <= 5:
        return 0.1 * epoch / 5
    return {True: 0.1, False: 0.001}[epoch <= 160] if epoch <= 180 else 0.00001


def test_the_learning_rate_is_ldam_s_in_each_of_200_epochs() -> None:
    config = ClassificationConfig()
    found = [learning_rate(epoch, config) for epoch in range(200)]
    assert found == pytest.approx([ldam(epoch) for epoch in range(1, 201)], rel=1e-12)


def test_the_learning_rate_keeps_its_shape_at_other_lengths() -> None:
    for factor in (2, 3):
        long = ClassificationConfig(epochs=200 * factor)
        for border in (160, 180):
            before, after = (learning_rate(border * factor + i, long) for i in (-1, 0))
            assert (before, after) == pytest.approx((ldam(border), ldam(border + 1)))
        assert learning_rate(5 * factor - 1, long) == 0.1 > learning_rate(5 * factor - 2, long)
    short = ClassificationConfig(epochs=10)
    assert [learning_rate(e, short) for e in range(10)] == pytest.approx([0.1] * 8 + [1e-3, 1e-5])
    assert learning_rate(0, ClassificationConfig(epochs=1)) == 0.1


def test_a_cosine_is_pytorch_s() -> None:
    config = ClassificationConfig(lr_schedule="cosine", epochs=90, lr=0.2)
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 90)
    for epoch in range(90):
        assert learning_rate(epoch, config) == pytest.approx(schedule.get_last_lr()[0])
        sgd.step()
        schedule.step()


def test_images_are_normalised_by_what_is_trained_on(digits: Splits) -> None:
    images = torch.tensor(digits.train.images)
    found = Normaliser.of(digits.train, "data", CPU)(images).double()
    assert float(found.mean()) == pytest.approx(0, abs=1e-5)
    assert float(found.std(correction=0)) == pytest.approx(1, abs=1e-5)
    with pytest.raises(UsageProblem, match="1 channels"):
        Normaliser.of(digits.train, "cifar", CPU)
    grey = PackedImages(np.full((1, 3, 8, 8), 51, np.uint8), np.zeros(1, np.int64), ("a",))
    found = Normaliser.of(grey, "cifar", CPU)(torch.tensor(grey.images))
    expected = (0.2 - np.array([0.4914, 0.4822, 0.4465])) / [0.2023, 0.1994, 0.2010]
    np.testing.assert_allclose(found[0, :, 0, 0], expected, rtol=1e-5)
    flat = Normaliser.of(grey, "data", CPU)(torch.tensor(grey.images))
    assert not flat.any()  # and no division by nothing


# --- the figures -----------------------------------------------------------------------------


def test_scores_of_a_hand_made_confusion() -> None:
    """answered   0  1  2  3
    class 0 (4)         3  1  .  .
    class 1 (4)         1  2  1  .
    class 2 (2)         2  .  .  .
    class 3 (2)         .  .  2  .     and 3 is never answered

    Every class counts alike: an image of a class of 4 is worth half of one of a class of 2.
    """
    labels = np.array([0] * 4 + [1] * 4 + [2] * 2 + [3] * 2)
    answers = np.array([0, 0, 0, 1, 0, 1, 1, 2, 0, 0, 2, 2])
    found = score(labels, answers, 4, {"many": [0, 1], "few": [2, 3]})
    assert found.per_class_recall == pytest.approx((3 / 4, 2 / 4, 0, 0))
    assert found.recall == pytest.approx((3 / 4 + 2 / 4) / 4)
    assert found.precision == pytest.approx((3 / (3 + 1 + 4) + 2 / (2 + 1) + 0 + 0) / 4)
    assert found.values() == pytest.approx(
        {
            "accuracy/overall": (3 / 4 + 2 / 4) / 4,
            "accuracy/many": 5 / 8,
            "accuracy/few": 0,
            "precision": found.precision,
            "recall": found.recall,
        }
    )


def outcome(overall: float, few: float) -> dict[str, Any]:
    return {"figures": {"accuracy/overall": overall, "accuracy/few": few, "precision": few}}


def test_intervals_over_seeds_and_of_their_paired_difference() -> None:
    before = [outcome(0.50, 0.10), outcome(0.60, 0.20), outcome(0.70, 0.30)]
    after = [outcome(0.51, 0.30), outcome(0.59, 0.10), outcome(0.71, 0.50)]
    found = summarise({"real": before, "generated": after}, {"few": [1]}, np.array([30, 10]), 0.95)
    overall = found["arms"]["real"]["figures"]["accuracy/overall"]
    half = 4.302653 * 0.1 / 3**0.5  # Student's t, 2 degrees of freedom
    assert (overall["value"], overall["low"]) == pytest.approx((0.6, 0.6 - half), rel=1e-6)
    gain = found["differences"]["real"]["accuracy/overall"]
    half = 4.302653 * np.std([0.01, -0.01, 0.01], ddof=1) / 3**0.5
    assert gain["high"] - gain["value"] == pytest.approx(half, rel=1e-6)
    assert gain["within_noise"] is True
    sure = summarise(
        {
            "real": before,
            "generated": [outcome(0.8, 0.4), outcome(0.9, 0.52), outcome(1, 0.58)],
        },
        {"few": [1]},
        np.array([30, 10]),
        0.95,
    )
    assert sure["differences"]["real"]["accuracy/few"]["within_noise"] is False
    assert sure["differences"]["real"]["accuracy/few"]["value"] == pytest.approx(
        0.3
    )  # more is better
    assert sure["arms"]["generated"]["figures"]["accuracy/overall"]["high"] == 1
    # Equal differences of all seeds have no spread to tell a gain from noise by.
    equal = sure["differences"]["real"]["accuracy/overall"]
    assert equal["value"] == pytest.approx(0.3)
    assert (equal["low"], equal["within_noise"], equal["p"]) == (None, None, None)


def test_one_seed_has_the_interval_of_its_test_images_and_no_verdict() -> None:
    found = summarise(
        {"real": [outcome(0.5, 0.2)], "generated": [outcome(0.6, 0.5)]},
        {"few": [1]},
        np.array([30, 10]),
        0.95,
    )
    few = found["arms"]["real"]["figures"]["accuracy/few"]  # 2 of 10, Wilson 1927
    assert (few["low"], few["high"]) == pytest.approx((0.0567, 0.5098), abs=1e-4)
    assert found["arms"]["real"]["figures"]["precision"] == {
        "value": 0.2,
        "low": None,
        "high": None,
    }
    assert found["differences"]["real"]["accuracy/few"]["within_noise"] is None
    assert student_interval([0.5], 0.95, (0, 1)) is None


def test_how_many_images_are_generated() -> None:
    counts = np.array([100, 30, 5])
    assert wanted_counts(counts, 500, None).tolist() == [500, 500, 500]
    assert wanted_counts(counts, None, 40).tolist() == [0, 10, 35]
    for per_class, fill_to, said in [
        (None, None, "one of --per-class"),
        (5, 5, "one of --per-class"),
        (0, None, "at least 1"),
        (None, -3, "at least 1"),
        (None, 5, "more than 5"),
    ]:
        with pytest.raises(UsageProblem, match=said):
            wanted_counts(counts, per_class, fill_to)


def test_copies_are_the_headline_and_compared_with_seed_by_seed() -> None:
    arms = {
        "real": [outcome(0.5, 0.1), outcome(0.6, 0.2), outcome(0.7, 0.3)],
        "repeated": [outcome(0.6, 0.5), outcome(0.7, 0.4), outcome(0.8, 0.6)],
        "generated": [outcome(0.71, 0.5), outcome(0.8, 0.5), outcome(0.89, 0.5)],
    }
    groups, counts = {"few": [1]}, np.array([30, 10])
    found = summarise(arms, groups, counts, 0.95)
    assert (found["compared"], list(found["differences"])) == ("generated", ["repeated", "real"])
    assert found["differences"]["real"]["accuracy/overall"]["value"] == pytest.approx(0.2)
    beyond = found["differences"]["repeated"]
    assert beyond["accuracy/overall"]["value"] == pytest.approx(0.1)
    assert beyond["accuracy/overall"]["within_noise"] is False
    assert beyond["accuracy/few"]["within_noise"] is True
    assert beyond["accuracy/few"]["by_seed"] == pytest.approx([0, 0.1, -0.1])
    assert found["headline"] == (
        "accuracy that generated images give beyond repeated real ones: few +0.000 [-0.248, +0.248], "
        "within noise; overall +0.100 [+0.075, +0.125], a gain (3 seeds, paired, 95 % intervals)"
    )
    alone = summarise({k: v for k, v in arms.items() if k != "repeated"}, groups, counts, 0.95)
    assert list(alone["differences"]) == ["real"]
    assert alone["headline"] is None
    one = summarise({k: v[:1] for k, v in arms.items()}, groups, counts, 0.95)
    assert "one seed, which cannot tell" in one["headline"]
    assert "within noise" not in one["headline"]
    lower = [outcome(0.5, 0.1), outcome(0.61, 0.2), outcome(0.7, 0.3)]
    worse = summarise({**arms, "generated": lower}, groups, counts, 0.95)
    assert "overall -0.097 [-0.111, -0.082], a loss" in worse["headline"]


def test_p_values_are_of_the_paired_test_and_adjusted_for_the_number_of_baselines() -> None:
    rng = np.random.default_rng(0)
    few = {
        arm: 0.5 + 0.02 * rng.normal(size=5) for arm in ("real", "repeated", "random", "filtered")
    }
    arms = {arm: [outcome(0.5, x) for x in values] for arm, values in few.items()}
    found = summarise(arms, {"few": [1]}, np.array([30, 10]), 0.95)
    p = {arm: ttest_rel(few["filtered"], few[arm]).pvalue for arm in ("repeated", "random", "real")}
    entries = {arm: each["accuracy/few"] for arm, each in found["differences"].items()}
    assert {arm: entry["p"] for arm, entry in entries.items()} == pytest.approx(p)
    first, second, third = sorted(p, key=p.__getitem__)
    holm = [3 * p[first], max(3 * p[first], 2 * p[second])]
    holm.append(max(holm[1], p[third]))
    assert [entries[arm]["p_holm"] for arm in (first, second, third)] == pytest.approx(
        np.minimum(holm, 1)
    )
    assert {each["accuracy/overall"]["p"] for each in found["differences"].values()} == {1.0}


# --- the training ----------------------------------------------------------------------------


def test_a_seed_fixes_the_numbers_and_leaves_the_global_state(digits: Splits) -> None:
    real, test = small(digits)
    config = ClassificationConfig(epochs=1, batch_size=16)

    def train(seed: int, generated: PackedImages | None = None) -> Outcome:
        return train_and_test(real, test, HALVES, config, seed, CPU, generated)

    one = train(0)
    torch.rand(3)
    before = torch.random.get_rng_state()
    assert train(0) == one
    assert torch.equal(torch.random.get_rng_state(), before)
    assert train(1).train_loss != one.train_loss
    assert train(0, real).train_loss != one.train_loss


def test_it_learns_and_its_last_epoch_counts(digits: Splits) -> None:
    lines: list[str] = []
    config = ClassificationConfig(epochs=6, batch_size=16, flip=False)
    real = digits.reference.select(np.flatnonzero(digits.reference.labels < 2))
    real = PackedImages(real.images, real.labels, real.class_names[:2])
    found = train_and_test(real, real, {"many": [0, 1]}, config, 0, CPU, on_phase=lines.append)
    assert found.scores.accuracy["overall"] > 0.8
    assert len(lines) == 6
    accuracies = [float(line.rpartition(" ")[2]) for line in lines]
    assert found.best_accuracy == pytest.approx(max(accuracies), abs=1e-3)
    assert accuracies[found.best_epoch - 1] == max(accuracies)
    assert found.scores.accuracy["overall"] == pytest.approx(accuracies[-1], abs=1e-3)


def test_each_step_crops_anew(digits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    real, test = small(digits)
    seen: list[tuple[int, int]] = []

    def note(images: Tensor, rng: BatchRandom, config: ClassificationConfig) -> Tensor:
        seen.append((rng.step, rng.rows))
        assert rng.seed == 7
        return augment(images, rng, config)

    monkeypatch.setattr("whipray.trainers.classification.fit.augment", note)
    train_and_test(real, test, HALVES, ClassificationConfig(epochs=2, batch_size=16), 7, CPU)
    assert seen == list(enumerate([16, 16, 8] * 2))


def test_an_answer_does_not_depend_on_the_other_images(digits: Splits) -> None:
    real, test = small(digits)
    config = ClassificationConfig(epochs=2, batch_size=16, lr=1e-3)
    trained = train_classifier(real, config, 0, CPU)
    together = trained.logits(test.images)
    assert len(np.unique(together, axis=0)) == 40
    for start in range(0, 40, 4):
        trained.network.train()  # as between two epochs
        some = trained.logits(test.images[start : start + 4])
        np.testing.assert_allclose(some, together[start : start + 4], rtol=1e-4, atol=1e-5)


def test_a_classifier_comes_back_from_its_file_or_not_at_all(
    digits: Splits, tmp_path: Path
) -> None:
    real, test = small(digits)
    config = ClassificationConfig(epochs=1, batch_size=16)
    trained, file = train_classifier(real, config, 0, CPU), tmp_path / "classifier.safetensors"
    trained.save(file)
    found = load_classifier(file, CPU)
    assert (found.config, found.class_names) == (config, real.class_names)
    assert np.array_equal(found.logits(test.images), trained.logits(test.images))
    assert found.features(test.images).shape == (40, 64)
    assert found.features(test.images[:0]).shape == (0, 64)
    with pytest.raises(DataProblem, match=r"the classifier takes \(1, 8, 8\)"):
        found.logits(test.images[:, :, :4])

    whole = file.read_bytes()
    changed = whole.replace(b"deviation", b"DEVIATION", 1)
    for damaged in (changed, whole[:-1] + bytes([whole[-1] ^ 1]), whole[: len(whole) // 2], b""):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointProblem, match="not a whole classifier"):
            load_classifier(file, CPU)
    with pytest.raises(CheckpointProblem, match="not a whole classifier"):
        load_classifier(tmp_path / "none", CPU)


@pytest.mark.parametrize("name", ["drw", "ldam", "balanced_softmax", "logit_adjustment", "focal"])
def test_other_losses_train_and_come_back(digits: Splits, tmp_path: Path, name: str) -> None:
    settings = {
        "network": "resnet8",
        "epochs": 5,
        "lr": 0.01,
        "batch_size": 16,
        "loss": {"name": name},
    }
    config = ClassificationConfig.model_validate(settings)
    even, test = small(digits)
    real = even.select(
        np.flatnonzero((even.labels < 5) | (np.arange(40) % 4 == 0))
    )  # 4 and 1 of a class
    trained = train_classifier(real, config, 0, CPU)
    trained.save(tmp_path / "classifier.safetensors")
    found = load_classifier(tmp_path / "classifier.safetensors", CPU)
    assert np.array_equal(found.logits(test.images), trained.logits(test.images))
    other = train_classifier(real, config.model_copy(update={"loss": CrossEntropyConfig()}), 0, CPU)
    assert not np.array_equal(found.logits(test.images), other.logits(test.images))
    assert not trained.network.training
    if name == "ldam":  # cosines, times their scale
        assert np.abs(found.logits(test.images)).max() <= 30


def test_an_epoch_of_real_images_takes_as_many_steps(
    digits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, test = small(digits)
    steps: list[int] = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self, *a: (steps.append(0), step(self, *a))[1]
    )
    taken = []
    for epoch_of, generated in (("all", None), ("all", real), ("real", real)):
        steps.clear()
        config = ClassificationConfig(epochs=2, batch_size=16, epoch_of=epoch_of)
        train_and_test(real, test, HALVES, config, 0, CPU, generated)
        taken.append(len(steps))
    assert taken == [6, 10, 6]  # 40, 80 and 40 images in batches of 16


def test_what_it_cannot_use_is_said(digits: Splits) -> None:
    real, test = small(digits)
    config = ClassificationConfig(epochs=1)
    rgb = PackedImages(np.repeat(real.images, 3, 1), real.labels, real.class_names)
    with pytest.raises(DataProblem, match=r"generated images are \(3, 8, 8\)"):
        train_and_test(real, test, HALVES, config, 0, CPU, rgb)
    tiny = PackedImages(np.ascontiguousarray(real.images[:, :, :4]), real.labels, real.class_names)
    with pytest.raises(DataProblem, match="at least 8 x 8"):
        train_and_test(tiny, tiny, HALVES, config, 0, CPU)
    absurd = ClassificationConfig(epochs=1, batch_size=8, lr=1e30)
    with pytest.raises(DivergenceProblem, match=r"lower classification\.lr"):
        train_and_test(real, test, HALVES, absurd, 0, CPU)


def test_bf16_trains_with_weights_and_loss_in_fp32(digits: Splits) -> None:
    real, test = small(digits)
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 40, "network": "resnet8", "lr": 0.01}

    def train(precision: str) -> tuple[float, TrainedClassifier]:
        losses: list[float] = []
        config = ClassificationConfig(precision=precision, **settings)  # type: ignore[arg-type]
        found = train_classifier(
            real, config, 0, CPU, after_epoch=lambda _e, loss, _t: losses.append(loss)
        )
        return losses[0], found

    (exact, _), (rounded, trained) = train("fp32"), train("bf16")
    assert rounded == pytest.approx(exact, rel=2e-2)
    assert rounded != exact
    assert {p.dtype for p in trained.network.parameters()} == {torch.float32}
    logits = trained.logits(test.images)
    assert np.any(logits != torch.tensor(logits).bfloat16().float().numpy())  # used in fp32
