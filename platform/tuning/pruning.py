"""Early stopping: trainings ask whether to stop, and then end by themselves.

Ray Tune's own schedulers kill a trial's process; in Ray 2.60 a killed trial leaves the placement group
of its Ray Train workers behind (ray-project/ray#58515).

The study has one writer, the sweep's driver. So trainings put their questions to an actor; the driver
fetches the questions from it and sends it the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

from ...trainers.hooks import Progress
from ..compute.ray_session import driver_node_options
from ..evaluation.goal import Goal
from .study import Study

PRUNING_ACTOR = "whipray-pruning"
"""Name of the actor."""

VALIDATION_LOSS = "validation/denoising"


class PruningActor:
    """The Ray actor between the trainings and the driver."""

    def __init__(self) -> None:
        self._questions: asyncio.Queue[tuple[int, int, int, float]] = asyncio.Queue()
        self._answers: list[asyncio.Future[bool]] = []

    async def report(self, number: int, images_seen: int, validation_loss: float) -> bool:
        """Return whether that trial should stop now; called by a training."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        await self._questions.put((len(self._answers) - 1, number, images_seen, validation_loss))
        return await answer

    async def next_question(self) -> tuple[int, int, int, float]:
        """Return the index of an answer that is waited for and the report; called by the driver."""
        return await self._questions.get()

    async def answer(self, index: int, stop: bool | Exception) -> None:
        """Take the driver's answer, or what kept it from answering."""
        if isinstance(stop, Exception):
            self._answers[index].set_exception(stop)
        else:
            self._answers[index].set_result(stop)


class PruningClient:
    """A `ReportCallback` that asks the actor whether to stop; pickles into Ray Train workers."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, progress: Progress) -> bool:
        """Ask at checkpoints only: they come with a validation loss, and stopping loses nothing."""
        import ray

        if VALIDATION_LOSS not in progress.metrics:
            return False
        actor = ray.get_actor(PRUNING_ACTOR)
        loss = progress.metrics[VALIDATION_LOSS]
        return bool(ray.get(actor.report.remote(self.number, progress.images_seen, loss)))


@contextmanager
def run_pruning_actor(study: Study, goal: Goal) -> Iterator[None]:
    """Inside, the study answers trainings that ask whether to stop early."""
    import ray

    options = driver_node_options()
    actor: Any = ray.remote(PruningActor).options(name=PRUNING_ACTOR, **options).remote()
    # Lower validation losses are better, whatever the study's direction.
    answering = Thread(target=_answer, args=(actor, study, goal.sign), daemon=True)
    answering.start()
    try:
        yield
    finally:
        ray.kill(actor)  # which ends the thread
        answering.join()


def _answer(actor: Any, study: Study, sign: float) -> None:
    import ray
    from ray.exceptions import RayActorError

    with suppress(RayActorError):
        while True:
            index, number, images_seen, loss = ray.get(actor.next_question.remote())
            stop: bool | Exception
            try:
                stop = study.report(number, images_seen, sign * loss)
            except Exception as error:  # noqa: BLE001  (raised in the training, which waits for it)
                stop = error
            ray.get(actor.answer.remote(index, stop))
