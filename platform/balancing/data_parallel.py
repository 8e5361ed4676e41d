"""One classifier, trained by all of Ray Train's workers (`scaling.workers`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ...trainers.errors import Problem
from ..compute.capacity import with_gpu_if_any
from ..config.scaling import ScalingConfig

OnPhase = Callable[[str], None]
Train = Callable[[Any, OnPhase], Any]


def train_on_all_workers(
    train: Train, images: Any, scaling: ScalingConfig, on_phase: OnPhase
) -> Any:
    """Call `train(images, on_phase)` on each worker of one process group; return what worker 0 returns.

    It has to be called within a Ray session. Where a worker is lost all of them begin anew.

    Args:
        train: a function that pickles.
        images: what `ray.put` returned for its first argument.
        on_phase: called here with the lines of worker 0.

    Raises:
        UsageProblem: more workers than this machine, if there is no other, has room for.
        Problem: the training failed, or workers were lost too often.
    """
    from ..compute.progress_queue import QueueReporter, message_queue
    from ..compute.ray_train import run_on_workers

    # fewer workers would save nothing: there is no checkpoint to go on from when the others rejoin
    scaling = with_gpu_if_any(scaling.model_copy(update={"min_workers": None}))
    with message_queue(on_phase) as queue:
        return run_on_workers(
            partial(_work, train, QueueReporter(queue)),
            {"images": images, "scaling": scaling},
            scaling,
            name="classifier",
            less_memory="lower classification.batch_size",
            again="trains this classifier anew",
        )


def _work(train: Train, on_phase: OnPhase, config: dict[str, Any]) -> Any:
    """Train as one Ray Train worker; a problem that all share is returned, not retried."""
    import ray

    from ..compute.gpus import check_workers_gpus
    from ..compute.process_group import meet_workers
    from ..foundation.logs import quiet_logs

    quiet_logs()
    scaling: ScalingConfig = config["scaling"]
    peers = meet_workers(scaling)
    images = ray.get(config["images"])
    try:
        check_workers_gpus(scaling.gpus_per_worker, peers)  # each has its images, too
        peers.begin_group()
        return train(images, on_phase if peers.rank == 0 else lambda _line: None)
    except Problem as problem:
        return problem
