"""Elapsed and remaining time, for people."""

from __future__ import annotations

import time

LEAST_SHARE = 0.02
"""Share of the work that has to be measured before the rest is estimated from it."""


class Clock:
    """Estimates the remaining time from the share of the work that is done."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.first: tuple[float, float] | None = None
        """Time of the first report and the share done by then; what came before was preparation."""

    def elapsed(self) -> str:
        """Return the time since the start, as m:ss."""
        return minutes(time.monotonic() - self.start)

    def left(self, done: float) -> str:
        """Return "about m:ss left" from the share done in [0, 1], empty while it is not known."""
        if done <= 0:
            return ""
        now = time.monotonic()
        since, before = self.first = self.first or (now, done)
        if done - before < LEAST_SHARE or done >= 1:
            return ""
        return f"about {minutes((now - since) * (1 - done) / (done - before))} left"


def minutes(seconds: float) -> str:
    """Return a duration as m:ss, or as h:mm:ss from an hour on."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    if hours:
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{rest // 60}:{rest % 60:02d}"
