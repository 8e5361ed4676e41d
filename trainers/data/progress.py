"""What a long reading of images says of itself, in lines: how far it is, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable

OnPhase = Callable[[str], None]
"""Takes each line, one in place of the one before."""
EVERY_S = 1.0
"""Between two lines of one count."""
SURE_S = 5.0
"""From which time on it is said how long it will take."""


def quiet(_line: str) -> None:
    """Take a line and say nothing."""


class Count:
    """A growing count of images, said in lines such as `decoding images: 1,200 of 5,000, 2 min left`.

    Args:
        on_phase: takes the lines.
        what: begins each of them.
        total: of all images.
        done: those that were done before.
    """

    def __init__(self, on_phase: OnPhase, what: str, total: int, done: int = 0) -> None:
        self._on_phase, self._what, self._total, self._before = on_phase, what, total, done
        self._began = time.monotonic()
        self._said = float("-inf")

    def at(self, done: int, note: str = "") -> None:
        """Say that so many are done, at most every second.

        Args:
            note: follows, such as who else works on it.
        """
        now = time.monotonic()
        if now - self._said < EVERY_S:
            return
        self._said = now
        text = f"{self._what}: {done:,} of {self._total:,}"
        took, here = now - self._began, done - self._before
        if took > SURE_S and here > 0:
            text += f", {_in_words(took / here * (self._total - done))} left"
        self._on_phase(f"{text}{f' ({note})' if note else ''}")


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
