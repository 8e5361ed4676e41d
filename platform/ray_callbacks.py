"""Ray Train's controller, told to write down what the workers report."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
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


def heard(tell: Callable[[Progress], None]) -> Any:
    """A Ray queue; whatever is put into it is told from a thread, until Ray is gone."""
    from ray.util.queue import Queue

    reports = Queue()

    def listen() -> None:
        with suppress(Exception):  # the queue went with Ray
            while True:
                tell(Progress(**reports.get()))

    threading.Thread(target=listen, daemon=True).start()
    return reports


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
