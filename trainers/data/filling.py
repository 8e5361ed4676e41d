"""Threads of a process that fill a row store, together with those of other processes."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterable

import numpy as np

from ..errors import Problem
from .packed import Indices
from .row_store import RowStore

PATIENCE_S = 2.0
"""With each thread as the process ends: it may wait for a bucket that does not answer."""
POLL_S = 0.1
"""Between two looks at what other processes have done."""


class Filling:
    """The pieces of a store that are not ready, made one after the other by each of some threads.

    Args:
        fill: makes the piece of a number, and marks it; it returns without that to give it up.
        threads: at most.
    """

    def __init__(self, store: RowStore, fill: Callable[[int], None], threads: int) -> None:
        self._store, self._fill = store, fill
        self._order: Iterable[int] = range(store.pieces)
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"fill-{i}", daemon=True)
            for i in range(min(threads, store.pieces))
        ]

    def start(self) -> None:
        """Start the threads, which end with the last piece or with the process."""
        for thread in self._threads:
            thread.start()
        # Before the libraries that they use: pyarrow waits for requests whose threads are gone
        atexit.register(_close, weakref.ref(self))

    def __enter__(self) -> None:
        """Start the threads, for no longer than the context."""
        self.start()

    def __exit__(self, *_: object) -> None:
        """End them."""
        self.close()

    def close(self, patience_s: float | None = None) -> None:
        """End the threads, each with what it is at; wait for each no longer than that."""
        self.stop()
        for thread in self._threads:
            thread.join(patience_s)

    def stop(self) -> None:
        """Begin no further piece."""
        self._stopped = True

    def want(self, pieces: Indices) -> None:
        """Make these pieces before others, in their order."""
        first = dict.fromkeys(pieces.tolist())
        self._order = [
            *first,
            *(piece for piece in range(self._store.pieces) if piece not in first),
        ]

    @property
    def is_running(self) -> bool:
        """Whether a thread of this process is at work, and none has failed."""
        return self._error is None and any(thread.is_alive() for thread in self._threads)

    def check(self) -> None:
        """Raise what a thread has failed with, if one has.

        Raises:
            Problem: likewise OSError, and whatever `fill` raises.
        """
        if isinstance(self._error, Problem):
            raise type(self._error)(*self._error.args)
        if self._error is not None:
            raise self._error

    def wait_for(
        self, pieces: Indices | None = None, while_waiting: Callable[[], None] = lambda: None
    ) -> bool:
        """Return when some pieces, or all, are ready; False where the threads have ended without them.

        Raises:
            Problem: as `check`.
        """
        which = np.arange(self._store.pieces) if pieces is None else pieces
        while not self._store.is_ready(which).all():
            self.check()
            if not self.is_running:
                return bool(self._store.is_ready(which).all())
            while_waiting()
            with self._changed:
                self._changed.wait(POLL_S)
        return True

    def _work(self) -> None:
        try:
            while not (self.is_over or self._store.is_whole):
                if not self._make_one():
                    with self._changed:
                        self._changed.wait(POLL_S)
        except BaseException as error:  # noqa: BLE001  (raised again by `check`, in whoever waits)
            self._error = self._error or error
        finally:
            with self._changed:
                self._changed.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether no further piece is to be begun."""
        return self._stopped or self._error is not None

    def _make_one(self) -> bool:
        """Make the first piece that is not ready and that nobody works on; return whether there was one."""
        for piece in self._order:
            if self._store.is_ready(np.array([piece]))[0]:
                continue
            with self._store.claim(piece) as is_ours:
                if not is_ours or self._store.is_ready(np.array([piece]))[0]:
                    continue
                self._fill(piece)
            with self._changed:
                self._changed.notify_all()
            return True
        return False


def _close(filling: weakref.ref[Filling]) -> None:
    if (living := filling()) is not None:
        living.close(PATIENCE_S)
