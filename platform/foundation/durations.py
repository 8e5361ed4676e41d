"""Elapsed and remaining time, for people."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

LEAST_REPORTS = 3
"""After the first one, from which the rest is estimated: one alone may owe to the start."""
LEAST_SHARE = 0.02
"""Share of the work after which fewer reports will do."""
RECENT = 0.5
"""Part of the reported work by whose speed the rest is estimated: the latest, so that the speed of another
kind of work is forgotten."""
KEPT = 500
"""Reports that are kept; of more, every other one is forgotten."""


@dataclass(frozen=True)
class _Report:
    time: float
    done: float


class Seldom:
    """Says whether something is due again, for reports that come faster than anybody reads."""

    def __init__(self, every_s: float = 0.3) -> None:
        self._every_s, self._last = every_s, -math.inf

    def __call__(self) -> bool:
        """Return True if the last True is some time ago."""
        now = time.monotonic()
        if now - self._last < self._every_s:
            return False
        self._last = now
        return True


class Clock:
    """Estimates the remaining time from reports of the share of the work that is done.

    The estimate changes with reports alone; between them it counts down, to 0 at least. What came before the
    first report was preparation, and says nothing of the speed.

    Args:
        now: returns the time in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.start = now()
        self._reports: list[_Report] = []
        self._ends: float | None = None
        """When the work will be done, by the last report; None while it is not known."""

    def elapsed(self) -> str:
        """Return the time since the start, as m:ss."""
        return minutes(self._now() - self.start)

    def report(self, done: float) -> None:
        """Take the share of all work that is done, in [0, 1]; one that is less than before starts anew."""
        now = self._now()
        if self._reports and done < self._reports[-1].done:  # what was lost is made again
            self._reports = []
        self._reports.append(_Report(now, done))
        seconds = self._estimate()
        self._ends = None if seconds is None else now + seconds
        if len(self._reports) > KEPT:
            self._reports = [self._reports[0], *self._reports[1:-1:2], self._reports[-1]]

    def seconds_left(self) -> float | None:
        """Return the remaining time, at least 0; None while it is not known."""
        return None if self._ends is None else max(0.0, self._ends - self._now())

    def left(self) -> str:
        """Return "about m:ss left", empty while it is not known."""
        seconds = self.seconds_left()
        if seconds is None:
            return ""
        return f"about {minutes(seconds)} left" if seconds >= 1 else "past its estimate"

    def _estimate(self) -> float | None:
        """Return how long the rest takes at the speed of the recent reports."""
        first, last = self._reports[0], self._reports[-1]
        count, gained = len(self._reports) - 1, last.done - first.done
        if last.done >= 1 or gained <= 0 or (count < LEAST_REPORTS and gained < LEAST_SHARE):
            return None
        since = last.done - RECENT * gained
        earlier = self._reports[: max(1, len(self._reports) - LEAST_REPORTS)]
        base = next((each for each in reversed(earlier) if each.done <= since), first)
        return (1 - last.done) * (last.time - base.time) / (last.done - base.done)


def minutes(seconds: float) -> str:
    """Return a duration as m:ss, or as h:mm:ss from an hour on."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    if hours:
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{rest // 60}:{rest % 60:02d}"
