"""A sweep's shared pre-training: one training, before the search, that all trials fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from ...trainers.errors import Problem
from ...trainers.loop import Progress
from ..compute.ray_session import ray_session, run_on_worker
from ..runs.run import Plan, RunCallbacks, begin, finished_before, run_in_ray_task, train


def pretrain(plan: Plan, say: Callable[[str], None]) -> None:
    """Train to the end; do nothing if that was done before.

    Args:
        say: told how far it is.

    Raises:
        Problem: what stopped it; the sweep cannot go on without it.
    """
    run = plan.run
    if finished_before(plan):
        run.finish("FINISHED")
        return
    begin(plan)
    try:
        with ray_session():
            _train(plan, say)
    except BaseException as error:
        with suppress(Problem):  # the first problem is the one to tell
            run.finish("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    run.finish("FINISHED")


def _train(plan: Plan, say: Callable[[str], None]) -> None:
    """Where there is room: several workers through Ray Train, one as a task of its own."""
    from ..compute.progress_queue import ForwardProgress, QueueReporter, progress_queue

    def show(p: Progress) -> None:
        share = p.images_seen / p.total_images
        say(f"pre-training {share:.0%} loss {p.metrics['loss/total']:.3f}")

    scaling = plan.experiment.scaling
    with progress_queue(show, lambda _line: None) as reports:
        if scaling.workers > 1:
            train(plan, RunCallbacks(), (ForwardProgress(reports),))
            return
        task = partial(
            run_in_ray_task,
            plan,
            partial(train, plan, RunCallbacks(on_progress=QueueReporter(reports))),
        )
        run_on_worker(scaling, task, max_retries=scaling.max_failures)
