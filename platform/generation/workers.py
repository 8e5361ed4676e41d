"""Who makes the shards: this process, or a pool of Ray actors over the cluster.

The images do not depend on it. The shard of a lost worker goes to another one; the lost one is
started again where there is room.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal, Self

from ...trainers.errors import Problem, UsageProblem
from ..config.experiment import ScalingConfig
from .shards import OnImagesDone, Shard, ShardSampler

ShardTask = Literal["generate", "extract_features", "find_nearest"]


class Workers:
    """Does the same to many shards. Use as a context: actors live as long as it does.

    Args:
        maker: what they do.
        count: of processes; 1 is the calling one, `all` as many as the cluster has room for.
        scaling: CPUs and GPUs of each, and how often each may be lost.
    """

    def __init__(
        self, sampler: ShardSampler, count: int | Literal["all"], scaling: ScalingConfig
    ) -> None:
        self.sampler, self.count, self.scaling = sampler, count, scaling
        self._actors: list[Any] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._actors = []
        self._open.close()

    def run(self, task: ShardTask, shards: Sequence[Shard], on_progress: OnImagesDone) -> None:
        """`maker.draw`, `see` or `match` each shard.

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
        done = 0
        for shard in shards:
            before = done
            getattr(self.sampler, task)(
                shard, lambda part, before=before: on_progress(before + part)
            )
            on_progress(done := done + len(shard))

    def _run_on_actors(
        self, task: ShardTask, shards: Sequence[Shard], on_progress: OnImagesDone
    ) -> None:
        if not self._actors:
            self._actors = self._start()
        import ray

        waiting, left = list(reversed(shards)), list(shards)
        idle: list[Any] = []
        busy: dict[Any, tuple[Any, Shard | None]] = {
            actor.ready.remote(): (actor, None) for actor in self._actors
        }
        while left:
            (done,), _ = ray.wait(list(busy), num_returns=1)
            actor, shard = busy.pop(done)
            try:
                ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayActorError as error:
                if shard is None:
                    raise Problem(
                        f"a worker was lost {self.scaling.max_failures + 1} times while making "
                        "images",
                        "the same command goes on where it was; lower sampling.batch_size or "
                        "evaluation.batch_size if it ran out of memory",
                    ) from error
                # Its host may be gone for long: whoever is free makes the shard.
                waiting.append(shard)
                busy[actor.ready.remote()] = actor, None
            else:
                idle.append(actor)
                if shard is not None:
                    left.remove(shard)
                    on_progress(sum(map(len, shards)) - sum(map(len, left)))
            while idle and waiting:
                actor, shard = idle.pop(), waiting.pop()
                make = actor.run.options(max_task_retries=0)
                busy[make.remote(task, shard)] = actor, shard

    def _start(self) -> list[Any]:
        from ..compute.capacity import cluster_capacity
        from ..compute.ray_session import ray_session

        self._open.enter_context(ray_session())
        import ray

        gpus = self.scaling.gpus_per_worker or float("GPU" in ray.cluster_resources())
        cpus = self.scaling.cpus_per_worker
        room = cluster_capacity(cpus, gpus)
        if room < 1 or (self.count != "all" and self.count > room):
            raise UsageProblem(
                f"{self.count} workers with {cpus} CPUs and {gpus:g} GPUs each: the cluster has room "
                f"for {room}",
                "ask for fewer, for all, or lower scaling.cpus_per_worker and gpus_per_worker",
            )
        lost = self.scaling.max_failures
        actor = ray.remote(_Actor).options(
            num_cpus=cpus, num_gpus=gpus, max_restarts=lost, max_task_retries=lost
        )
        count = room if self.count == "all" else self.count
        return [actor.remote(self.sampler) for _ in range(count)]


class _Actor:
    """A maker in a process of its own."""

    def __init__(self, sampler: ShardSampler) -> None:
        self.sampler = sampler

    def ready(self) -> None:
        """Answers once it has started, or started again."""

    def run(self, task: ShardTask, shard: Shard) -> None:
        """One shard; what it makes is in the store."""
        getattr(self.sampler, task)(shard)
