"""Who works on the shards: this process, or a pool of Ray actors over the cluster.

The images do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Literal, Self, TypeVar, cast

from ..compute.actor_pool import ActorPool
from ..compute.capacity import cluster_capacity, is_single_machine, no_room, with_gpu_if_any
from ..compute.ray_session import ray_session
from ..config.scaling import ScalingConfig
from ..foundation.durations import Seldom
from .shard_tasks import ShardSampler
from .shards import OnImagesDone, Shard

ShardTask = Literal["generate", "extract_features", "find_nearest", "score"]


Result = TypeVar("Result")
OnMessage = Callable[[Any], None]
"""Takes a picklable message about work that is being done."""

REPORT_EVERY_S = 1.0
"""Between two reports of one actor."""


class Workers:
    """Apply one task of a `ShardSampler` to many shards.

    Use as a context: actors live as long as it does.

    Args:
        sampler: whose task.
        count: of processes; 1 is the calling one, `all` as many as the cluster has room for, None as many as
            `scaling` has, or as this machine has room for.
        scaling: CPUs and GPUs of each, and how often each may be lost.
    """

    def __init__(
        self, sampler: ShardSampler, count: int | Literal["all"] | None, scaling: ScalingConfig
    ) -> None:
        self.sampler, self.count, self.scaling = sampler, count, scaling
        self._in_this_process = (count or scaling.workers) == 1
        self._size: int | None = 1 if self._in_this_process else None
        self._pool: ActorPool[_Job, Any] | None = None
        self._open = ExitStack()
        self._queue: Any = None
        self._jobs = 0
        self._on_message: Callable[[Any], None] = lambda _message: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()
        self._open.close()

    def release(self) -> None:
        """End the actors, so that others find room; they start again when they are needed."""
        self._pool = None

    @property
    def size(self) -> int:
        """How many processes work; 1 is the calling one.

        Raises:
            Problem: no Ray, or no room for as many as were asked for.
        """
        if self._size is None:
            self._connect()
        assert self._size is not None
        return self._size

    def run(self, task: ShardTask, shards: Sequence[Shard], on_progress: OnImagesDone) -> None:
        """Do the task for each shard.

        Raises:
            Problem: what a shard raised, or a worker that was lost too often.
        """
        _ = self.size
        if self._in_this_process:
            self._run_in_this_process(task, shards, on_progress)
        else:
            self._run_on_actors(task, shards, on_progress)

    def compute(
        self, action: Callable[[OnMessage], Result], on_message: Callable[[Any], None]
    ) -> Result:
        """Call a picklable action on one of the actors, where it has what a training's worker has.

        It is called in this process where that is the only one; and where actors are a number of processes
        that was asked for and have no GPU, since they may have fewer CPUs than this one.

        Args:
            action: takes what passes messages on to `on_message`.
        """
        _ = self.size
        is_usual = self.count is None or self.scaling.gpus_per_worker > 0
        if self._in_this_process or not is_usual:
            return action(on_message)
        ((_, result),) = self._map([partial(_do_alone, action)], on_message)
        return cast(Result, result)

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
        parts = _Parts(on_progress)
        works = [partial(_do_task, task, shard) for shard in shards]
        for work, _none in self._map(works, lambda part: parts.report(*part)):
            parts.end(work.args[1])

    def _map(
        self, works: Sequence[Any], on_message: Callable[[Any], None]
    ) -> Iterator[tuple[Any, Any]]:
        """Yield each work with what it returns, as they end; actors that do not live yet are started."""
        if self._pool is None:
            self._start()
        assert self._pool is not None
        self._jobs += 1
        self._on_message = on_message
        for job, result in self._pool.map([_Job(self._jobs, work) for work in works]):
            yield job.work, result

    def _connect(self) -> None:
        """Join Ray, and find out how many actors there will be."""
        self._open.enter_context(ray_session())
        if self.count is not None:
            self.scaling = with_gpu_if_any(self.scaling)
        room = cluster_capacity(self.scaling.cpus_per_worker, self.scaling.gpus_per_worker)
        if self.count is None:
            is_alone = is_single_machine()  # else hosts may be on their way back
            size = min(self.scaling.workers, max(1, room)) if is_alone else self.scaling.workers
            self._in_this_process = is_alone and size == 1
            fits = room >= 1 or is_alone
        else:
            size = max(1, room) if self.count == "all" else self.count
            fits = size <= room
        if not fits:
            wanted = self.scaling.model_copy(update={"workers": size})
            raise no_room(wanted, room, setting="evaluation.workers")
        self._size = size

    def _start(self) -> None:
        from ..compute.progress_queue import QueueReporter, message_queue

        def take(message: tuple[int, Any]) -> None:
            job, content = message
            if job == self._jobs:  # else on its way when its job ended
                self._on_message(content)

        if self._queue is None:
            self._queue = self._open.enter_context(message_queue(take))
        self._pool = ActorPool(
            partial(_do, self.sampler, QueueReporter(self._queue)),
            self.size,
            self.scaling,
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


@dataclass(frozen=True)
class _Job:
    """Work for one actor."""

    number: int
    """Of what is done at one time, by which its messages are known."""
    work: Callable[[ShardSampler, OnMessage], Any]


def _do(sampler: ShardSampler, put: OnMessage, job: _Job) -> Any:
    """Do a job on an actor.

    Args:
        sampler: the actor's.
        put: takes the job's number and a message.
        job: what to do.
    """
    return job.work(sampler, lambda message: put((job.number, message)))


def _do_task(task: ShardTask, shard: Shard, sampler: ShardSampler, report: OnMessage) -> None:
    """Do a task for one shard; what comes of it is in the store.

    Args:
        report: takes the shard's stem and the number of its images that are done.
    """
    is_due = Seldom(REPORT_EVERY_S)

    def on_part(images: float) -> None:
        if is_due():
            report((shard.stem, images))

    getattr(sampler, task)(shard, on_part)


def _do_alone(
    action: Callable[[OnMessage], Result], _sampler: ShardSampler, report: OnMessage
) -> Result:
    """Do what needs no shard."""
    return action(report)
