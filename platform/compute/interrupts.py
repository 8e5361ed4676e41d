"""Being asked to stop: what runs saves a checkpoint first, here or on Ray's workers."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any

from ...trainers.loop import Progress
from ..foundation.background import in_background

HEAD_ANSWERS_S = 1.0
"""Mostly within a millisecond."""


@contextmanager
def saving_on_interrupt() -> Iterator[threading.Event]:
    """Inside, the first Ctrl-C (or SIGTERM) only sets the event; the second one interrupts."""
    asked = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def ask(_number: int, _frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is threading.main_thread():
        for number in signals:
            if before[number] is not signal.SIG_IGN:  # as in a shell's background job
                signal.signal(number, ask)
    try:
        yield asked
    finally:
        if threading.current_thread() is threading.main_thread():
            for number in signals:
                signal.signal(number, before[number])


@contextmanager
def broadcast_stop(asked: threading.Event) -> Iterator[RemoteStopFlag]:
    """What Ray's workers ask with each report: whether the event of this process is set."""
    import ray

    from .ray_session import driver_node_options

    flag: Any = ray.remote(_Flag).options(**driver_node_options()).remote()
    over = threading.Event()

    def pass_on() -> None:
        while not over.wait(0.5):
            if asked.is_set():
                ray.get(flag.ask.remote())
                return

    # Not in the signal's handler: Ray may hold, at that moment, the lock that it would wait for.
    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    try:
        yield RemoteStopFlag(flag)
    finally:
        over.set()
        thread.join()


class PreemptionWatcher:
    """Whether this host will be taken away soon; true once. For a training that is one process: Ray
    Train tells its workers by itself."""

    def __init__(self) -> None:
        self._given = False
        self._asked: Future[bool] | None = None

    def __call__(self) -> bool:
        """Ask Ray, where this process is one of Ray's; a head that is stuck holds nothing up."""
        if self._given:
            return False
        if self._asked is None:
            self._asked = in_background(_draining)
            wait([self._asked], timeout=HEAD_ANSWERS_S)
        if not self._asked.done():
            return False
        asked, self._asked = self._asked, None
        # A head that fails to answer is what Ray deals with; a training goes on meanwhile.
        self._given = asked.exception() is None and asked.result()
        return self._given


def _draining() -> bool:
    """Whether Ray drains this node."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    here = ray.get_runtime_context().get_node_id()
    # As Ray Train's own watcher does; there is no public name for it.
    return here in ray._private.state.state.get_draining_nodes()


class RemoteStopFlag:
    """A `ReportCallback` that pickles; True once stopping was asked for."""

    def __init__(self, flag: Any) -> None:
        self.flag = flag

    def __call__(self, _progress: Progress) -> bool:
        return self.now()

    def now(self) -> bool:
        """A flag that was lost with its node asks nothing of anybody."""
        import ray

        try:
            return bool(ray.get(self.flag.asked.remote()))
        except ray.exceptions.RayActorError:
            return False


class _Flag:
    """An actor."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        self._asked = True

    def asked(self) -> bool:
        return self._asked
