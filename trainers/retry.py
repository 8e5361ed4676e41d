"""Retries while a server is down, so that an outage costs minutes and not the run.

Not a library such as tenacity: what may be retried is a type (`Outage`), and there is one policy.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from .errors import Problem

T = TypeVar("T")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
"""A server that comes back is noticed within this time."""

log = logging.getLogger(__name__)


class Outage(Problem):
    """A server does not answer, or fails by itself: the same request may succeed later."""


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each further attempt: growing, with random jitter.

    Without the jitter, all workers would come back to the server at the same moment.
    """
    longest = FIRST_PAUSE_S
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(2 * longest, LONGEST_PAUSE_S)


def retry_during_outage(action: Callable[[], T], timeout_s: float) -> T:
    """Call `action` until it succeeds, for at most `timeout_s` after its first `Outage`.

    Raises:
        Outage: the last one, when the time is over. Any other exception is raised at once.
    """
    start, pause = time.monotonic(), pauses()
    waited = False
    while True:
        try:
            result = action()
        except Outage as outage:
            left = start + timeout_s - time.monotonic()
            if left <= 0:
                raise
            if not waited:
                log.warning("%s; trying again for up to %.0f s", outage.what, timeout_s)
            waited = True
            time.sleep(min(left, next(pause)))
        else:
            if waited:
                log.warning("it answers again, after %.0f s", time.monotonic() - start)
            return result
