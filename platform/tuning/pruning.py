"""Early stopping, asked by the trainings themselves, which then end in good order.

Ray Tune's own schedulers kill a trial's process; one that holds Ray Train workers would leave
their places taken.

The study has one writer, the sweep's driver. So trainings put their questions to an actor, and the
driver takes them there and leaves the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

from ..evaluation.goal import Goal
from .study import Study
from .trial import PRUNING_ACTOR


class PruningActor:
    """The Ray actor between the trainings and the driver."""

    def __init__(self) -> None:
        self._asked: asyncio.Queue[tuple[int, int, int, float]] = asyncio.Queue()
        self._answers: list[asyncio.Future[bool]] = []

    async def report(self, number: int, images_seen: int, validation_loss: float) -> bool:
        """Whether that trial should stop now; a training asks."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        await self._asked.put((len(self._answers) - 1, number, images_seen, validation_loss))
        return await answer

    async def next_question(self) -> tuple[int, int, int, float]:
        """Which answer is wanted, and what the training said; the driver waits for it."""
        return await self._asked.get()

    async def answer(self, which: int, stop: bool | Exception) -> None:
        """The driver's answer, or what kept it from giving one."""
        if isinstance(stop, Exception):
            self._answers[which].set_exception(stop)
        else:
            self._answers[which].set_result(stop)


@contextmanager
def run_pruning_actor(study: Study, goal: Goal) -> Iterator[None]:
    """Trainings are answered while inside."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = (
        ray.remote(PruningActor)
        .options(name=PRUNING_ACTOR, num_cpus=0, scheduling_strategy=here)
        .remote()
    )
    # Lower validation losses are better, whatever the study's direction.
    answering = Thread(target=_answer, args=(actor, study, goal.sign), daemon=True)
    answering.start()
    try:
        yield
    finally:
        ray.kill(actor)  # which ends the thread
        answering.join()


def _answer(actor: Any, study: Study, sign: int) -> None:
    import ray
    from ray.exceptions import RayActorError

    with suppress(RayActorError):
        while True:
            which, number, images_seen, loss = ray.get(actor.next_question.remote())
            stop: bool | Exception
            try:
                stop = study.report(number, images_seen, sign * loss)
            except Exception as error:  # noqa: BLE001  (the training waits for it)
                stop = error
            ray.get(actor.answer.remote(which, stop))
