"""Waiting for a server that has stopped answering, so that an outage costs minutes, not the run."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ...trainers.errors import Problem
from .durations import minutes

T = TypeVar("T")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0

log = logging.getLogger(__name__)


class Outage(Problem):
    """A server does not answer, or fails by itself: the same request may succeed later."""


def pauses() -> Iterator[float]:
    """Seconds to wait before each further try; at random, or all workers would come at once."""
    longest = FIRST_PAUSE_S
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(2 * longest, LONGEST_PAUSE_S)


def retry_during_outage(action: Callable[[], T], seconds: float) -> T:
    """Try again for so long while there is an outage, and say so; the last one is raised."""
    start, pause = time.monotonic(), pauses()
    waited = False
    while True:
        try:
            result = action()
        except Outage as outage:
            left = start + seconds - time.monotonic()
            if left <= 0:
                raise
            if not waited:
                log.warning("%s; trying again for up to %s", outage.what, minutes(seconds))
            waited = True
            time.sleep(min(left, next(pause)))
        else:
            if waited:
                log.warning("it answers again, after %s", minutes(time.monotonic() - start))
            return result
