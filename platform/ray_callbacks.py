"""Ray Train's controller, told to write down what the workers report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.train import UserCallback

from ..trainers.loop import Progress
from .tracking import Run


class RecordProgress(UserCallback):
    """Writes worker 0's reports to MLflow, so that a run has one writer at any time."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def after_report(
        self,
        run_context: Any,  # noqa: ARG002
        metrics: list[dict[str, Any]],
        checkpoint: Any,  # noqa: ARG002
    ) -> None:
        """Worker 0's numbers are global means already."""
        progress = metrics[0]
        self.run.metrics(progress["metrics"], progress["images_seen"])


@contextmanager
def heard(tell: Callable[[Progress], None]) -> Iterator[Any]:
    """A Ray queue, inside which whatever is put into it is told from a thread.

    The thread ends with the block, before Ray does: a thread that waits inside Ray while Ray is shut
    down brings the process down with it.
    """
    from ray.exceptions import RayError
    from ray.util.queue import Empty, Queue

    reports, over = Queue(), threading.Event()

    def listen() -> None:
        while True:
            try:
                tell(Progress(**reports.get(timeout=0.5)))
            except Empty:
                if over.is_set():
                    return
            except RayError:  # the queue was lost; its reports are in MLflow all the same
                return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield reports
    finally:
        over.set()
        listener.join(timeout=10)


class ForwardProgress(UserCallback):
    """Hands reports on through a Ray queue, to whoever shows them."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def after_report(
        self,
        run_context: Any,  # noqa: ARG002
        metrics: list[dict[str, Any]],
        checkpoint: Any,  # noqa: ARG002
    ) -> None:
        """As they come."""
        self.queue.put(metrics[0])
