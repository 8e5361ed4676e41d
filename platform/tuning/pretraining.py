"""A sweep's shared pre-training: one training, before the search, that all trials fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...trainers.hooks import Progress
from ..compute.ray_session import ray_session, run_on_worker
from ..runs.run import Plan, RunCallbacks, begin, finished_before, run_in_ray_task, train


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
    """Train where Ray has room: several workers through Ray Train, one as a task of its own."""
    from ..compute.progress_queue import OnReport, QueueReporter, progress_queue

    def show(p: Progress) -> None:
        share = p.images_seen / p.total_images
        say(f"pre-training {share:.0%} loss {p.metrics['loss/total']:.3f}")

    scaling = plan.experiment.scaling
    with progress_queue(show, lambda _line: None) as reports:
        if scaling.workers > 1:
            train(plan, RunCallbacks(), (OnReport(QueueReporter(reports)),))
            return
        task = partial(
            run_in_ray_task,
            plan,
            partial(train, plan, RunCallbacks(on_progress=QueueReporter(reports))),
        )
        run_on_worker(scaling, task, max_retries=scaling.max_failures)
