"""FID, KID and recall against naive or library implementations, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import binomtest

from whipray.platform.evaluation.bootstrap import (
    Sample,
    percentile_interval,
    recentred_interval,
    resample,
    wilson_interval,
)
from whipray.platform.evaluation.fid import frechet_distance, resampled_fid
from whipray.platform.evaluation.kid import kid, resampled_kid
from whipray.platform.evaluation.recall import resampled_coverage


def normal(n: int, d: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, scale, (n, d))


def one_class(features: np.ndarray, resamples: int = 20, seed: int = 0) -> Sample:
    labels = np.zeros(len(features), np.int64)
    return resample(features, labels, resamples, np.random.default_rng(seed))


class TestFID:
    def test_agrees_with_the_matrix_root(self) -> None:
        x, y = normal(300, 12, 0), normal(200, 12, 1, 0.3) @ np.diag(np.linspace(0.5, 2, 12))
        root = sqrtm(np.cov(x.T) @ np.cov(y.T)).real
        expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(
            np.cov(x.T) + np.cov(y.T) - 2 * root
        )
        assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)

    def test_fewer_images_than_features(self) -> None:
        x, y = normal(9, 30, 0), normal(14, 30, 1)
        # tr (S_x S_y)^(1/2) from the eigenvalues of the product, which needs no root of a matrix.
        values = np.linalg.eigvals(np.cov(x.T) @ np.cov(y.T)).real
        root = np.sqrt(np.sort(values)[-8:]).sum()  # rank of 9 centred rows
        expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T))
        assert frechet_distance(x, y) == pytest.approx(expected - 2 * root, rel=1e-6)

    def test_weights_are_repeated_rows(self) -> None:
        x, y = normal(20, 4, 0), normal(30, 4, 1)
        w = np.random.default_rng(2).integers(0, 4, 20).astype(float)
        assert frechet_distance(x, y, w) == pytest.approx(
            frechet_distance(np.repeat(x, w.astype(int), 0), y)
        )

    def test_interval_holds_the_estimate_though_resampling_inflates_it(self) -> None:
        draws = resampled_fid(one_class(normal(60, 16, 0), 100), one_class(normal(60, 16, 1), 100))
        assert np.quantile(draws[1:], 0.025) > draws[0]  # the shift that recentring takes out
        found = recentred_interval(draws, 0.95, (0, np.inf))
        assert found is not None
        assert found.low < found.value < found.high


class TestKID:
    def test_agrees_with_a_double_loop(self) -> None:
        x, y = normal(7, 3, 0), normal(5, 3, 1, 0.5)

        def k(a: np.ndarray, b: np.ndarray) -> float:
            return float((sum(a * b) / 3 + 1) ** 3)

        within = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / 42
        within += sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / 20
        between = sum(k(a, b) for a in x for b in y) / 35
        assert kid(x, y) == pytest.approx(within - 2 * between, rel=1e-12)
        draws = resampled_kid(one_class(x), one_class(y))
        assert draws[0] == pytest.approx(kid(x, y), rel=1e-12)

    def test_several_chunks_are_one_kernel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = one_class(normal(50, 3, 0)), one_class(normal(40, 3, 1))
        whole = resampled_kid(x, y)
        monkeypatch.setattr("whipray.platform.evaluation.kid.CHUNK", 7)
        np.testing.assert_allclose(resampled_kid(x, y), whole)

    def test_resampling_neither_inflates_nor_deflates_it(self) -> None:
        # Copies counted as pairs would add k(x, x): about 0.2 here, many times the tolerance.
        draws = resampled_kid(
            one_class(normal(40, 8, 0), 4000), one_class(normal(40, 8, 1, 0.3), 4000)
        )
        error = draws[1:].std() / np.sqrt(4000)
        assert error < 0.003
        assert abs(draws[1:].mean() - draws[0]) < 4 * error

    def test_fixed_class_counts_do_not_bias_it(self) -> None:
        # Ten far-apart classes, six images each, generated = real: the mean over draws is zero.
        # The plain U-statistic's is far below, for too few of its pairs are of one class.
        centres = normal(10, 8, 0, scale=3)
        labels = np.repeat(np.arange(10), 6)
        rng = np.random.default_rng(1)
        found, plain = [], []
        for _ in range(200):
            x, y = (centres[labels] + rng.normal(size=(60, 8)) for _ in range(2))
            ones = np.ones((60, 1))
            found.append(resampled_kid(Sample(x, labels, ones), Sample(y, labels, ones))[0])
            plain.append(kid(x, y))
        error = np.std(found) / np.sqrt(200)
        assert abs(np.mean(found)) < 3 * error
        assert np.mean(plain) < -20 * error

    @pytest.mark.parametrize("mean", [0.0, 0.5])
    def test_interval_covers_the_known_distance(self, mean: float) -> None:
        d, n, repetitions = 6, 60, 300

        def third(m: np.ndarray) -> np.ndarray:
            """E[x x^T x] of N(m, I): (d, d, d)."""
            eye = np.eye(d)
            return (
                np.einsum("a,b,c->abc", m, m, m)
                + np.einsum("a,bc->abc", m, eye)
                + np.einsum("b,ac->abc", m, eye)
                + np.einsum("c,ab->abc", m, eye)
            )

        def k(m: np.ndarray, v: np.ndarray) -> float:
            """E (x·y / d + 1)^3 for independent x of N(m, I) and y of N(v, I)."""
            first = m @ v / d
            second = ((np.eye(d) + np.outer(m, m)) * (np.eye(d) + np.outer(v, v))).sum() / d**2
            return float((third(m) * third(v)).sum() / d**3 + 3 * second + 3 * first + 1)

        m, v = np.full(d, mean), np.zeros(d)
        truth = k(m, m) + k(v, v) - 2 * k(m, v)
        rng = np.random.default_rng(0)
        covered = 0
        for seed in range(repetitions):
            x, y = rng.normal(mean, 1, (n, d)), rng.normal(0, 1, (n, d))
            draws = resampled_kid(one_class(x, 200, seed), one_class(y, 200, seed + 10_000))
            found = percentile_interval(draws, 0.95)
            assert found is not None
            covered += found.low <= truth <= found.high
        assert covered >= 0.9 * repetitions


class TestRecall:
    def test_agrees_with_a_double_loop(self) -> None:
        x, y, k = normal(200, 3, 0, 0.8), normal(25, 3, 1, scale=0.5), 3
        radius = [sorted(np.linalg.norm(b - y, axis=1))[k] for b in y]  # [0] is the image itself
        inside = [
            any(np.linalg.norm(a - b) <= r for b, r in zip(y, radius, strict=True)) for a in x
        ]
        assert 0.1 < np.mean(inside) < 0.9
        draws = resampled_coverage(one_class(x), one_class(y), k)
        assert draws[0] == pytest.approx(np.mean(inside))

    def test_resamples_are_the_metric_on_the_images_left(self) -> None:
        x, y = one_class(normal(80, 3, 0)), one_class(normal(90, 3, 1, 0.8), seed=1)
        draws = resampled_coverage(x, y, 4)
        for b in (1, 7):
            left = one_class(y.features[y.weights[:, b] > 0])
            repeated = one_class(np.repeat(x.features, x.weights[:, b].astype(int), 0))
            assert draws[b] == pytest.approx(resampled_coverage(repeated, left, 4)[0])

    def test_the_ends_of_the_scale(self) -> None:
        x = one_class(normal(50, 4, 0))
        assert resampled_coverage(x, x, 5)[0] == 1
        assert resampled_coverage(x, one_class(normal(50, 4, 1, 100)), 5)[0] == 0

    def test_a_manifold_needs_more_than_k_images(self) -> None:
        x, few = one_class(normal(50, 4, 0)), one_class(normal(5, 4, 1))
        assert np.isnan(resampled_coverage(x, few, 5)).all()


class TestIntervals:
    def test_every_resample_keeps_the_class_counts(self) -> None:
        labels = np.array([0] * 5 + [3] * 9)
        sample = resample(normal(14, 2, 0), labels, 50, np.random.default_rng(0))
        assert (sample.of([0]).weights.sum(0) == 5).all()
        assert (sample.of([3]).weights.sum(0) == 9).all()
        assert (sample.weights[:, 0] == 1).all()

    @pytest.mark.parametrize(("right", "n"), [(0, 8), (8, 8), (37, 40)])
    def test_wilson_agrees_with_scipy(self, right: int, n: int) -> None:
        found = wilson_interval(right, n, 0.95)
        expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert found is not None
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))

    def test_nothing_known_is_no_interval(self) -> None:
        assert percentile_interval(np.full(21, np.nan), 0.95) is None
        assert recentred_interval(np.full(21, np.nan), 0.95, (0, 1)) is None
        assert wilson_interval(0, 0, 0.95) is None
