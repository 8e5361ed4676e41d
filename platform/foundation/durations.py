"""What a person sees while things run: one line with progress and time left, nothing else.

On a terminal the line stays in place; in a log it comes once in a while. It goes to stderr.
"""

from __future__ import annotations

import time


class Clock:
    """Elapsed and remaining time from the share of the work that is done."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.first: tuple[float, float] | None = None
        """When work was first seen, and how much: what came before was preparation."""

    def elapsed(self) -> str:
        """As m:ss."""
        return minutes(time.monotonic() - self.start)

    def left(self, done: float) -> str:
        """About how long still, from the share done in [0, 1]; empty where it cannot be told."""
        if done <= 0:
            return ""
        now = time.monotonic()
        since, before = self.first = self.first or (now, done)
        if done - before < 0.02 or done >= 1:
            return ""
        return f"about {minutes((now - since) * (1 - done) / (done - before))} left"


def minutes(seconds: float) -> str:
    """m:ss, or h:mm:ss."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    if hours:
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{rest // 60}:{rest % 60:02d}"
