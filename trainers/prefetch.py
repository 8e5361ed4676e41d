"""What the next steps need of the host, made by a thread while the device works on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

Position = TypeVar("Position")
Value = TypeVar("Value")

DEPTH = 2
"""Values that are made ahead: with the one in use, three."""


class Prefetch(Generic[Position, Value]):
    """Values that are pure functions of a position, made before they are asked for.

    A value that is asked for out of order is made by the caller: what is returned never depends on the order.

    Args:
        make: the value at a position.
        following: the positions after one, in the order in which they will be asked for.
    """

    def __init__(
        self,
        make: Callable[[Position], Value],
        following: Callable[[Position], Iterator[Position]],
    ) -> None:
        self._make, self._following = make, following
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._ahead: dict[Position, Future[Value]] = {}

    def take(self, position: Position) -> Value:
        """Return the value at a position, and have the next ones made.

        Raises:
            Exception: what went wrong in making it, whichever thread that was.
        """
        wanted = [position, *islice(self._following(position), DEPTH)]
        for stale in self._ahead.keys() - wanted:
            self._ahead.pop(stale).cancel()
        for coming in wanted[1:]:
            if coming not in self._ahead:
                self._ahead[coming] = self._thread.submit(self._make, coming)
        ready = self._ahead.pop(position, None)
        return self._make(position) if ready is None else ready.result()

    def close(self) -> None:
        """End the thread, after the value that it is making."""
        self._ahead.clear()
        self._thread.shutdown(cancel_futures=True)
