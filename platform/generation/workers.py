"""Who works on the shards: this process, or a pool of Ray actors over the cluster.

The images do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from threading import Lock
from typing import Literal, Self

from ..compute.actor_pool import ActorPool
from ..compute.capacity import cluster_capacity, no_room, with_gpu_if_any
from ..compute.ray_session import ray_session
from ..config.experiment import ScalingConfig
from ..foundation.durations import Seldom
from .shard_tasks import ShardSampler
from .shards import OnImagesDone, Shard

ShardTask = Literal["generate", "extract_features", "find_nearest", "score"]


REPORT_EVERY_S = 1.0
"""Between two reports of one actor."""


class Workers:
    """Apply one task of a `ShardSampler` to many shards.

    Use as a context: actors live as long as it does.

    Args:
        sampler: whose task.
        count: of processes; 1 is the calling one, `all` as many as the cluster has room for.
        scaling: CPUs and GPUs of each, and how often each may be lost.
    """

    def __init__(
        self, sampler: ShardSampler, count: int | Literal["all"], scaling: ScalingConfig
    ) -> None:
        self.sampler, self.count, self.scaling = sampler, count, scaling
        self._pool: ActorPool[tuple[ShardTask, Shard], None] | None = None
        self._open = ExitStack()
        self._parts = _Parts(lambda _done: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool = None
        self._open.close()

    def run(self, task: ShardTask, shards: Sequence[Shard], on_progress: OnImagesDone) -> None:
        """Do the task for each shard.

        Raises:
            Problem: what a shard raised, or a worker that was lost too often.
        """
        if self.count == 1:
            self._run_in_this_process(task, shards, on_progress)
        else:
            self._run_on_actors(task, shards, on_progress)

    def _run_in_this_process(
        self, task: ShardTask, shards: Sequence[Shard], on_progress: OnImagesDone
    ) -> None:
        done, is_due = 0, Seldom()
        for shard in shards:
            before = done

            def on_part(part: float, before: int = before) -> None:
                if is_due():
                    on_progress(before + part)

            getattr(self.sampler, task)(shard, on_part)
            on_progress(done := done + len(shard))

    def _run_on_actors(
        self, task: ShardTask, shards: Sequence[Shard], on_progress: OnImagesDone
    ) -> None:
        if self._pool is None:
            self._start()
        assert self._pool is not None
        self._parts = parts = _Parts(on_progress)
        for (_task, shard), _none in self._pool.map([(task, shard) for shard in shards]):
            parts.end(shard)

    def _start(self) -> None:
        from ..compute.progress_queue import QueueReporter, message_queue

        self._open.enter_context(ray_session())
        scaling = with_gpu_if_any(self.scaling)
        room = cluster_capacity(scaling.cpus_per_worker, scaling.gpus_per_worker)
        count = max(1, room) if self.count == "all" else self.count
        if count > room:
            wanted = scaling.model_copy(update={"workers": count})
            raise no_room(wanted, room, setting="evaluation.workers")
        queue = self._open.enter_context(message_queue(lambda part: self._parts.report(*part)))
        self._pool = ActorPool(
            partial(_do, self.sampler, QueueReporter(queue)),
            count,
            scaling,
            task="making images",
            memory_advice="sampling.batch_size or evaluation.batch_size",
        )


class _Parts:
    """Adds up what actors have done of their shards, for one task."""

    def __init__(self, on_progress: OnImagesDone) -> None:
        self._on_progress = on_progress
        self._done: dict[str, float] = {}
        self._ended: set[str] = set()
        self._lock = Lock()  # messages come on a thread

    def report(self, shard: str, images: float) -> None:
        """Take the number of images that are done of a shard in work."""
        with self._lock:
            if shard not in self._ended:
                self._done[shard] = images
                self._on_progress(sum(self._done.values()))

    def end(self, shard: Shard) -> None:
        """Take a shard that is done."""
        with self._lock:
            self._ended.add(shard.stem)
            self._done[shard.stem] = len(shard)
            self._on_progress(sum(self._done.values()))


def _do(
    sampler: ShardSampler,
    report: Callable[[tuple[str, float]], None],
    item: tuple[ShardTask, Shard],
) -> None:
    """Do a task for one shard; what comes of it is in the store.

    Args:
        sampler: whose task.
        report: takes the shard's stem and the number of its images that are done.
        item: the task and the shard.
    """
    task, shard = item
    is_due = Seldom(REPORT_EVERY_S)

    def on_part(images: float) -> None:
        if is_due():
            report((shard.stem, images))

    getattr(sampler, task)(shard, on_part)
