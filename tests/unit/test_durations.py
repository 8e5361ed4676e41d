"""The estimate of the remaining time, on generated and on recorded reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.training import tiny

from whipray.platform.config.space import Space
from whipray.platform.foundation.durations import Clock
from whipray.platform.runs.work import points_of, training_share
from whipray.trainers.guidance import ClassifierFree

RECORDED = sorted((Path(__file__).parents[1] / "data" / "progress").glob("*.json"))

Log = list[tuple[float, float]]
"""(seconds since the start, share done) of each report."""

gaps = st.floats(0.01, 1e5)
gains = st.floats(0, 1)
logs = st.lists(st.tuples(gaps, gains), min_size=1, max_size=40).map(
    lambda steps: [
        (sum(gap for gap, _ in steps[: i + 1]), sum(gain for _, gain in steps[: i + 1]) / 41)
        for i in range(len(steps))
    ]
)
"""Any times, any gains, nothing gained included; at most 40/41 in all."""


def recorded() -> st.SearchStrategy[Log]:
    return st.sampled_from([json.loads(path.read_text()) for path in RECORDED])


class Played:
    """A clock at which recorded reports are made."""

    def __init__(self) -> None:
        self.now = 0.0
        self.clock = Clock(lambda: self.now)

    def report(self, at: float, done: float) -> float | None:
        self.now = at
        self.clock.report(done)
        return self.clock.seconds_left()

    def wait(self, until: float) -> float | None:
        self.now = until
        return self.clock.seconds_left()


@given(log=st.one_of(logs, recorded()), waits=st.lists(st.floats(0, 1), max_size=5).map(sorted))
def test_it_counts_down_between_reports_and_is_never_negative(log: Log, waits: list[float]) -> None:
    played = Played()
    ends = [at for at, _ in log[1:]] + [log[-1][0] + 1e6]
    for (at, done), following in zip(log, ends, strict=True):
        before = played.report(at, done)
        for part in waits:
            left = played.wait(at + part * (following - at))
            if before is None:
                assert left is None
                continue
            assert left == pytest.approx(max(0.0, before - (played.now - at)), rel=1e-9, abs=1e-6)


@given(
    step=st.floats(0.001, 0.05),
    every=st.floats(0.1, 1e4),
    start=st.floats(0, 1e5),
    done_before=st.floats(0, 0.5),
)
def test_at_a_constant_speed_it_is_right(
    step: float, every: float, start: float, done_before: float
) -> None:
    """Whatever it took to prepare, and wherever a run was resumed."""
    played = Played()
    for k in range(int((0.99 - done_before) / step)):
        left = played.report(start + k * every, done_before + k * step)
        if k >= 3:
            rest = (1 - done_before) / step - k
            assert left == pytest.approx(rest * every, rel=0.02)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_on_recorded_runs_it_is_near_the_truth(path: Path) -> None:
    """On average, after a third; the runs shared two CPU cores with others: their speed varied twofold."""
    log: Log = json.loads(path.read_text())
    first, end = log[0][0], log[-1][0]
    played = Played()
    errors = []
    for at, done in log[:-1]:
        left = played.report(at, done)
        if at - first > (end - first) / 3 and done < 1:
            assert left is not None
            errors.append(abs(left - (end - at)) / (end - first))
    assert sum(errors) / len(errors) < 0.15


def test_it_is_unknown_until_it_can_be_known() -> None:
    played = Played()
    assert played.clock.left() == ""
    assert played.report(500, 0.1) is None  # nothing to measure by yet
    assert played.report(510, 0.1) is None  # nothing was done
    assert played.report(520, 0.3) == pytest.approx(70)  # 20 % in 20 s, 70 % to go
    assert played.clock.left() == "about 1:10 left"
    played.wait(589.5)
    assert played.clock.left() == "past its estimate"
    assert played.report(600, 1.0) is None
    assert played.clock.left() == ""
    assert played.clock.elapsed() == "10:00"


def test_work_that_is_made_again_is_measured_anew() -> None:
    """As when a training resumes from a checkpoint before the last report."""
    played = Played()
    for k in range(6):
        played.report(10.0 * k, 0.1 * k)
    assert played.report(1000, 0.2) is None
    for k in range(1, 4):
        left = played.report(1000 + 5.0 * k, 0.2 + 0.1 * k)
    assert left == pytest.approx(25)


def test_the_speed_of_the_training_is_forgotten_in_the_evaluation() -> None:
    """Ten minutes a per cent for half of the work, then one minute a per cent."""
    played = Played()
    for k in range(51):
        played.report(600.0 * k, 0.01 * k)
    for k in range(1, 41):
        left = played.report(600.0 * 50 + 60 * k, 0.5 + 0.01 * k)
    assert left is not None
    assert 600 <= left <= 1300  # a mean over everything would be an hour


def test_a_runs_work_is_that_of_its_passes_through_the_network() -> None:
    counts = [50] * 10
    run = tiny(training__images=40_000, evaluation__images_per_class=40)
    share = training_share(run, counts)
    sampled = 400 * 50 / 0.85  # 50 calls of DDIM
    assert share == pytest.approx(120_000 / (120_000 + sampled))
    guided = tiny(training__images=40_000, sampling__guidance=ClassifierFree(omega=1).model_dump())
    twice = training_share(guided, counts)
    assert twice == pytest.approx(120_000 / (120_000 + 2 * sampled))
    omegas = {"type": "float", "low": 0, "high": 3}
    space = Space.model_validate(
        {
            "description": "x",
            "train": {"objective.tau": omegas},
            "sample": {"sampling.guidance.omega": omegas},
        }
    )
    assert points_of(run, space) == run.tuning.sample_points + 1
    assert training_share(run, counts, space) < share
