"""A sweep's trunk: one training, before the search, that all others start from."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from ...trainers.errors import Problem
from ...trainers.loop import Progress
from ..experiment import with_values
from ..local_ray import connected
from ..runs import Plan, Watch, begin, finished_before, train
from ..tracking import Tracker
from .sweep import Sweep

FOLDER = "trunk"
"""Of a sweep, beside its `trials`."""


def train_trunk(sweep: Sweep, tracker: Tracker, parent: str) -> None:
    """Train the trunk of the sweep's space to its end; nothing if it is there already.

    Raises:
        Problem: what stopped it; the sweep cannot go on without it.
    """
    assert sweep.space.trunk is not None
    values = sweep.space.trunk.values(sweep.experiment.training.images)
    experiment = with_values(sweep.experiment, values, "trunk")
    run = tracker.run(
        f"sweep/{sweep.name}/{FOLDER}",
        FOLDER,
        {"whipray.kind": FOLDER, "whipray.sweep": sweep.name},
        parent,
    )
    plan = Plan(experiment, sweep.store.child(FOLDER), run)
    if finished_before(plan):
        run.finish("FINISHED")
        return
    begin(plan)
    try:
        with connected():
            _train(plan, sweep)
    except BaseException as error:
        with suppress(Problem):  # the first problem is the one to tell
            run.finish("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    run.finish("FINISHED")


def _train(plan: Plan, sweep: Sweep) -> None:
    """Where there is room: several workers through Ray Train, one as a task of its own."""
    import ray
    from ray.util.queue import Queue

    from ..ray_callbacks import ForwardProgress

    reports = Queue()

    def show() -> None:
        with suppress(Exception):  # Ray is gone, and the queue with it
            while True:
                p = Progress(**reports.get())
                share = p.images_seen / p.total_images
                sweep.status.say(f"trunk {share:.0%} loss {p.metrics['loss/total']:.3f}")

    threading.Thread(target=show, daemon=True).start()
    scaling = plan.experiment.scaling
    if scaling.workers > 1:
        train(plan, Watch(), (ForwardProgress(reports),))
        return
    task = ray.remote(train).options(
        num_cpus=scaling.cpus_per_worker,
        num_gpus=scaling.gpus_per_worker,
        max_retries=scaling.max_failures,
    )
    try:
        ray.get(task.remote(plan, Watch(progress=_Put(reports))))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # what happened, without Ray's words around it


class _Put:
    """Puts progress into a queue; pickles."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def __call__(self, progress: Progress) -> None:
        self.queue.put(vars(progress))
