"""Work in a daemon thread, and values that are made on first use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


def in_background(action: Callable[[], T]) -> Future[T]:
    """Start `action` in a thread that an ending process does not wait for.

    The future raises what `action` raises.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:  # noqa: BLE001  (raised by whoever asks for the result)
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Lazy(Generic[T]):
    """A value that is made on first use, once in each process.

    It pickles as `make`, so that another process makes its own.

    Args:
        make: returns the value; has to pickle where this does.
        made: the value, where this process has it already.
    """

    def __init__(self, make: Callable[[], T], *made: T) -> None:
        self._make = make
        self._made = list(made)

    def __call__(self) -> T:
        """Return the value."""
        if not self._made:
            self._made.append(self._make())
        return self._made[0]

    def __reduce__(self) -> tuple[type[Lazy[T]], tuple[Callable[[], T]]]:
        return Lazy, (self._make,)
