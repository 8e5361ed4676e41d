"""A pool of Ray actors that apply one function to many items, and survive lost workers.

`ray.util.ActorPool` (Ray 2.60) gives up at the first lost actor, and has no notion of one that is
still to start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from ...trainers.errors import Problem
from ..config.scaling import ScalingConfig
from .gpus import check_gpus

Item = TypeVar("Item")
Result = TypeVar("Result")


class ActorPool(Generic[Item, Result]):
    """Actors that live as long as the pool; inside a Ray session.

    The item of a lost actor goes to another one. The lost actor is started again where there is
    room, `scaling.max_failures` times. Actors that find no room yet join in when they do.

    Args:
        apply: a picklable function of one item; sent to each actor once.
        size: number of actors.
        scaling: CPUs and GPUs of each actor, and how often each may be lost.
        task: what an item is for, in words: "a worker was lost 4 times while TASK".
        memory_advice: which setting to lower if an actor runs out of memory.
    """

    def __init__(
        self,
        apply: Callable[[Item], Result],
        size: int,
        scaling: ScalingConfig,
        *,
        task: str,
        memory_advice: str,
    ) -> None:
        import ray

        self.scaling, self.task, self.memory_advice = scaling, task, memory_advice
        losses = scaling.max_failures
        actor: Any = ray.remote(PoolActor).options(
            num_cpus=scaling.cpus_per_worker,
            num_gpus=scaling.gpus_per_worker,
            scheduling_strategy="DEFAULT",  # not in the placement group of a trial, which has no CPU
            max_restarts=losses,
            max_task_retries=losses,
        )
        self._apply = ray.put(apply)  # once for all of them; kept here for those that start again
        gpus = scaling.gpus_per_worker
        self._actors = [actor.remote(self._apply, gpus) for _ in range(size)]

    def map(
        self,
        items: Sequence[Item],
        on_change: Callable[[int, int], None] = lambda _done, _running: None,
    ) -> Iterator[tuple[Item, Result]]:
        """Yield each item with its result, in the order in which they become ready.

        Args:
            items: to apply the function to.
            on_change: takes the number of items done and of items being worked on.

        Raises:
            Exception: what the function raised, without Ray's words around it.
            Problem: one worker was lost too often.
        """
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

        waiting, done = list(reversed(items)), 0
        idle: list[Any] = []
        # An actor's entry holds no item while it starts, or starts again.
        busy: dict[Any, tuple[Any, Item | None]] = {
            actor.ready.remote(): (actor, None) for actor in self._actors
        }
        while done < len(items):
            (reference,), _ = ray.wait(list(busy), num_returns=1)
            actor, item = busy.pop(reference)
            ready: list[tuple[Item, Result]] = []
            try:
                result = ray.get(reference)
            except RayTaskError as error:
                raise error.cause from None
            except (RayActorError, OutOfMemoryError) as error:
                if item is None:
                    raise self._lost_too_often() from error
                # Its host may be gone for long: whichever actor is free takes the item.
                waiting.append(item)
                busy[actor.ready.remote()] = actor, None
            else:
                idle.append(actor)
                if item is not None:
                    ready, done = [(item, result)], done + 1
            while idle and waiting:
                actor, item = idle.pop(), waiting.pop()
                # Not retried by Ray, which would wait for this very actor to start again.
                busy[actor.apply.options(max_task_retries=0).remote(item)] = actor, item
            on_change(done, sum(item is not None for _, item in busy.values()))
            yield from ready  # after its actor has something to do again

    def _lost_too_often(self) -> Problem:
        return Problem(
            f"a worker was lost {self.scaling.max_failures + 1} times while {self.task}",
            f"the same command goes on where it was; lower {self.memory_advice} if it ran out of "
            "memory",
        )


class PoolActor:
    """The function in a process of its own."""

    def __init__(self, apply: Callable[[Any], Any], gpus: float) -> None:
        self._apply, self._gpus = apply, gpus

    def ready(self) -> None:
        """Answer once the actor has started, or started again."""

    def apply(self, item: Any) -> Any:
        """Apply the function.

        Raises:
            UsageProblem: Ray gave the actor a GPU that PyTorch does not find.
        """
        check_gpus(self._gpus)
        return self._apply(item)
