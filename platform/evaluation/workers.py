"""Who makes the shards: this process, or a pool of Ray actors over the cluster.

The images do not depend on it. A lost worker is started again and makes its shard anew; the others
go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, Self

from ...trainers.errors import Problem, UsageProblem
from ..experiment import ScalingConfig
from .shards import Artist, Shard

Progress = Callable[[int], None]
"""Hears how many images are done."""
Verb = Literal["draw", "see", "match"]


class Workers:
    """Does the same to many shards. Use as a context: actors live as long as it does.

    Args:
        maker: what they do.
        count: of processes; 1 is the calling one, `all` as many as the cluster has room for.
        scaling: CPUs and GPUs of each, and how often each may be lost.
    """

    def __init__(self, maker: Artist, count: int | Literal["all"], scaling: ScalingConfig) -> None:
        self.maker, self.count, self.scaling = maker, count, scaling
        self._actors: list[Any] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._actors = []
        self._open.close()

    def do(self, verb: Verb, shards: Sequence[Shard], progress: Progress) -> None:
        """`maker.draw`, `see` or `match` each shard.

        Raises:
            Problem: what a shard raised, or a worker that was lost too often.
        """
        if self.count == 1:
            self._do_here(verb, shards, progress)
        else:
            self._do_on_actors(verb, shards, progress)

    def _do_here(self, verb: Verb, shards: Sequence[Shard], progress: Progress) -> None:
        done = 0
        for shard in shards:
            before = done
            getattr(self.maker, verb)(shard, lambda part, before=before: progress(before + part))
            progress(done := done + len(shard))

    def _do_on_actors(self, verb: Verb, shards: Sequence[Shard], progress: Progress) -> None:
        if not self._actors:
            self._actors = self._start()
        import ray

        waiting, done = list(reversed(shards)), 0
        busy: dict[Any, tuple[Any, Shard]] = {}
        free = list(self._actors)
        try:
            while waiting or busy:
                while free and waiting:
                    actor, shard = free.pop(), waiting.pop()
                    busy[actor.do.remote(verb, shard)] = actor, shard
                ready, _ = ray.wait(list(busy), num_returns=1)
                ray.get(ready[0])
                actor, shard = busy.pop(ready[0])
                free.append(actor)
                progress(done := done + len(shard))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayActorError as error:
            raise Problem(
                f"a worker was lost {self.scaling.max_failures + 1} times while making images",
                "the same command goes on where it was; lower sampling.batch_size or "
                "evaluation.batch_size if it ran out of memory",
            ) from error

    def _start(self) -> list[Any]:
        from ..local_ray import connected

        self._open.enter_context(connected())
        import ray

        has = ray.cluster_resources()
        gpus = self.scaling.gpus_per_worker or float("GPU" in has)
        cpus = self.scaling.cpus_per_worker
        room = int(min(has.get("CPU", 0) // cpus, has.get("GPU", 0) // gpus if gpus else 2**31))
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
        return [actor.remote(self.maker) for _ in range(count)]


class _Actor:
    """A maker in a process of its own."""

    def __init__(self, maker: Artist) -> None:
        self.maker = maker

    def do(self, verb: Verb, shard: Shard) -> None:
        """One shard; what it makes is in the store."""
        getattr(self.maker, verb)(shard)
