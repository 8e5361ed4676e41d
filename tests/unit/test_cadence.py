"""When a training reports and saves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from whipray.trainers.cadence import REPORTS, SAVES, Cadence
from whipray.trainers.trainer_config import LoopConfig

BATCH = 10


class Run:
    """Steps of so many seconds, by a clock of its own."""

    def __init__(self, step_s: float, **plan: Any) -> None:
        self.now, self.step_s = 100.0, step_s
        self.asked: list[list[bool]] = []
        config = LoopConfig(images=10**9, batch_size=BATCH, **plan)
        self.cadence = Cadence(config, self.agree, lambda: self.now)

    def agree(self, answers: Sequence[bool]) -> list[bool]:
        self.asked.append(list(answers))
        return list(answers)

    def go(self, first: int, last: int) -> tuple[list[float], list[float]]:
        """Steps `first` to `last`; the times of reports and of checkpoints."""
        reports, saves = [], []
        for step in range(first, last + 1):
            self.now += self.step_s
            report, save = self.cadence.due(step * BATCH, done=False)
            assert report or not save
            reports += [self.now] * report
            saves += [self.now] * save
        return reports, saves


def gaps(times: list[float]) -> list[float]:
    return [round(b - a, 6) for a, b in pairwise(times)]


def test_a_fast_training_reports_and_saves_by_the_clock() -> None:
    run = Run(0.125, report_every_images=20, checkpoint_every_images=100)
    late = 10 * REPORTS  # steps, after the first reports and checkpoints
    reports, saves = run.go(late, late + 16_000)  # 2,000 s
    assert set(gaps(reports)) == {10.0}
    assert all(600 <= gap <= 601.25 for gap in gaps(saves))
    assert len(saves) == 3
    assert set(saves) <= set(reports)


def test_a_slow_training_reports_and_saves_by_its_images() -> None:
    run = Run(100, report_every_images=20, checkpoint_every_images=100)
    late = 10 * REPORTS
    reports, saves = run.go(late + 1, late + 100)
    assert (len(reports), len(saves)) == (50, 10)


def test_a_short_training_has_all_that_was_asked_for_and_nobody_is_asked() -> None:
    run = Run(0.001, report_every_images=BATCH, checkpoint_every_images=10 * BATCH)
    reports, saves = run.go(1, REPORTS)
    assert (len(reports), len(saves)) == (REPORTS, SAVES)
    assert run.asked == []


def test_no_least_distance_is_none() -> None:
    every = {"report_every_images": BATCH, "checkpoint_every_images": BATCH}
    run = Run(0.001, **every, report_every_s=0, checkpoint_every_s=0)
    reports, saves = run.go(10_000, 10_099)
    assert (len(reports), len(saves), run.asked) == (100, 100, [])


def test_workers_are_asked_only_where_images_have_passed() -> None:
    run = Run(1.0, report_every_images=10 * BATCH, checkpoint_every_images=10**8)
    run.go(100_000, 100_099)
    assert len(run.asked) == 10


def test_the_first_worker_decides() -> None:
    run = Run(0.0, report_every_images=BATCH)
    run.agree = lambda _answers: [True, True]  # type: ignore[method-assign]
    cadence = Cadence(LoopConfig(images=10**9, batch_size=BATCH), lambda _answers: [True, False])
    assert cadence.due(6_400 * 1_000, done=False) == (True, False)


def test_the_end_has_both() -> None:
    run = Run(0.0)
    assert run.cadence.due(10_000 * BATCH + 7, done=True) == (True, True)
    assert run.asked == []
