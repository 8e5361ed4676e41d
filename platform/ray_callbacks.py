"""Ray Train's controller, told to write down what the workers report."""

from __future__ import annotations

from typing import Any

from ray.train import UserCallback

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
