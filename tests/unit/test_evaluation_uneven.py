"""Real images that are not as many of every class: weights make every class count alike, without bias.

Twelve classes far apart, in which the features differ in place and in spread; generated images are as many of
each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.linalg import sqrtm

from whipray.platform.evaluation.bootstrap import Floats, Floats32, Ints, Sample, resample
from whipray.platform.evaluation.config import EvaluationConfig
from whipray.platform.evaluation.evaluate import Classes, evaluate
from whipray.platform.evaluation.extractors.base import Extracted, ExtractorInfo
from whipray.platform.evaluation.metrics import METRICS, OUTPUTS
from whipray.platform.evaluation.metrics.fid import frechet_distance
from whipray.platform.evaluation.report import Report

D, CLASSES = 6, 4
COUNTS = (60, 20, 6, 3)
"""Real images of each class, from head to tail."""
_SETUP = np.random.default_rng(7)
CENTRES, SCALES = _SETUP.normal(0, 2, (CLASSES, D)), _SETUP.uniform(0.3, 1.5, (CLASSES, D))


def images(counts: tuple[int, ...], rng: np.random.Generator, shift: float = 0) -> Extracted:
    """Normal features of each class in turn."""
    labels = np.repeat(np.arange(len(counts)), counts)
    features = CENTRES[labels] + shift + SCALES[labels] * rng.normal(size=(len(labels), D))
    return Extracted(features.astype(np.float32), np.zeros((len(labels), CLASSES), np.float32))


def labels_of(counts: tuple[int, ...]) -> Ints:
    return np.repeat(np.arange(len(counts)), counts)


def sample(
    counts: tuple[int, ...], rng: np.random.Generator, resamples: int = 0, shift: float = 0
) -> Sample:
    seen, even = images(counts, rng, shift), len(set(counts)) == 1
    one = resample(
        seen.features,
        seen.logits,
        labels_of(counts),
        resamples,
        int(rng.integers(2**31)),
        "generated" if even else "real",
    )
    return one.with_classes_alike()


def measured(name: str, x: Sample, y: Sample, **settings: Any) -> dict[str, Floats]:
    metric = METRICS[name]
    return metric.compute(x, y, metric.settings(**settings), 0)


def test_weights_give_every_class_the_same_total_in_the_whole_and_in_a_group() -> None:
    y = sample(COUNTS, np.random.default_rng(0), 50)
    for side, counts in ((y, COUNTS), (y.of([1, 3]), (20, 3))):
        totals = np.stack([side.weights[side.labels == c].sum(0) for c in np.unique(side.labels)])
        np.testing.assert_allclose(totals, sum(counts) / len(counts), rtol=1e-5)
    assert y.effective == pytest.approx(CLASSES**2 / sum(1 / n for n in COUNTS), rel=1e-6)
    alone = y.of([2])
    np.testing.assert_allclose(alone.weights[:, 0], 1, rtol=1e-6)
    assert alone.effective == pytest.approx(6)


def test_even_classes_have_the_values_that_they_had() -> None:
    even = sample((20,) * CLASSES, np.random.default_rng(0), 10)
    assert even.with_classes_alike() is even
    assert even.evened(0) is even


def test_kid_agrees_with_sums_over_pairs() -> None:
    rng = np.random.default_rng(1)
    x, y = sample((7,) * CLASSES, rng), sample((9, 5, 2, 3), rng)

    def k(a: Floats32, b: Floats32) -> float:
        return float((a.astype(float) @ b.astype(float) / D + 1) ** 3)

    def mean(a: Sample, b: Sample, same: bool) -> float:
        """The mean over pairs of classes of the mean over their pairs of different images."""
        cells = []
        for c in range(CLASSES):
            for e in range(CLASSES):
                rows, columns = np.flatnonzero(a.labels == c), np.flatnonzero(b.labels == e)
                cells.append(
                    np.mean(
                        [
                            k(a.features[i], b.features[j])
                            for i in rows
                            for j in columns
                            if not (same and i == j)
                        ]
                    )
                )
        return float(np.mean(cells))

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert measured("kid", x, y)["kid"][0] == pytest.approx(expected, rel=1e-6)


def test_kid_of_uneven_classes_is_unbiased() -> None:
    """Equal distributions have 0 on average; unweighted, or with a plain diagonal, they have not."""
    rng, found, unweighted, plain = np.random.default_rng(2), [], [], []
    for _ in range(400):
        x, y = sample((10,) * CLASSES, rng), sample(COUNTS, rng)
        found.append(measured("kid", x, y)["kid"][0])
        whole = replace(y, weights=np.ones_like(y.weights))
        unweighted.append(measured("kid", x, whole)["kid"][0])
        # All pairs of different images by their weights, as if they were of one class.
        w = y.weights[:, 0].astype(float)
        pairs = np.outer(w, w) - np.diag(w**2)
        plain.append((pairs * _kernel(y)).sum() / pairs.sum() - _within(y))
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error
    assert abs(np.mean(unweighted)) > 20 * error
    assert np.mean(plain) < -3 * error


@pytest.mark.parametrize("counts", [(60, 20, 6, 1), (1, 1, 1, 1)])
def test_kid_is_unbiased_with_classes_of_one_image(counts: tuple[int, ...]) -> None:
    """Such a class has no pair of images; with its pairs on the other side it would be below 0."""
    rng = np.random.default_rng(10)
    found = [
        measured("kid", sample((10,) * CLASSES, rng), sample(counts, rng))["kid"][0]
        for _ in range(400)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    apart = measured("kid", sample((10,) * CLASSES, rng, shift=3), sample(counts, rng))["kid"][0]
    assert apart > 3 * np.std(found)


def _kernel(y: Sample) -> Floats:
    kernel: Floats = (y.features.astype(float) @ y.features.T.astype(float) / D + 1) ** 3
    return kernel


def _within(y: Sample) -> float:
    """The mean kernel of two images of the mixture, by classes."""
    kernel, total = _kernel(y), 0.0
    for c in range(CLASSES):
        for e in range(CLASSES):
            block = kernel[np.ix_(y.labels == c, y.labels == e)]
            n = len(block)
            total += (block.sum() - np.trace(block)) / (n * (n - 1)) if c == e else block.mean()
    return total / CLASSES**2


def test_kid_intervals_of_uneven_classes_hold_the_truth() -> None:
    rng, covered = np.random.default_rng(3), 0
    for _ in range(150):
        x, y = sample((20,) * CLASSES, rng, 100), sample(COUNTS, rng, 100)
        found = OUTPUTS["kid"].estimate(measured("kid", x, y)["kid"], 80, 0.95)
        assert found is not None
        covered += found.low <= 0 <= found.high
    assert covered >= 0.9 * 150


def test_fid_agrees_with_weighted_moments_and_is_nearer_than_that_of_cut_classes() -> None:
    rng, found, cut = np.random.default_rng(4), [], []
    for _ in range(40):
        x, y = sample((100,) * CLASSES, rng), sample(COUNTS, rng)
        found.append(measured("fid", x, y)["fid"][0])
        cut.append(measured("fid", x, y.evened(0))["fid"][0])
    assert 0 < np.mean(found) < 0.7 * np.mean(cut)  # 0 is the truth
    w, features = y.weights[:, 0].astype(float), y.features.astype(float)
    mean = np.average(features, axis=0, weights=w)
    covariance = np.cov(features.T, aweights=w)
    theirs = x.features.astype(float)
    s = np.cov(theirs.T)
    apart = mean - theirs.mean(0)
    expected = apart @ apart + np.trace(s) + np.trace(covariance)
    expected -= 2 * np.trace(sqrtm(s @ covariance)).real
    assert found[-1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("counts", [COUNTS, (9, 2, 3, 2)], ids=["covariance", "rows"])
def test_fid_has_the_derivative_by_the_weights(counts: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    x, y = sample((30,) * CLASSES, rng), sample(counts, rng)
    if len(y) < 20:  # more features than images, so that the rows are the root
        wide = [np.concatenate([s.features, rng.normal(size=(len(s), 30))], 1) for s in (x, y)]
        x, y = (
            replace(s, features=f.astype(np.float32)) for s, f in zip((x, y), wide, strict=True)
        )
    w = y.weights[:, 0].astype(float)
    change = rng.normal(size=len(y))
    change -= change.mean()
    divisor = w.sum() - (w @ w) / w.sum()

    def at(step: float) -> float:
        weights = w + step * change
        mean = weights @ y.features / weights.sum()
        rows = np.sqrt(weights / divisor)[:, None] * (y.features - mean)
        a = x.features.astype(float)
        ours = (a - a.mean(0)) / np.sqrt(len(a) - 1)
        apart = a.mean(0) - mean
        cross = np.linalg.norm(ours @ rows.T, "nuc")
        return float(apart @ apart + (ours**2).sum() + (rows**2).sum() - 2 * cross)

    distance, _, of_y = frechet_distance(x.features, y.features, v=y.weights[:, 0])
    assert distance == pytest.approx(at(0), rel=1e-5)
    assert of_y @ change == pytest.approx((at(1e-5) - at(-1e-5)) / 2e-5, rel=1e-3)


def test_recall_is_the_mean_over_classes_and_precision_is_of_as_many_of_each() -> None:
    rng = np.random.default_rng(6)
    x, y = sample((60,) * CLASSES, rng, 20, 0.8), sample((200, 90, 40, 16), rng, 20)
    found = measured("precision_recall", x, y, k=3)

    def inside(points: Floats32, balls: Floats32) -> Floats:
        own = np.sort(np.linalg.norm(balls[:, None] - balls, axis=2))[:, 3]
        return (np.linalg.norm(points[:, None] - balls, axis=2) <= own + 1e-6).any(1).astype(float)

    hits = inside(y.features, x.features)
    of_classes = [hits[y.labels == c].mean() for c in range(CLASSES)]
    assert len({round(share, 3) for share in of_classes}) > 1
    assert found["recall"][0] == pytest.approx(np.mean(of_classes), rel=1e-5)
    even = y.evened(0)
    assert np.bincount(even.labels).tolist() == [16] * CLASSES
    assert {row.tobytes() for row in even.features} <= {row.tobytes() for row in y.features}
    expected = inside(x.features, even.features).mean()
    assert found["precision"][0] == pytest.approx(expected)


def test_recall_spreads_as_much_as_that_of_even_classes() -> None:
    """The jackknife shows about 1.5 times the true spread, with weights as without."""
    for counts in ((60, 30, 12, 12), (30,) * CLASSES):
        rng, values, spreads = np.random.default_rng(8), [], []
        for _ in range(60):
            x, y = sample((30,) * CLASSES, rng, 60, 0.5), sample(counts, rng, 60)
            replicates = measured("precision_recall", x, y, k=3)["recall"]
            values.append(replicates[0])
            spreads.append(replicates[1:].std())
        assert 1 < np.mean(spreads) / np.std(values) < 2


# ---- the report


CONFIG = EvaluationConfig(
    bootstrap_resamples=20,
    metrics=("kid", "fid", "precision_recall"),
    precision_recall={"k": 1},
)
NAMES = ("bee", "fly", "moth", "wasp")
INFO = ExtractorInfo("pixels", "0123456789abcdef", D, "none", None, {})


def report(counts: tuple[int, ...] = COUNTS, borrowed: tuple[int, ...] = ()) -> Report:
    rng = np.random.default_rng(9)
    each = (20,) * CLASSES
    classes = Classes(NAMES, (300, 100, 12, 3), borrowed)
    return evaluate(
        images(each, rng),
        labels_of(each),
        images(counts, rng),
        labels_of(counts),
        classes,
        INFO,
        CONFIG,
        {},
    )


def test_a_report_uses_all_real_images_and_says_how() -> None:
    found = report()
    assert [row.n_real for row in found.rows] == [89, 60, 20, 9]
    assert [row.n_real for row in found.per_class] == list(COUNTS)
    assert found.provenance["reference_weights"] == (
        "every class alike, as 28.24 of equal weight; cut to 3 of a class for Precision, Recall, F_8, F_1/8"
    )
    assert report((20,) * 4).provenance["reference_weights"] == (
        "none: as many images of every class"
    )
    (line,) = (w for w in found.warnings if "Precision" in w)
    assert (
        "few (6 images with as many of each class, not 10)" in line
    )  # 9 real ones, of which as many of each class
    assert "overall" not in line


def test_classes_that_are_compared_with_training_images_are_named_everywhere(tmp_path) -> None:
    found = report(borrowed=(2, 3))
    line = found.warnings[0]
    assert line.startswith(
        "2 of 4 classes had too few images to hold some out and are compared with"
    )
    assert "(moth, wasp)" in line
    assert "copies of these look perfect in KID, FID" in line
    assert [row.borrowed for row in found.per_class] == [False, False, True, True]
    found.save(tmp_path)
    assert Report.load(tmp_path).per_class == found.per_class
    assert not any("hold some out" in w for w in report().warnings)
