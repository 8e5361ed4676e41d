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

from ...trainers.errors import Problem, UsageProblem
from ..compute.interrupts import RemoteStopFlag
from ..config.experiment import Experiment
from ..foundation.abort import before_abort
from ..storage import layout
from .status import SweepStatus
from .study import Study
from .trial import BLOCKED, FAILED, FINISHED, OUTCOME, REFUSED, SAVED, STOPPED
from .trial_records import Point
from .trial_spec import TrialSpec

LOST = "its process was lost more often than scaling.max_failures"

SpecFor = Callable[[Point], TrialSpec]


class PointQueue:
    """The sweep's points in order, of which the next one can be seen before it is taken.

    Trainings with the same resource request run side by side; when the next point has another one,
    the present trainings end first. They would otherwise wait for each other's CPUs: Tune 2.60 does
    not count the workers of Ray Train.

    Args:
        study: gives the points.
        spec_for: makes a point a training, if the config allows it. It is called in Tune's event loop, in
            which the reports of all trials wait, so it neither reads data nor calls a server.
        status: shows what becomes of them; its event stops the running trainings.
    """

    def __init__(self, study: Study, spec_for: SpecFor, status: SweepStatus) -> None:
        self.study = study
        self.spec_for = spec_for
        self.status = status
        self.problem: Problem | None = None
        """What keeps every training from running: the sweep ends with it."""
        self._reasons: set[str] = set()
        self._next: TrialSpec | None = None
        self._over = False
        self._unfinished: dict[int, TrialSpec] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray Tune pickles what it is given, for a way to resume that is not ours."""
        return {}

    def peek(self) -> TrialSpec | None:
        """Return the next point without taking it; those that the config refuses have failed."""
        while self._next is None and not self._over and self.problem is None:
            point = self.study.ask()
            if point is None:
                self._over = True
                break
            try:
                self._next = self.spec_for(point)
            except (
                UsageProblem
            ) as problem:  # of this point alone: the sweep's own config was checked
                self._refuse(point.number, problem)
        return self._next

    def take(self) -> TrialSpec | None:
        """Take the next point."""
        taken, self._next = self.peek(), None
        if taken is not None:
            self._unfinished[taken.point.number] = taken
        return taken

    def refuse_next(self, problem: Problem) -> None:
        """Fail the next point, which cannot be trained."""
        taken = self.take()
        assert taken is not None
        run = taken.plan().run
        run.set_tags({layout.Tag.OUTCOME: FAILED, layout.Tag.PROBLEM: str(problem)})
        run.finish("FAILED")
        self.ended(taken.point.number)
        self._refuse(taken.point.number, problem)

    def _refuse(self, number: int, problem: Problem) -> None:
        self.study.fail(number, str(problem), refused=True)
        self.status.report(number, {OUTCOME: FAILED})

    def block(self, problem: Problem) -> None:
        """End the sweep with a problem that all trainings share; those that run save first."""
        self.problem = self.problem or problem
        self.status.stop_requested.set()

    def block_if_repeated(self, problem: Problem) -> None:
        """End the sweep if two trainings failed for one reason, and none has finished."""
        none_finished = all(row["state"] == "fail" for row in self.study.finished())
        if problem.what in self._reasons and none_finished:
            self.block(problem)
        self._reasons.add(problem.what)

    def ended(self, number: int) -> None:
        """Forget a trial: its MLflow run has its final status."""
        self._unfinished.pop(number, None)

    @contextmanager
    def marking_unfinished(self) -> Iterator[None]:
        """Mark the MLflow runs that have not ended as KILLED where the block raises or is aborted."""

        def mark(_problem: Problem | None = None) -> None:
            for spec in self._unfinished.values():
                with suppress(Problem):  # the error that came first is the one to raise
                    finish_lost(spec, "KILLED")

        try:
            with before_abort(mark):
                yield
        except BaseException:
            mark()
            raise


def finish_lost(spec: TrialSpec, status: str) -> None:
    """Set the status of the MLflow run of a trial whose process does not; it may not have made one."""
    if run := spec.existing_run():
        run.finish(status)


def resource_request(spec: TrialSpec) -> tuple[int, int, float]:
    """Return the workers of a training, and the CPUs and GPUs of each."""
    scaling = spec.experiment.scaling
    return scaling.workers, scaling.cpus_per_worker, scaling.gpus_per_worker


class StudySearcher(Searcher):
    """Hands out points with the same resource request, and records in the study how they ended.

    Args:
        points: what to train.
        experiment: the sweep's; its `rank_by` is what the study searches for.
        asks_pruning: whether trainings ask the pruning actor whether to stop early.
        stop: read by trainings: once it is set they save and end, and no more points go out.
    """

    def __init__(
        self, points: PointQueue, experiment: Experiment, asks_pruning: bool, stop: RemoteStopFlag
    ) -> None:
        super().__init__()
        self.points, self.experiment = points, experiment
        self.asks_pruning, self.stop = asks_pruning, stop
        self.taken: dict[str, TrialSpec] = {}
        first = points.peek()
        self.resources = resource_request(first) if first else None

    def suggest(self, trial_id: str) -> Any:
        """See `Searcher`."""
        if self.stop.is_set():
            return Searcher.FINISHED
        ahead = self.points.peek()
        if ahead is None or resource_request(ahead) != self.resources:
            return Searcher.FINISHED
        self.points.take()
        self.taken[trial_id] = ahead
        return {
            "number": ahead.point.number,
            "spec": ahead,
            "shares_data": ahead.experiment.data == self.experiment.data,
            "pruning": self.asks_pruning,
            "stop": self.stop,
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """See `Searcher`."""
        spec = self.taken[trial_id]
        number = spec.point.number
        self.points.ended(number)
        result = result or {}
        outcome = None if error else result.get(OUTCOME)
        if outcome == FINISHED:
            summary = json.loads(result["summary"])
            value = summary["metrics"][self.experiment.evaluation.rank_by]
            self.points.study.complete(number, value, {"summary": summary})
        elif outcome == STOPPED:
            self.points.study.prune(number)
        elif outcome == SAVED:
            pass  # it stays running in the study, and goes on when the sweep is resumed
        elif outcome == BLOCKED:  # it stays running, too, and costs the sweep no trial
            resume = "then the same command with --resume"
            self.points.block(Problem(result["what"], f"{result['fix']}; {resume}"))
        elif outcome == REFUSED:
            problem = Problem(result["what"], result["fix"])
            self.points.study.fail(number, str(problem), refused=True)
        elif outcome == FAILED:
            problem = Problem(result["what"], result["fix"])
            self.points.study.fail(number, str(problem), diverged=result["diverged"])
            if not result["own"]:
                self.points.block_if_repeated(problem)
        else:
            finish_lost(spec, "FAILED")
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
