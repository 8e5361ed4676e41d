"""Runs side by side: paired intervals that cover, noise that is called so, and refusals with reasons."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from whipray.platform.evaluation.bootstrap import Estimate, Floats, resample
from whipray.platform.evaluation.compare import Evaluation, compare, difference, read_evaluation
from whipray.platform.evaluation.pages.comparison import render_comparison
from whipray.platform.evaluation.report import ClassRow, Report, Row
from whipray.trainers.errors import DataProblem

RESAMPLES, SEED = 200, 7
PROVENANCE = {
    "extractor_hash": "ab12",
    "n_generated": 80,
    "groups": "thirds by training count",
    "bootstrap_seed": SEED,
    "bootstrap_resamples": RESAMPLES,
}
GROUPS = {"overall": {0: 40, 1: 40}, "few": {1: 40}}


def mean_replicates(values: Floats, seed: int = SEED) -> Floats:
    """Draws of the mean of `values` (n,), of two classes, resampled as an evaluation's images are."""
    labels = np.arange(len(values)) % 2
    nothing = np.zeros((len(values), 1), np.float32)
    weights = resample(nothing, nothing, labels, RESAMPLES, seed, "generated").weights
    return values @ weights / len(values)


def evaluation(**replicates: Floats) -> Evaluation:
    return Evaluation(PROVENANCE, {k.replace("__", "/"): v for k, v in replicates.items()}, GROUPS)


# ---- intervals


@pytest.mark.parametrize("metric", ["kid", "fid", "agreement"])
def test_paired_intervals_cover_the_true_difference_and_are_narrower(metric: str) -> None:
    generator = np.random.default_rng(1)
    covered, widths, apart = [], [], []
    for seed in range(300):
        shared = generator.normal(5, 1, 80)  # what both runs owe to the same images
        a = shared + generator.normal(0, 0.3, 80)
        b = shared + generator.normal(0.1, 0.3, 80)  # the mean is 0.1 higher
        first, paired = mean_replicates(a, seed), mean_replicates(b, seed)
        found = difference(metric, paired, first, 0.95)
        loose = difference(metric, mean_replicates(b, seed + 1000), first, 0.95)
        assert found is not None
        assert loose is not None
        assert found.value == pytest.approx(b.mean() - a.mean())
        covered.append(found.low <= 0.1 <= found.high)
        widths.append(found.high - found.low)
        apart.append(loose.high - loose.low)
    assert 0.90 <= np.mean(covered) <= 0.99  # nominal 0.95; its standard deviation here is 0.013
    # sd of a difference: sqrt(2 · 0.3²) paired, sqrt(2 · (1 + 0.3²)) not
    assert np.median(widths) / np.median(apart) == pytest.approx(0.287, rel=0.15)


@pytest.mark.parametrize("p", [0.5, 0.95])
def test_runs_that_are_alike_are_called_different_as_often_as_the_level_says(p: float) -> None:
    generator = np.random.default_rng(2)
    wrong = []
    for seed in range(400):
        a, b = (generator.random((2, 80)) < p).astype(float)
        found = difference("agreement", mean_replicates(b, seed), mean_replicates(a, seed), 0.95)
        wrong.append(found is not None and not found.noise)
    assert np.mean(wrong) <= 0.09  # nominal 0.05; its standard deviation here is 0.011


def test_a_recentred_number_is_compared_by_its_spread_alone() -> None:
    spread = np.linspace(-1, 1, 201)
    first = np.concatenate([[10.0], np.full(201, 13.0)])  # resampling alone moved it by 3
    other = np.concatenate([[12.0], 18.0 + spread])  # and this one by 6
    fid = difference("fid", other, first, 0.9)
    assert fid is not None
    assert (fid.value, fid.low, fid.high) == pytest.approx((2, 1.1, 2.9))
    kid = difference("kid", other, first, 0.9)
    assert kid is not None
    assert (kid.value, kid.low, kid.high) == pytest.approx((2, 4.1, 5.9))
    recall = difference("recall", other / 12, first / 12, 0.9)
    assert recall is not None
    assert -1 <= recall.low <= recall.high <= 1


def test_an_undefined_number_has_no_difference_and_undefined_resamples_are_left_out() -> None:
    replicates = mean_replicates(np.arange(80.0))
    undefined = np.full_like(replicates, np.nan)
    assert difference("kid", replicates, undefined, 0.95) is None
    some = replicates.copy()
    some[1:50] = np.nan
    assert difference("kid", some, replicates, 0.95) == difference(
        "kid", replicates, replicates, 0.95
    )


# ---- comparisons


def test_a_comparison_lines_up_runs_numbers_and_groups() -> None:
    generator = np.random.default_rng(3)
    good, poor = (generator.random((2, 80)) < [[0.9], [0.4]]).astype(float)
    a = evaluation(
        agreement__overall=mean_replicates(poor),
        agreement__few=mean_replicates(poor),
        kid__few=mean_replicates(poor),
    )
    b = evaluation(
        agreement__overall=mean_replicates(good), kid__few=np.full(1 + RESAMPLES, np.nan)
    )
    found = compare(["a", "again", "b"], [a, a, b], 0.95)

    assert [(row.metric, row.group) for row in found.rows] == [
        ("kid", "few"),
        ("agreement", "overall"),
        ("agreement", "few"),
    ]
    for row in found.rows:
        same = row.differences[1]
        assert row.differences[0] is None
        assert same is not None
        assert (same.value, same.low, same.high, same.noise) == (0, 0, 0, True)
        assert row.estimates[0] == row.estimates[1] is not None
    kid, overall, few = found.rows
    assert kid.estimates[2] is kid.differences[2] is None  # undefined
    assert few.estimates[2] is few.differences[2] is None  # not measured
    better = overall.differences[2]
    assert better is not None
    assert not better.noise
    assert better.low < good.mean() - poor.mean() < better.high
    worse = compare(["b", "a"], [b, a], 0.95).rows[1].differences[1]
    assert worse is not None
    assert not worse.noise
    assert worse.low < poor.mean() - good.mean() < worse.high < 0
    # 4 differences are there; each leaves out 0 by chance once in 20
    assert found.by_chance == pytest.approx(4 * 0.05)
    # Wilson's interval of a share is over the group's own images: fewer, so wider
    assert overall.estimates[0] is not None
    assert few.estimates[0] is not None
    assert few.estimates[0].high > overall.estimates[0].high


def test_a_value_that_no_run_has_is_left_out() -> None:
    undefined = np.full(1 + RESAMPLES, np.nan)
    known = mean_replicates(np.arange(80.0))
    a = evaluation(kid__overall=known, recall__overall=undefined)
    found = compare(["a", "b"], [a, a], 0.95)
    assert [(row.metric, row.group) for row in found.rows] == [("kid", "overall")]


def test_what_evaluations_warn_of_is_said_of_the_comparison_with_the_run_where_it_is_not_of_all() -> (
    None
):
    one = evaluation(kid__overall=mean_replicates(np.arange(80.0)))
    a, b = (replace(one, warnings=lines) for lines in (("few",), ("few", "copies")))
    other = replace(b, provenance={**PROVENANCE, "extractor_hash": "cd34"}, warnings=("refused",))
    found = compare(["a", "b", "c"], [a, b, other], 0.95)
    assert found.warnings == ("few", "b: copies")
    page = render_comparison(found)
    assert all(f"<li>{line}</li>" in page for line in found.warnings)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"provenance": {**PROVENANCE, "extractor_hash": "cd34"}},
            "features come from another extractor: extractor_hash is cd34, not ab12",
        ),
        (
            {"provenance": {**PROVENANCE, "bootstrap_seed": 8}},
            "it was resampled with another seed: bootstrap_seed is 8, not 7",
        ),
        (
            {"provenance": {**PROVENANCE, "bootstrap_resamples": 100}},
            "it was resampled another number of times: bootstrap_resamples is 100, not 200",
        ),
        (
            {"groups": {"overall": {0: 40, 1: 40}, "few": {0: 40}}},
            "the classes are grouped otherwise: few is classes 0, not classes 1",
        ),
        (
            {"groups": {"overall": {0: 30, 1: 50}, "few": {1: 50}}},
            "another number of images was generated: class 0 has 30, not 40",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_with_both_values(
    change: dict[str, object], reason: str
) -> None:
    first = evaluation(kid__overall=mean_replicates(np.arange(80.0)))
    other = replace(first, **change)
    found = compare(["base", "other", "twin"], [first, other, first], 0.95)
    assert found.refused == {"other": reason}
    (row,) = found.rows
    assert row.estimates[1] is row.differences[1] is None
    assert row.differences[2] is not None
    assert found.provenances[1] is other.provenance


# ---- files


@pytest.fixture
def report() -> Report:
    estimate = Estimate(0.5, 0.4, 0.6)
    return Report(
        (
            Row("overall", (0, 1), 80, 80, {"kid": estimate}),
            Row("few", (1,), 40, 40, {"kid": estimate}),
        ),
        tuple(ClassRow(c, f"class {c}", "few", 9, 40, 40, {"kid": estimate}) for c in (0, 1)),
        PROVENANCE,
        replicates={
            "kid/overall": mean_replicates(np.arange(80.0)),
            "kid/few": mean_replicates(np.ones(80)),
        },
    )


def test_an_evaluation_is_read_from_what_its_report_saved(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    found = read_evaluation(tmp_path)
    assert found.provenance == PROVENANCE
    assert found.groups == GROUPS
    assert found.replicates.keys() == report.replicates.keys()
    for key, replicates in report.replicates.items():
        np.testing.assert_allclose(found.replicates[key], replicates, rtol=1e-6)
        assert found.replicates[key].dtype == np.float64


def test_a_missing_or_damaged_evaluation_is_named(report: Report, tmp_path: Path) -> None:
    with pytest.raises(DataProblem, match=r"has no report\.json"):
        read_evaluation(tmp_path)
    report.save(tmp_path)
    replicates = (tmp_path / "replicates.npz").read_bytes()
    for damaged in (b"", replicates[:-40], b"not an archive", pickled()):
        (tmp_path / "replicates.npz").write_bytes(damaged)
        with pytest.raises(DataProblem, match="is damaged"):
            read_evaluation(tmp_path)
    (tmp_path / "replicates.npz").unlink()
    with pytest.raises(DataProblem, match=r"has no replicates.npz"):
        read_evaluation(tmp_path)


def pickled() -> bytes:
    """An archive that would run code if it were read with pickles allowed."""
    stream = io.BytesIO()
    np.savez(stream, replicates=np.array([object()], dtype=object))
    return stream.getvalue()
