"""Where a sweep stands, for a status line."""

from __future__ import annotations

import threading
from typing import Any

from ..foundation.durations import Clock
from .trial import BLOCKED, OUTCOME, SAVED


class SweepStatus:
    """Counts trials and shows what the running ones report.

    Args:
        total: number of trials, baselines included.
        clock: started with the sweep.
    """

    def __init__(self, total: int, clock: Clock) -> None:
        self.total, self.clock = total, clock
        self.training_share = 1.0
        """Of a trial's work; the rest is its evaluation."""
        self.finished: set[int] = set()
        self.before = 0
        """Trials that an earlier driver finished; they say nothing about this one's speed."""
        self.running: dict[int, tuple[float, str]] = {}
        """By trial: the share of its work that is done, in [0, 1], and a text."""
        self.line = "starting"
        self.stop_requested = threading.Event()
        """Set when trainings are to save a checkpoint and end."""

    def say(self, line: str) -> None:
        """Show what happens outside of trials."""
        self.line = line

    def resume(self, finished: set[int]) -> None:
        """Count the trials that an earlier driver finished."""
        self.finished.update(finished)
        self.before = len(finished)

    def report(self, number: int, result: dict[str, Any]) -> None:
        """Take a trial's report, as `run_trial` makes it."""
        if OUTCOME in result:
            self.running.pop(number, None)
            if result[OUTCOME] not in (SAVED, BLOCKED):
                self.finished.add(number)
        elif "phase" in result:
            share = self.training_share + (1 - self.training_share) * result["evaluated"]
            self.running[number] = (share, result["phase"])
        elif "images_seen" in result:
            share = result["images_seen"] / result["total_images"]
            loss = result["metrics"].get("loss/total", float("nan"))
            self.running[number] = (share * self.training_share, f"{share:.0%} loss {loss:.3f}")
        done = len(self.finished) - self.before + sum(share for share, _ in self.running.values())
        self.clock.report(done / max(1, self.total - self.before))

    def text(self) -> str:
        """Return a line such as `1:20 · 3/7 trainings · about 2:10 left · #3 62% loss 0.12`."""
        parts = [f"{self.clock.elapsed()} · {len(self.finished)}/{self.total} trainings"]
        if not self.stop_requested.is_set():
            parts += filter(None, [self.clock.left()])
        running = dict(self.running)  # another thread writes it
        parts += [f"#{number} {text}" for number, (_, text) in sorted(running.items())]
        if not running:
            parts.append(self.line)
        if self.stop_requested.is_set():
            return " · ".join([*parts, "saving at the next report; Ctrl-C again leaves at once"])
        return " · ".join(parts)
