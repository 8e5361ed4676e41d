"""A searcher for Ray Tune over the study's ask and tell.

Ray's own `OptunaSearch` (2.60) is not used: after a driver died, running trials stay running for ever and
are counted as pending; a NaN is never reported; a trial that is stopped early counts as complete, with
its truncated value; known points are enqueued again on resume; two sweeps in one database share a study.
`docs/design/search.md` has the details.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from ...trainers.errors import Problem
from ..compute.interrupts import RemoteStopFlag
from ..foundation.abort import before_abort
from ..runs.run import Plan
from .study import Study
from .trial import FAILED, FINISHED, OUTCOME, SAVED, STOPPED
from .trial_records import Point

LOST = "its process was lost more often than scaling.max_failures"

PlanFor = Callable[[Point], Plan]


class PointQueue:
    """The sweep's points in order, of which the next one can be seen before it is taken.

    Trainings with the same resource request run side by side; when the next point has another one,
    the present trainings end first. They would otherwise wait for each other's CPUs: Tune 2.60 does
    not count the workers of Ray Train.
    """

    def __init__(self, study: Study, plan_for: PlanFor) -> None:
        self.study = study
        self.plan_for = plan_for
        self._next: tuple[Point, Plan] | None = None
        self._over = False
        self._unfinished: dict[int, Plan] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray Tune pickles what it is given, for a way to resume that is not ours."""
        return {}

    def peek(self) -> tuple[Point, Plan] | None:
        """Return the next point without taking it."""
        if self._next is None and not self._over:
            point = self.study.ask()
            self._over = point is None
            if point is not None:
                self._next = point, self.plan_for(point)
                self._unfinished[point.number] = self._next[1]
        return self._next

    def take(self) -> tuple[Point, Plan] | None:
        """Take the next point."""
        taken, self._next = self.peek(), None
        return taken

    def ended(self, number: int) -> None:
        """Forget a trial: its MLflow run has its final status."""
        self._unfinished.pop(number, None)

    @contextmanager
    def marking_unfinished(self) -> Iterator[None]:
        """Mark the MLflow runs that have not ended as KILLED where the block raises or is aborted."""

        def mark(_problem: Problem | None = None) -> None:
            for plan in self._unfinished.values():
                with suppress(Problem):  # the error that came first is the one to raise
                    plan.run.finish("KILLED")

        try:
            with before_abort(mark):
                yield
        except BaseException:
            mark()
            raise


def resource_request(plan: Plan) -> tuple[int, int, float]:
    """Return the workers of a training, and the CPUs and GPUs of each."""
    scaling = plan.experiment.scaling
    return scaling.workers, scaling.cpus_per_worker, scaling.gpus_per_worker


class StudySearcher(Searcher):
    """Hands out points with the same resource request, and records in the study how they ended.

    Args:
        points: what to train.
        rank_by: the metric that the study searches for.
        asks_pruning: whether trainings ask the pruning actor whether to stop early.
        stop: read by trainings: once it is set they save and end, and no more points go out.
    """

    def __init__(
        self, points: PointQueue, rank_by: str, asks_pruning: bool, stop: RemoteStopFlag
    ) -> None:
        super().__init__()
        self.points, self.rank_by, self.asks_pruning, self.stop = (
            points,
            rank_by,
            asks_pruning,
            stop,
        )
        self.numbers: dict[str, tuple[int, Plan]] = {}
        first = points.peek()
        self.resources = resource_request(first[1]) if first else None

    def suggest(self, trial_id: str) -> Any:
        """See `Searcher`."""
        if self.stop.is_set():
            return Searcher.FINISHED
        ahead = self.points.peek()
        if ahead is None or resource_request(ahead[1]) != self.resources:
            return Searcher.FINISHED
        point, plan = ahead
        self.points.take()
        self.numbers[trial_id] = (point.number, plan)
        return {
            "number": point.number,
            "plan": plan,
            "pruning": self.asks_pruning,
            "stop": self.stop,
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """See `Searcher`."""
        number, plan = self.numbers[trial_id]
        self.points.ended(number)
        result = result or {}
        outcome = None if error else result.get(OUTCOME)
        if outcome == FINISHED:
            summary = json.loads(result["summary"])
            value = summary["metrics"][self.rank_by]
            self.points.study.complete(number, value, {"summary": summary})
        elif outcome == STOPPED:
            self.points.study.prune(number)
        elif outcome == SAVED:
            pass  # it stays running in the study, and goes on when the sweep is resumed
        elif outcome == FAILED:
            self.points.study.fail(number, result["problem"], diverged=result["diverged"])
        else:
            plan.run.finish("FAILED")
            self.points.study.fail(number, LOST)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study keeps everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a resumed sweep opens the study."""


class ShowProgress(Callback):
    """Tune's callback that passes reports of trials to a callable."""

    def __init__(self, show: Callable[[int, dict[str, Any]], None]) -> None:
        self.show = show

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing, as `PointQueue`."""
        return {}

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Any],  # noqa: ARG002
        trial: Any,
        result: dict[str, Any],
        **_info: Any,
    ) -> None:
        """See `Callback`."""
        self.show(trial.config["number"], result)

    def on_trial_error(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Any],  # noqa: ARG002
        trial: Any,
        **_info: Any,
    ) -> None:
        """See `Callback`. The trial's process was lost too often."""
        self.show(trial.config["number"], {OUTCOME: FAILED})
