"""Ray Tune asks, the study answers: a thin searcher over ask and tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from ..compute.interrupts import RemoteStopFlag
from ..runs.run import Plan
from .study import Study
from .trial import FAILED, FINISHED, OUTCOME, SAVED, STOPPED
from .trial_records import Point

PlanFor = Callable[[Point], Plan]


class PointQueue:
    """The sweep's points in order, one looked at ahead.

    Trainings of one shape (workers and their CPUs and GPUs) run side by side; when the next point
    has another shape, the present ones end first. Two shapes would otherwise wait for each other's
    CPUs: Ray Train's workers are placed outside of what Tune counts.
    """

    def __init__(self, study: Study, plan_for: PlanFor) -> None:
        self.study = study
        self.plan_for = plan_for
        self._next: tuple[Point, Plan] | None = None
        self._over = False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune writes down what it is given, for a way to resume that is not ours."""
        return {}

    def peek(self) -> tuple[Point, Plan] | None:
        """The next point, still to be taken."""
        if self._next is None and not self._over:
            point = self.study.ask()
            self._over = point is None
            self._next = (point, self.plan_for(point)) if point else None
        return self._next

    def take(self) -> tuple[Point, Plan] | None:
        """The next point, taken."""
        taken, self._next = self.peek(), None
        return taken


def resource_request(plan: Plan) -> tuple[int, int, float]:
    """What a training asks of the cluster."""
    scaling = plan.experiment.scaling
    return scaling.workers, scaling.cpus_per_worker, scaling.gpus_per_worker


class StudySearcher(Searcher):
    """Hands out the points of one shape and tells the study how they ended.

    Args:
        rank_by: the number that the study is told.
        asks_pruning: whether trainings ask the pruning actor whether to stop early.
        stop: asked by trainings whether to save and leave; once they are to, no more points go out.
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
        result = result or {}
        outcome = None if error else result.get(OUTCOME)
        if outcome == FINISHED:
            summary = json.loads(result["summary"])
            value = summary["metrics"][self.rank_by]
            self.points.study.complete(number, value, {"summary": summary})
        elif outcome == STOPPED:
            self.points.study.prune(number)
        elif outcome == SAVED:
            pass  # it stays a running one, and goes on when the sweep is resumed
        elif outcome == FAILED:
            self.points.study.fail(number, result["problem"], diverged=result["diverged"])
        else:
            plan.run.finish("FAILED")
            self.points.study.fail(number, "its process was lost, more often than is retried")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study keeps everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a resumed sweep opens the study."""


class ShowProgress(Callback):
    """Passes what trials report to whoever shows it."""

    def __init__(self, show: Callable[[int, dict[str, Any]], None]) -> None:
        self.show = show

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as `PointQueue`."""
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
        """See `Callback`: its process was lost, more often than is retried."""
        self.show(trial.config["number"], {OUTCOME: FAILED})
