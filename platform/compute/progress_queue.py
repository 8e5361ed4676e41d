"""Ray Train's controller, told to write down what the workers report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.train import UserCallback

from ...trainers.loop import Progress
from .ray_session import driver_node_options


@contextmanager
def progress_queue(
    on_progress: Callable[[Progress], None], on_phase: Callable[[str], None]
) -> Iterator[Any]:
    """A Ray queue whose reports and phases reach the two callables while inside.

    The thread that tells ends with the block, before Ray does: a thread that waits inside Ray while
    Ray is shut down brings the process down with it.
    """
    from ray.exceptions import RayError
    from ray.util.queue import Empty, Queue

    reports, over = Queue(actor_options=driver_node_options()), threading.Event()

    def listen() -> None:
        while True:
            try:
                message: Progress | str = reports.get(timeout=0.5)
            except Empty:
                if over.is_set():
                    return
            except RayError:  # the queue was lost; its reports are in MLflow all the same
                return
            else:
                on_phase(message) if isinstance(message, str) else on_progress(message)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield reports
    finally:
        over.set()
        listener.join(timeout=10)


class QueueReporter:
    """Puts reports and phases into such a queue; pickles."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def __call__(self, message: Progress | str) -> None:
        """As they come."""
        self.queue.put(message)


class ForwardProgress(UserCallback):
    """Hands Ray Train's reports on through such a queue, to whoever shows them."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def after_report(
        self,
        run_context: Any,  # noqa: ARG002
        metrics: list[dict[str, Any]],
        checkpoint: Any,  # noqa: ARG002
    ) -> None:
        """As they come."""
        self.queue.put(Progress(**metrics[0]))
