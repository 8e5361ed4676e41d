"""A Ray queue through which workers report progress to the driver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.train import UserCallback

from ...trainers.hooks import Progress
from .ray_session import driver_node_options

POLL_S = 0.5
"""How long a read waits before it looks whether the queue is closed."""
Message = Progress | str | float
LAST_READ_S = 10
"""How long closing waits for the reader; reports that are not shown by then are in MLflow."""


@contextmanager
def progress_queue(
    on_progress: Callable[[Progress], None],
    on_phase: Callable[[str], None],
    on_share: Callable[[float], None] = lambda _share: None,
) -> Iterator[Any]:
    """Yield a queue whose messages reach the callable of their type while inside."""

    def show(message: Message) -> None:
        match message:
            case str():
                on_phase(message)
            case float():
                on_share(message)
            case _:
                on_progress(message)

    with message_queue(show) as queue:
        yield queue


@contextmanager
def message_queue(on_message: Callable[[Any], None]) -> Iterator[Any]:
    """Yield a queue whose messages reach a callable while inside.

    The reading thread ends with the block, before Ray does: in Ray 2.60 a thread that waits inside
    Ray while Ray shuts down crashes the process.
    """
    from ray.exceptions import RayError
    from ray.util.queue import Empty, Queue

    queue, over = Queue(actor_options=driver_node_options()), threading.Event()

    def read() -> None:
        while True:
            try:
                message = queue.get(timeout=POLL_S)
            except Empty:
                if over.is_set():
                    return
            except RayError:  # the queue's actor is lost; its reports are in MLflow all the same
                return
            else:
                on_message(message)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield queue
    finally:
        over.set()
        reader.join(timeout=LAST_READ_S)


class QueueReporter:
    """Puts messages into such a queue; pickles."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def __call__(self, message: Any) -> None:
        """Put a message into the queue."""
        self.queue.put(message)


class OnReport(UserCallback):
    """Ray Train's callback that passes worker 0's reports on; they are means over all workers."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self.on_progress = on_progress

    def after_report(
        self,
        run_context: Any,  # noqa: ARG002
        metrics: list[dict[str, Any]],
        checkpoint: Any,  # noqa: ARG002
    ) -> None:
        """See `UserCallback`."""
        self.on_progress(Progress(**metrics[0]))
