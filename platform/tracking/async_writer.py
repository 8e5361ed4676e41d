"""What is written to a server behind the back of the work that makes it: in order, none lost."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from ...trainers.errors import Problem
from ..foundation.durations import minutes
from ..foundation.retry import Outage, pauses

T = TypeVar("T")

log = logging.getLogger(__name__)

HANGS_S = 10.0
"""A host that is about to be taken away gives thirty seconds for a checkpoint."""


class AsyncWriter(Generic[T]):
    """Items that a thread writes, while whoever puts them in goes on.

    They go in lots: to a server, a request costs as much as what it carries. While the server is
    down they wait here. A process that ends writes them first, as far as its patience goes; one that
    is killed loses them.

    Args:
        write: writes some items. After an `Outage` the same items come again, so writing them twice
            has to be the same as once; any other problem is the end.
        at_once: how many items it takes.
        every_s: how long items wait for others, once some were written, at the end of the process
            too; they do not where somebody waits for them.
        room: how many may wait.
        retry_timeout_s: how long an outage may last once the process has nothing else to do.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], None],
        *,
        at_once: int,
        room: int,
        every_s: float,
        retry_timeout_s: float,
    ) -> None:
        self._write = write
        self.at_once, self.room, self.every_s, self.retry_timeout_s = (
            at_once,
            room,
            every_s,
            retry_timeout_s,
        )
        self._waiting: deque[T] = deque()
        self._due = -math.inf  # when the next lot is, on the monotonic clock
        self._awaited = 0  # how many wait for it
        self._written = 0  # items, of all
        self._writing = self._down = False
        self._problem: Problem | None = None
        self._changed = threading.Condition()

    def put(self, items: Sequence[T]) -> None:
        """Write them soon.

        Raises:
            Problem: what was put in before cannot be written, or there is no more room.
        """
        with self._changed:
            if self._problem is None and len(self._waiting) + len(items) > self.room:
                self._give_up(f"no room for {len(items)} more")
            if self._problem:
                raise self._problem
            self._waiting.extend(items)
            if self._should_write_now() and not self._down:
                self._changed.notify_all()
            if not self._writing:
                # There while there is work, and no daemon: Python waits for it at its end.
                self._writing = True
                threading.Thread(target=self._work, name="async-writer").start()

    def flush(self) -> None:
        """Return when all is written; what is not when patience ends never will be.

        Raises:
            Problem: what keeps it from being written.
        """
        with self._changed:
            if self._down:
                log.warning("waiting up to %s for it to come back", minutes(self.retry_timeout_s))
            if not self._wait(lambda: not self._writing, self.retry_timeout_s):
                self._give_up(f"waited for {minutes(self.retry_timeout_s)}")
            if self._problem:
                raise self._problem

    def flush_best_effort(self) -> None:
        """Return when what was put in is written, or when the server turns out to be down, or hangs.

        Raises:
            Problem: what was put in cannot be written.
        """
        with self._changed:
            if not self._down:
                put = self._written + len(self._waiting)
                self._wait(
                    lambda: self._written >= put or self._down or bool(self._problem), HANGS_S
                )
            if self._problem:
                raise self._problem

    def _wait(self, over: Callable[[], bool], at_most_s: float) -> bool:
        """Wait, with the lock, while the writer does not pause; whether it is over."""
        self._awaited += 1
        self._changed.notify_all()
        try:
            return self._changed.wait_for(over, at_most_s)
        finally:
            self._awaited -= 1

    def _work(self) -> None:
        while items := self._next():
            try:
                self._deliver(items)
            except Problem as problem:
                with self._changed:
                    self._problem = self._problem or problem

    def _next(self) -> list[T]:
        """The oldest items, when it is time for them; none where the work is over."""
        with self._changed:
            if self._waiting:
                self._changed.wait_for(
                    self._should_write_now, max(0.0, self._due - time.monotonic())
                )
            items = [] if self._problem else list(islice(self._waiting, self.at_once))
            self._writing = bool(items)
            self._changed.notify_all()
            return items

    def _should_write_now(self) -> bool:
        """Whether a lot goes before it is due."""
        whole = len(self._waiting) >= self.at_once
        return whole or self._awaited > 0 or self._problem is not None

    def _deliver(self, items: Sequence[T]) -> None:
        """Write some items, however long the server is down, unless it is no longer worth it."""
        start, pause = time.monotonic(), pauses()
        while True:
            try:
                self._write(items)
                break
            except Outage as outage:
                past = time.monotonic() - start
                if self._problem or (
                    past > self.retry_timeout_s and not threading.main_thread().is_alive()
                ):
                    raise
                if not self._down:
                    log.warning("%s; metrics are buffered until it recovers", outage.what)
            with self._changed:
                self._down = True
                self._changed.notify_all()
                self._changed.wait(next(pause))
        with self._changed:
            self._due = time.monotonic() + self.every_s
            for _ in items:
                self._waiting.popleft()
            self._written += len(items)
            self._changed.notify_all()
            if self._down:
                log.warning("it answers again, after %s", minutes(time.monotonic() - start))
            self._down = False

    def _give_up(self, why: str) -> None:
        self._problem = Problem(
            f"{len(self._waiting)} values could not be written: {why}",
            "bring the server back; the same command goes on from the last checkpoint",
        )
        self._changed.notify_all()
