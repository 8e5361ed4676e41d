"""Asynchronous, ordered, retrying writer.

Why not MLflow's own asynchronous logging: `docs/design/metrics-to-mlflow.md`.
"""

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
from ...trainers.retry import Outage, pauses
from ..foundation.durations import minutes

T = TypeVar("T")

log = logging.getLogger(__name__)

BEST_EFFORT_TIMEOUT_S = 10.0
"""A host that is about to be taken away gives thirty seconds for a checkpoint."""


class AsyncWriter(Generic[T]):
    """Writes items in a thread, in order, while the caller goes on.

    Items are batched: a request to a server costs the same for one item or for many. While the server
    is down, items wait in memory. A process that ends writes them first, within the retry timeout;
    one that is killed loses them.

    Args:
        write: writes a batch. After an `Outage` the same items come again, so writing them twice has
            to be the same as writing them once; any other problem is final.
        batch_size: the most items of a batch.
        capacity: the most items that may wait.
        interval_s: time between two batches, also at the end of the process. It is cut short while
            somebody waits in `flush` or `flush_best_effort`.
        retry_timeout_s: how long an outage may last once the process has nothing else to do.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], None],
        *,
        batch_size: int,
        capacity: int,
        interval_s: float,
        retry_timeout_s: float,
    ) -> None:
        self._write = write
        self.batch_size, self.capacity = batch_size, capacity
        self.interval_s, self.retry_timeout_s = interval_s, retry_timeout_s
        self._waiting: deque[T] = deque()
        self._due = -math.inf  # when the next batch is due, on the monotonic clock
        self._flushing = 0  # callers in `flush` or `flush_best_effort`
        self._written = 0  # items, of all
        self._writing = self._down = False
        self._problem: Problem | None = None
        self._changed = threading.Condition()

    def put(self, items: Sequence[T]) -> None:
        """Write items soon.

        Raises:
            Problem: earlier items cannot be written, or too many are waiting.
        """
        with self._changed:
            if self._problem is None and len(self._waiting) + len(items) > self.capacity:
                self._give_up(f"more than {self.capacity:,} are waiting")
            if self._problem:
                raise self._problem
            self._waiting.extend(items)
            if self._should_write_now() and not self._down:
                self._changed.notify_all()
            if not self._writing:
                # It lives while there is work. No daemon, so that Python waits for it at the end.
                self._writing = True
                threading.Thread(target=self._work, name="async-writer").start()

    def flush(self) -> None:
        """Return when all items are written; give them up after the retry timeout.

        Raises:
            Problem: why they could not be written.
        """
        with self._changed:
            if self._down:
                log.warning(
                    "waiting up to %s for the server to come back", minutes(self.retry_timeout_s)
                )
            if not self._wait(lambda: not self._writing, self.retry_timeout_s):
                self._give_up(f"waited for {minutes(self.retry_timeout_s)}")
            if self._problem:
                raise self._problem

    def flush_best_effort(self) -> None:
        """Return when the items put in so far are written, or the server is down or hangs.

        Raises:
            Problem: they cannot be written.
        """
        with self._changed:
            if not self._down:
                put = self._written + len(self._waiting)
                self._wait(
                    lambda: self._written >= put or self._down or bool(self._problem),
                    BEST_EFFORT_TIMEOUT_S,
                )
            if self._problem:
                raise self._problem

    def _wait(self, over: Callable[[], bool], at_most_s: float) -> bool:
        """Wait, with the lock held, and let the writer not pause; return whether it is over."""
        self._flushing += 1
        self._changed.notify_all()
        try:
            return self._changed.wait_for(over, at_most_s)
        finally:
            self._flushing -= 1

    def _work(self) -> None:
        while items := self._next():
            try:
                self._write_batch(items)
            except Problem as problem:
                with self._changed:
                    self._problem = self._problem or problem

    def _next(self) -> list[T]:
        """Return the next batch when it is due, empty when the work is over."""
        with self._changed:
            if self._waiting:
                self._changed.wait_for(
                    self._should_write_now, max(0.0, self._due - time.monotonic())
                )
            items = [] if self._problem else list(islice(self._waiting, self.batch_size))
            self._writing = bool(items)
            self._changed.notify_all()
            return items

    def _should_write_now(self) -> bool:
        """Return whether to write a batch before it is due."""
        full = len(self._waiting) >= self.batch_size
        return full or self._flushing > 0 or self._problem is not None

    def _write_batch(self, items: Sequence[T]) -> None:
        """Write a batch, however long the server is down.

        Raises:
            Outage: it is down for too long at the end of the process, or the items were given up.
        """
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
            self._due = time.monotonic() + self.interval_s
            for _ in items:
                self._waiting.popleft()
            self._written += len(items)
            self._changed.notify_all()
            if self._down:
                log.warning("it answers again, after %s", minutes(time.monotonic() - start))
            self._down = False

    def _give_up(self, reason: str) -> None:
        self._problem = Problem(
            f"{len(self._waiting)} values could not be written: {reason}",
            "bring the server back; the same command continues from the last checkpoint",
        )
        self._changed.notify_all()
