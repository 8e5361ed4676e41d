"""Every metric against torch-fidelity or a naive reading, its resamples, and its intervals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import binomtest
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from whipray.platform.evaluation.bootstrap import (
    Floats,
    Floats32,
    Sample,
    percentile_interval,
    recentred_interval,
    resample,
    wilson_interval,
)
from whipray.platform.evaluation.metrics import METRICS, OF_IMAGES, OUTPUTS, prd, products
from whipray.platform.evaluation.metrics.fid import frechet_distance

SETTINGS: dict[str, dict[str, Any]] = {
    "kid": {"subset_size": 10**6},
    "inception_score": {"splits": 3},
    "precision_recall": {"k": 5},
    "prd": {"clusters_per_class": 4, "runs": 2},
}
RESAMPLED = sorted({*OF_IMAGES} - {"memorisation"})  # which needs distances to training images


def normal(n: int, d: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> Floats32:
    return np.random.default_rng(seed).normal(mean, scale, (n, d)).astype(np.float32)


def sample(
    features: Floats32, classes: int = 1, resamples: int = 20, seed: int = 0, real: bool = False
) -> Sample:
    """Classes in turn, logits of seven classes and of seven others, the data set's own."""
    images = resample(
        features,
        3 * normal(len(features), 7, seed),
        np.arange(len(features)) % classes,
        resamples,
        seed,
        "real" if real else "generated",
    )
    return replace(images, own_logits=3 * normal(len(features), 7, seed + 1))


def counted(one: Sample, seed: int = 0) -> Sample:
    """Resamples in which images are there a whole number of times, as many of a class as it has."""
    weights, rng = one.weights.copy(), np.random.default_rng(seed)
    for c in np.unique(one.labels):
        rows = np.flatnonzero(one.labels == c)
        equal = np.full(len(rows), 1 / len(rows))
        weights[rows, 1:] = rng.multinomial(len(rows), equal, weights.shape[1] - 1).T
    return replace(one, weights=weights)


def once(one: Sample) -> Sample:
    """The images as they are, without resamples."""
    return replace(one, weights=np.ones((len(one), 1), np.float32))


def measured(name: str, x: Sample, y: Sample, **settings: Any) -> dict[str, Floats]:
    metric, seed = METRICS[name], settings.pop("seed", 0)
    return metric.compute(x, y, metric.settings(**{**SETTINGS.get(name, {}), **settings}), seed)


def doubles(x: Sample) -> torch.Tensor:
    return torch.from_numpy(x.features).double()


def weighted_fid(x: Floats, y: Floats, u: Floats, v: Floats) -> float:
    """With weights of the images; tr (S_x S_y)^(1/2) is the nuclear norm of roots' product."""

    def moments(x: Floats, w: Floats) -> tuple[Floats, Floats]:
        mean = w @ x / len(x)
        return mean, np.sqrt(w / (len(x) - 1))[:, None] * (x - mean)

    (a, s), (b, t) = moments(x, u), moments(y, v)
    cross = np.linalg.norm(s @ t.T, "nuc")
    return float((a - b) @ (a - b) + (s**2).sum() + (t**2).sum() - 2 * cross)


class TestAllMeasures:
    @pytest.mark.parametrize("name", RESAMPLED)
    def test_numbers_are_known_and_have_their_draws(self, name: str) -> None:
        x, y = sample(normal(90, 4, 0), 3), sample(normal(80, 4, 1), 3, real=True)
        found = measured(name, x, y)
        assert set(found) <= set(OUTPUTS)
        for replicates in found.values():
            assert (replicates.shape, replicates.dtype) == ((21,), np.float64)
            assert np.isfinite(replicates).all()
            assert replicates[1:].std() > 0

    @pytest.mark.parametrize("name", [name for name in RESAMPLED if name != "agreement"])
    def test_too_few_images_are_undefined(self, name: str) -> None:
        one = sample(normal(1, 4, 0))
        for replicates in measured(name, one, one).values():
            assert np.isnan(replicates).all()

    @pytest.mark.parametrize("name", ["kid", "fid", "precision_recall"])
    @pytest.mark.parametrize("d", [3, 40])
    def test_tiles_do_not_show(self, name: str, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = sample(normal(31, d, 0), 3), sample(normal(23, d, 1), 3, real=True)
        whole = measured(name, x, y)
        monkeypatch.setattr(products, "TILE", 7)
        for number, replicates in measured(name, x, y).items():
            np.testing.assert_allclose(replicates, whole[number], rtol=1e-9)

    def test_an_extractor_that_sees_no_difference(self) -> None:
        x = sample(normal(60, 4, 0), 3)
        for name, least in (("fid", 0), ("precision_recall", 1), ("prd", 1)):
            for replicates in measured(name, x, x).values():
                assert replicates[0] == pytest.approx(least, abs=1e-5)


class TestFID:
    @pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 12), (20, 90, 30)])
    def test_agrees_with_torch_fidelity(self, n: int, m: int, d: int) -> None:
        x, y = sample(normal(n, d, 0)), sample(normal(m, d, 1, 0.3, 1.5))
        expected = fid_statistics_to_metric(
            *(fid_features_to_statistics(doubles(side)) for side in (x, y)), verbose=False
        )["frechet_inception_distance"]
        assert measured("fid", x, y)["fid"][0] == pytest.approx(expected, abs=1e-5)

    def test_agrees_with_the_matrix_root(self) -> None:
        x, y = np.maximum(normal(300, 512, 0), 0), np.maximum(normal(250, 512, 1, 0.2), 0)
        s, t = np.cov(x.T.astype(float)), np.cov(y.T.astype(float))
        apart = x.mean(0, dtype=float) - y.mean(0, dtype=float)
        expected = apart @ apart + np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t)).real
        assert frechet_distance(x, y)[0] == pytest.approx(expected, abs=1e-3)

    @pytest.mark.parametrize(
        ("n", "m", "d"),
        [(12, 20, 40), (12, 60, 20), (12, 90, 20), (90, 12, 20), (60, 50, 8)],
        ids=["rows", "rows, many", "rows and root", "root and rows", "roots"],
    )
    @pytest.mark.parametrize("dead", [0, 3])
    def test_influence_is_the_derivative(self, n: int, m: int, d: int, dead: int) -> None:
        rng = np.random.default_rng(0)
        x, y = normal(n, d, 0), normal(m, d, 1, 0.2, 1.3)
        x[:, :dead] = y[:, :dead] = 1  # a feature that never changes has no variance to divide by
        du, dv = rng.normal(size=n), rng.normal(size=m)
        du, dv = du - du.mean(), dv - dv.mean()

        def at(step: float) -> float:
            return weighted_fid(x.astype(float), y.astype(float), 1 + step * du, 1 + step * dv)

        distance, of_x, of_y = frechet_distance(x, y)
        assert distance == pytest.approx(at(0), rel=1e-6)
        assert of_x @ du + of_y @ dv == pytest.approx((at(1e-4) - at(-1e-4)) / 2e-4, rel=1e-4)

    def test_resampling_does_not_inflate_it(self) -> None:
        x, y = (sample(normal(60, 16, i), 3, 1000, i) for i in (0, 1))
        replicates = measured("fid", x, y)["fid"]
        assert abs(replicates[1:].mean() - replicates[0]) < 4 * replicates[1:].std() / np.sqrt(1000)

    def test_interval_covers_the_known_distance(self) -> None:
        n, scales = 400, np.array([0.5, 1.0, 2.0])
        truth = 3 * 0.5**2 + ((scales - 1) ** 2).sum()
        covered = 0
        for seed in range(200):
            x = sample(normal(n, 3, seed, 0.5 / scales) * scales.astype(np.float32), 1, 200, seed)
            y = sample(normal(n, 3, 10_000 + seed), 1, 200, seed, real=True)
            found = OUTPUTS["fid"].estimate(measured("fid", x, y)["fid"], n, 0.95)
            assert found is not None
            covered += found.low <= truth <= found.high
        assert covered >= 180

    @pytest.mark.parametrize("n", [40, 300])
    def test_draws_spread_as_independent_sets_do(self, n: int) -> None:
        # With few images for its 64 features, the distance of each resample would spread 1.5 times
        # as much.
        replicates = np.array(
            [
                measured("fid", sample(normal(n, 64, seed, 0.1), 1, 100), sample(other, 1, 100))[
                    "fid"
                ]
                for seed in range(150)
                for other in [normal(n, 64, 1000 + seed, 0.0, 1.3)]
            ]
        )
        spread = np.sqrt(replicates[:, 1:].var(1).mean())
        assert 0.85 < spread / replicates[:, 0].std() < 1.3


class TestKID:
    def test_agrees_with_a_double_loop(self) -> None:
        x, y = sample(normal(7, 3, 0)), sample(normal(5, 3, 1, 0.5))

        def k(a: Floats32, b: Floats32) -> float:
            return float((a.astype(float) @ b.astype(float) / 3 + 1) ** 3)

        a, b = x.features, y.features
        within = sum(k(p, q) for i, p in enumerate(a) for j, q in enumerate(a) if i != j) / 42
        within += sum(k(p, q) for i, p in enumerate(b) for j, q in enumerate(b) if i != j) / 20
        between = sum(k(p, q) for p in a for q in b) / 35
        assert measured("kid", x, y)["kid"][0] == pytest.approx(within - 2 * between, rel=1e-12)

    def test_resamples_of_classes_agree_with_pairs_of_images(self) -> None:
        x = counted(sample(normal(14, 3, 0), 3))
        y = counted(sample(normal(12, 3, 1, 0.5), 2, real=True), 1)

        def mean(a: Sample, b: Sample, same: bool) -> float:
            """Over pairs of classes in proportion, and their pairs of different originals."""
            total = 0.0
            for c in np.unique(a.labels):
                for e in np.unique(b.labels):
                    rows, columns = np.flatnonzero(a.labels == c), np.flatnonzero(b.labels == e)
                    values = [
                        (a.features[i].astype(float) @ b.features[j] / 3 + 1) ** 3
                        for i in np.repeat(rows, a.weights[rows, 4].astype(int))
                        for j in np.repeat(columns, b.weights[columns, 4].astype(int))
                        if not (same and i == j)
                    ]
                    total += len(rows) * len(columns) * float(np.mean(values))
            return total / (len(a) * len(b))

        expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
        assert measured("kid", x, y)["kid"][4] == pytest.approx(expected, rel=1e-9)

    def test_subsets_agree_with_torch_fidelity(self) -> None:
        x, y = sample(normal(60, 16, 0)), sample(normal(80, 16, 1, 0.1))
        found = measured("kid", x, y, subsets=7, subset_size=50, seed=3)
        expected = kid_features_to_metric(
            doubles(x), doubles(y), kid_subsets=7, kid_subset_size=50, rng_seed=3, verbose=False
        )["kernel_inception_distance_mean"]
        assert found["kid_subsets"][0] == pytest.approx(expected, abs=1e-12)
        moved = found["kid_subsets"] - found["kid"]
        np.testing.assert_allclose(moved, moved[0])
        # All images at once, in any order, are all pairs of one class.
        equal = sample(normal(60, 16, 1, 0.1))
        found = measured("kid", x, equal, subsets=1, subset_size=60)
        assert found["kid_subsets"][0] == pytest.approx(found["kid"][0], abs=1e-12)
        assert "kid_subsets" not in measured("kid", x, y, subset_size=61)

    def test_resampling_neither_inflates_nor_deflates_it(self) -> None:
        # Copies counted as pairs would add k(x, x): about 0.2 here, many times the tolerance.
        x, y = sample(normal(40, 8, 0), 1, 4000), sample(normal(40, 8, 1, 0.3), 1, 4000, real=True)
        replicates = measured("kid", x, y)["kid"]
        error = replicates[1:].std() / np.sqrt(4000)
        assert error < 0.003
        assert abs(replicates[1:].mean() - replicates[0]) < 4 * error

    def test_fixed_class_counts_do_not_bias_it(self) -> None:
        # Ten far-apart classes, six images each, generated = real: the mean over draws is zero.
        # The plain U-statistic's is far below, for too few of its pairs are of one class.
        centres = normal(10, 8, 0, scale=3)
        labels = np.arange(60) % 10
        found, plain = [], []
        for seed in range(200):
            x, y = (
                sample(centres[labels] + normal(60, 8, seed + first), 10, 1) for first in (1, 1001)
            )
            replicates = measured("kid", x, y, subsets=1, subset_size=60)
            found.append(replicates["kid"][0])
            plain.append(replicates["kid_subsets"][0])
        error = np.std(found) / np.sqrt(200)
        assert abs(np.mean(found)) < 3 * error
        assert np.mean(plain) < -20 * error

    @pytest.mark.parametrize(("mean", "n"), [(0.0, 60), (0.5, 60), (0.0, 20), (0.5, 20)])
    def test_few_images_show_the_known_distance(self, mean: float, n: int) -> None:
        d, repetitions = 6, 300

        def third(m: Floats) -> Floats:
            """E[x x^T x] of N(m, I): (d, d, d)."""
            eye = np.eye(d)
            return (
                np.einsum("a,b,c->abc", m, m, m)
                + np.einsum("a,bc->abc", m, eye)
                + np.einsum("b,ac->abc", m, eye)
                + np.einsum("c,ab->abc", m, eye)
            )

        def k(m: Floats, v: Floats) -> float:
            """E (x·y / d + 1)^3 for independent x of N(m, I) and y of N(v, I)."""
            first = m @ v / d
            second = ((np.eye(d) + np.outer(m, m)) * (np.eye(d) + np.outer(v, v))).sum() / d**2
            return float((third(m) * third(v)).sum() / d**3 + 3 * second + 3 * first + 1)

        m, v = np.full(d, mean), np.zeros(d)
        truth = k(m, m) + k(v, v) - 2 * k(m, v)
        values, covered = [], 0
        for seed in range(repetitions):
            x = sample(normal(n, d, seed, mean), 1, 200, seed)
            y = sample(normal(n, d, seed + 10_000), 1, 200, seed, real=True)
            found = OUTPUTS["kid"].estimate(measured("kid", x, y)["kid"], n, 0.95)
            assert found is not None
            values.append(found.value)
            covered += found.low <= truth <= found.high
        assert covered >= 0.9 * repetitions
        assert abs(np.mean(values) - truth) < 3 * np.std(values) / np.sqrt(repetitions)

    @pytest.mark.parametrize("each", [2, 3])
    def test_covers_with_few_images_of_many_classes(self, each: int) -> None:
        """A class whose resample is one image again and again keeps its share of the mean."""
        labels = np.repeat(np.arange(40), each)
        centres = normal(40, 8, 0, 0, 2)
        rng = np.random.default_rng(each)
        covered = 0
        for seed in range(60):
            sides = [
                resample(
                    (centres[labels] + rng.normal(size=(len(labels), 8))).astype(np.float32),
                    np.zeros((len(labels), 1), np.float32),
                    labels,
                    100,
                    seed,
                    side,
                )
                for side in ("generated", "real")
            ]
            found = OUTPUTS["kid"].estimate(measured("kid", *sides)["kid"], len(labels), 0.95)
            assert found is not None
            covered += found.low <= 0 <= found.high
        assert covered >= 48


class TestPrecisionRecall:
    def test_agrees_with_torch_fidelity(self) -> None:
        x, y = sample(normal(300, 16, 0), 3), sample(normal(250, 16, 1, 0.4, 0.9), 3)
        found = measured("precision_recall", x, y)
        expected = prc_features_to_metric(
            doubles(x), doubles(y), prc_neighborhood=5, prc_batch_size=100, verbose=False
        )
        for number, replicates in found.items():
            assert 0.1 < expected[number] < 0.9
            assert replicates[0] == pytest.approx(expected[number], abs=1e-7)

    def test_agrees_with_a_double_loop(self) -> None:
        x, y = sample(normal(200, 3, 0, 0.8)), sample(normal(30, 3, 1, scale=0.5))
        a, b = x.features, y.features
        radius = [sorted(np.linalg.norm(p - b, axis=1))[3] for p in b]  # [0] is the image itself
        inside = [
            any(np.linalg.norm(p - q) <= r for q, r in zip(b, radius, strict=True)) for p in a
        ]
        assert 0.1 < np.mean(inside) < 0.9
        found = measured("precision_recall", x, y, k=3)
        assert found["precision"][0] == pytest.approx(np.mean(inside))

    @pytest.mark.parametrize("resamples", [0, 20])
    def test_a_ball_holds_its_border(self, resamples: int) -> None:
        far = 100.0 * np.arange(1, 10, dtype=np.float32)[:, None]  # ten images a side are needed
        x = sample(np.concatenate([[[-1.0], [2.0], [3.0]], -far]).astype(np.float32), 1, resamples)
        y = sample(np.concatenate([[[0.0], [1.0]], 9000 + far]).astype(np.float32), 1, resamples)
        found = measured("precision_recall", x, y, k=1)
        assert found["precision"][0] == pytest.approx(2 / 12)

    def test_the_ball_of_an_image_that_exists_many_times_holds_its_copies(self) -> None:
        originals = normal(12, 512, 0)
        x = sample(originals[np.arange(71) % 12])
        y = sample(originals[np.repeat(np.arange(12), 7)], real=True)
        found = measured("precision_recall", x, y)
        assert (found["precision"][0], found["recall"][0]) == (1, 1)

    @pytest.mark.parametrize("k", [1, 4])
    def test_replicates_come_from_leaving_out_images_of_the_manifold(self, k: int) -> None:
        # On a lattice, where many images lie on the border of a ball.
        x = sample(normal(80, 3, 0, 0, 3).round(), 2)
        y = sample(normal(90, 3, 1, 2, 3).round(), 2, real=True)
        found = measured("precision_recall", x, y, k=k)

        def inside(points: Floats32, balls: Floats32) -> Floats:
            own = np.sort(np.linalg.norm(balls[:, None] - balls, axis=2))[:, k]
            apart = np.linalg.norm(points[:, None] - balls, axis=2)
            return (apart <= own + 1e-6).any(1).astype(float)

        for number, points, balls in (("precision", x, y), ("recall", y, x)):
            hits = inside(points.features, balls.features)
            of_balls = np.zeros(21)
            for c in (0, 1):
                rows = np.flatnonzero(balls.labels == c)
                without = [inside(points.features, np.delete(balls.features, i, 0)) for i in rows]
                change = np.mean(without, axis=1) - hits.mean()
                weights = balls.weights[rows] - 1
                of_balls -= (1 - 1 / len(rows)) * (change @ weights)
            expected = hits @ points.weights / len(points) + of_balls
            np.testing.assert_allclose(found[number], expected, atol=1e-6)
            assert found[number].std() > 0.01

    def test_recall_near_one_has_a_spread(self) -> None:
        """Made anew in each resample, the balls would hold everything in every one."""
        values, intervals = [], []
        for seed in range(60):
            x = sample(normal(54, 8, 2 * seed), 3, 100)
            y = sample(normal(54, 8, 2 * seed + 1), 3, 100, real=True)
            replicates = measured("precision_recall", x, y)["recall"]
            values.append(replicates[0])
            intervals.append(OUTPUTS["recall"].estimate(replicates, 54, 0.95))
        truth = np.mean(values)
        assert 0.9 < truth < 1
        assert sum(e.low <= truth <= e.high for e in intervals if e) >= 54

    def test_the_ends_of_the_scale(self) -> None:
        x = sample(normal(50, 4, 0))
        near = measured("precision_recall", x, x)
        assert (near["precision"][0], near["recall"][0]) == (1, 1)
        far = measured("precision_recall", x, sample(normal(50, 4, 1, 100)))
        assert not far["precision"].any()
        assert not far["recall"].any()

    def test_both_sides_need_ten_neighbourhoods(self) -> None:
        x, few = sample(normal(50, 4, 0)), sample(normal(49, 4, 1))
        for sides in ((x, few), (few, x)):
            assert all(np.isnan(v).all() for v in measured("precision_recall", *sides).values())
        assert all(np.isfinite(v).all() for v in measured("precision_recall", x, x).values())


class TestInceptionScore:
    @pytest.mark.parametrize("splits", [1, 3])
    def test_agrees_with_torch_fidelity(self, splits: int) -> None:
        x = sample(normal(100, 2, 0))
        found = measured("inception_score", x, x, splits=splits)["inception_score"][0]
        logits = torch.from_numpy(x.logits)
        expected = isc_features_to_metric(logits, splits, rng_seed=2020)["inception_score_mean"]
        assert expected > 2
        assert found == pytest.approx(expected, abs=1e-9)

    def test_replicates_come_from_leaving_out_images(self) -> None:
        x = sample(normal(40, 2, 0), 3)
        replicates = measured("inception_score", x, x, splits=2)["inception_score"]
        order = np.random.RandomState(2020).permutation(40)
        changes = np.zeros(40)
        for part in (order[:20], order[20:]):
            one = once(x.at(part))
            whole = measured("inception_score", one, x, splits=1)["inception_score"][0]
            for at, i in enumerate(part):
                rest = one.at(np.delete(np.arange(20), at))
                left = measured("inception_score", rest, x, splits=1)["inception_score"][0]
                changes[i] = (left - whole) / 2
        counts = np.bincount(x.labels)[x.labels]
        expected = replicates[0] - (changes * (1 - 1 / counts)) @ (x.weights - 1.0)
        np.testing.assert_allclose(replicates, expected, atol=1e-5)

    def test_a_split_needs_ten_images(self) -> None:
        x = sample(normal(99, 2, 0))
        found = measured("inception_score", x, x, splits=10)["inception_score"]
        assert np.isnan(found).all()

    def test_the_ends_of_the_scale(self) -> None:
        x = sample(normal(70, 2, 0))
        for logits, score in ((np.zeros((70, 7)), 1), (1000 * np.eye(7)[np.arange(70) % 7], 7)):
            ends = Sample(x.features, logits.astype(np.float32), x.labels, x.weights)
            found = measured("inception_score", ends, x, splits=1)["inception_score"]
            assert found[0] == pytest.approx(score)


class TestPRD:
    @staticmethod
    def naive(p: Floats, q: Floats, beta: float) -> float:
        """Sajjadi et al.'s definition, angle by angle."""
        best = 0.0
        for angle in np.linspace(1e-10, np.pi / 2 - 1e-10, 1001):
            slope = np.tan(angle)
            precision = sum(min(slope * b, a) for a, b in zip(p, q, strict=True))
            recall = sum(min(b, a / slope) for a, b in zip(p, q, strict=True))
            best = max(
                best, (1 + beta**2) * precision * recall / (beta**2 * precision + recall + 1e-10)
            )
        return best

    def test_agrees_with_the_definition_in_every_resample(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x, y = sample(normal(60, 2, 0)), sample(normal(60, 2, 1), real=True)
        rng = np.random.default_rng(0)
        # Some clusters have images of one side only.
        bins = np.concatenate([rng.integers(0, 9, 60), 3 + rng.integers(0, 9, 60)])
        monkeypatch.setattr(prd, "_cluster", lambda *_: bins)
        found = measured("prd", x, y, clusters_per_class=12)
        for b in (0, 5):
            p, q = (
                np.bincount(c, side.weights[:, b], 12) / 60
                for c, side in ((bins[:60], x), (bins[60:], y))
            )
            assert found["f_8"][b] == pytest.approx(self.naive(p, q, 8))
            assert found["f_1_8"][b] == pytest.approx(self.naive(p, q, 1 / 8))
        assert abs(found["f_8"][0] - found["f_1_8"][0]) > 0.01

    def test_f_8_is_recall_and_f_1_8_precision(self) -> None:
        # Half of the modes, all of them right; then all of the modes, half of the images wrong.
        modes = 20 * normal(4, 3, 0)
        every, half = (modes[np.arange(200) % n] + normal(200, 3, 1) for n in (4, 2))
        found = measured("prd", sample(half), sample(every))
        assert found["f_1_8"][0] > 0.9
        assert found["f_8"][0] < 0.6
        found = measured("prd", sample(every), sample(half))
        assert found["f_8"][0] > 0.9
        assert found["f_1_8"][0] < 0.6

    def test_nothing_in_common(self) -> None:
        found = measured("prd", sample(normal(50, 3, 0)), sample(normal(50, 3, 1, 100)))
        assert found["f_8"][0] < 1e-6
        assert found["f_1_8"][0] < 1e-6

    def test_the_larger_set_is_cut_class_by_class(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = sample(normal(40, 3, 0)), sample(normal(100, 3, 1))
        y = Sample(y.features, y.logits, np.repeat([0, 1, 2], [30, 35, 35]), y.weights)
        seen: list[Floats32] = []

        def cluster(union: Floats32, _clusters: int, _seed: int) -> np.ndarray:
            seen.append(union)
            return np.zeros(len(union), np.int64)

        monkeypatch.setattr(prd, "_cluster", cluster)
        one_cluster = measured("prd", x, y, clusters_per_class=2)["f_8"]
        np.testing.assert_allclose(one_cluster, 1)  # what is left of a resample is a whole
        np.testing.assert_array_equal(seen[0][:40], x.features)
        kept = [np.flatnonzero((y.features == row).all(1))[0] for row in seen[0][40:]]
        assert len(set(kept)) == 40
        counts = np.bincount(y.labels[kept])
        assert np.abs(counts - [12, 14, 14]).max() <= 1

    def test_a_seed_fixes_it(self) -> None:
        x, y = sample(normal(60, 3, 0), 3), sample(normal(70, 3, 1, 0.5), 3, real=True)
        a, b, c = (measured("prd", x, y, seed=seed)["f_8"] for seed in (0, 0, 1))
        np.testing.assert_array_equal(a, b)
        assert a[0] != c[0]

    def test_clusters_need_five_images_each(self) -> None:
        x, y = sample(normal(70, 3, 0), 3), sample(normal(59, 3, 1), 3)
        assert np.isnan(measured("prd", x, y)["f_8"]).all()  # 4 clusters for each of 3 classes
        assert np.isfinite(measured("prd", x, y, clusters_per_class=3)["f_8"]).all()

    @pytest.mark.parametrize("change", [0.0, 1.5])
    def test_many_clusters_by_lloyds_rounds_give_what_mini_batches_give(
        self, change: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def values(most: int) -> np.ndarray:
            monkeypatch.setattr(prd, "MOST_BY_BATCHES", most)
            x, y = sample(normal(360, 6, 0, change)), sample(normal(360, 6, 1))
            found = [measured("prd", x, y, seed=s, clusters_per_class=14, runs=5) for s in range(3)]
            return np.array([[f["f_8"][0], f["f_1_8"][0]] for f in found])

        batches, rounds = values(2000), values(0)
        assert np.abs(batches - rounds).max() > 0  # another way
        np.testing.assert_allclose(rounds.mean(0), batches.mean(0), atol=0.04)
        monkeypatch.undo()
        assert "Lloyd" in prd.METRIC.provenance(prd.PRDConfig(), 1000)["prd"]
        assert prd.METRIC.provenance(prd.PRDConfig(), 100)["prd"] == "20 clusters a class, 10 runs"


class TestAgreement:
    def test_it_is_the_share_of_images_seen_as_asked_for(self) -> None:
        x = sample(normal(40, 2, 0), 7)
        assert x.own_logits is not None
        right = x.own_logits.argmax(1) == x.labels
        replicates = measured("agreement", x, x)["agreement"]
        assert replicates[0] == pytest.approx(right.mean())
        assert replicates[5] == pytest.approx((right * x.weights[:, 5]).mean())


class TestIntervals:
    def test_every_resample_keeps_the_class_counts(self) -> None:
        found = sample(normal(35, 2, 0), 4, 50)
        for one in found.by_class():
            np.testing.assert_allclose(one.weights.sum(0), len(one), rtol=1e-6)
        assert (found.weights[:, 0] == 1).all()

    @pytest.mark.parametrize("n", [2, 5])
    def test_a_mean_of_few_images_varies_as_independent_ones_do(self, n: int) -> None:
        values = normal(n, 1, 0)[:, 0]
        weights = sample(normal(n, 1, 0), 1, 20_000).weights
        expected = values.var(ddof=1) / n
        assert (values @ weights[:, 1:] / n).var() == pytest.approx(expected, rel=0.05)

    def test_a_class_is_resampled_alike_whatever_the_others(self) -> None:
        x = normal(35, 2, 0)
        whole, fewer = sample(x, 5), sample(x[:33], 5)
        np.testing.assert_array_equal(whole.of([0]).weights, fewer.of([0]).weights)
        assert not np.array_equal(whole.of([0]).weights, whole.of([1]).weights)
        assert not np.array_equal(whole.weights, sample(x, 5, real=True).weights)

    @pytest.mark.parametrize(("right", "n"), [(0, 8), (8, 8), (37, 40)])
    def test_wilson_agrees_with_scipy(self, right: int, n: int) -> None:
        found = wilson_interval(right, n, 0.95)
        expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert found is not None
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))

    def test_recentring_takes_out_the_shift_and_keeps_the_width(self) -> None:
        replicates = np.concatenate([[0.5], 0.7 + 0.1 * normal(1000, 1, 0)[:, 0].astype(float)])
        raw = percentile_interval(replicates, 0.95)
        found = recentred_interval(replicates, 0.95, (0, 1))
        assert raw is not None
        assert found is not None
        assert raw.low > raw.value
        assert found.high - found.low == pytest.approx(raw.high - raw.low)
        assert (found.low + found.high) / 2 == pytest.approx(0.5, abs=0.02)
        cut = recentred_interval(replicates, 0.95, (0.4, 0.6))
        assert cut is not None
        assert (cut.low, cut.high) == (0.4, 0.6)

    def test_nothing_known_is_no_interval(self) -> None:
        assert percentile_interval(np.full(21, np.nan), 0.95) is None
        assert recentred_interval(np.full(21, np.nan), 0.95, (0, 1)) is None
        assert wilson_interval(0, 0, 0.95) is None
