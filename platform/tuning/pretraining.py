"""A sweep's shared pre-training: one training, before the search, that all trials fine-tune."""

from __future__ import annotations

from collections.abc import Callable

from ...trainers.hooks import Progress
from ..compute.ray_session import ray_session
from ..runs.beginning import begin
from ..runs.run import Plan, RunCallbacks, finished_before, train_on_ray


def pretrain(plan: Plan, say: Callable[[str], None]) -> None:
    """Train to the end; do nothing if that was done before.

    Args:
        plan: the run of the pre-training.
        say: shows a line of progress.

    Raises:
        Problem: what stopped it; the sweep cannot go on without it.
    """
    with plan.run.finishing():
        if not finished_before(plan):
            begin(plan)
            with ray_session():
                _train(plan, say)


def _train(plan: Plan, say: Callable[[str], None]) -> None:
    """Train on Ray, and show the progress."""
    from ..compute.progress_queue import QueueReporter, progress_queue

    def show(p: Progress) -> None:
        share = p.images_seen / p.total_images
        say(f"pre-training {share:.0%} loss {p.metrics['loss/total']:.3f}")

    with progress_queue(show, lambda _line: None) as queue:
        train_on_ray(plan, RunCallbacks(on_progress=QueueReporter(queue)))
