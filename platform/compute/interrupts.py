"""Requests to stop: a signal, a stop broadcast to Ray's workers, the notice of a preemption."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any

from ...trainers.hooks import Progress
from ..foundation.background import in_background
from ..foundation.signals import handling_stop

HEAD_TIMEOUT_S = 1.0
"""How long a training waits for Ray's head once; it mostly answers within a millisecond."""

FORWARD_INTERVAL_S = 0.5
"""How often the driver looks whether a stop is to be broadcast."""


@contextmanager
def saving_on_interrupt() -> Iterator[threading.Event]:
    """Inside, the first Ctrl-C, SIGTERM or SIGHUP only sets the event; the second one interrupts."""
    requested = threading.Event()

    def request() -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()

    with handling_stop(request):
        yield requested


@contextmanager
def broadcast_stop(requested: threading.Event) -> Iterator[RemoteStopFlag]:
    """Inside, Ray's workers can read whether the event of this process is set."""
    import ray

    from .ray_session import driver_node_options

    flag: Any = ray.remote(_Flag).options(**driver_node_options()).remote()
    over = threading.Event()

    def forward() -> None:
        while not over.wait(FORWARD_INTERVAL_S):
            if requested.is_set():
                ray.get(flag.set.remote())
                return

    # Not in the signal's handler: at that moment this thread may hold the lock of Ray's client that
    # the call needs.
    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    try:
        yield RemoteStopFlag(flag)
    finally:
        over.set()
        thread.join()


class PreemptionWatcher:
    """A check whether this host will be taken away soon; True once.

    For a training in one process: Ray Train tells its workers by itself.
    """

    def __init__(self) -> None:
        self._noticed = False
        self._question: Future[bool] | None = None

    def __call__(self) -> bool:
        """Ask Ray, where this process is one of Ray's. Never blocks on an unresponsive head."""
        if self._noticed:
            return False
        if self._question is None:
            self._question = in_background(_is_draining)
            wait([self._question], timeout=HEAD_TIMEOUT_S)
        if not self._question.done():
            return False
        answer, self._question = self._question, None
        # Ray deals with a head that fails to answer; the training goes on meanwhile.
        self._noticed = answer.exception() is None and answer.result()
        return self._noticed


def _is_draining() -> bool:
    """Return whether Ray drains this node."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    node = ray.get_runtime_context().get_node_id()
    # Ray 2.60 has no public name for it; its own `ray.train` asks in the same way.
    return node in ray._private.state.state.get_draining_nodes()


class RemoteStopFlag:
    """A `ReportCallback` that pickles; True once a stop was requested."""

    def __init__(self, flag: Any) -> None:
        self.flag = flag

    def __call__(self, _progress: Progress) -> bool:
        """Return whether the training that reports should stop."""
        return self.is_set()

    def is_set(self) -> bool:
        """Return whether a stop was requested; False if the flag's actor died."""
        import ray

        try:
            return bool(ray.get(self.flag.is_set.remote()))
        except ray.exceptions.RayActorError:
            return False


class _Flag:
    """The event as an actor."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set
