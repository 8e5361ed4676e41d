"""One training of a sweep, as Ray Tune runs it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

from ...trainers.errors import (
    CheckpointProblem,
    DataProblem,
    DivergenceProblem,
    OutOfMemoryProblem,
    Problem,
    UsageProblem,
)
from ...trainers.hooks import Progress
from ...trainers.memory import naming_lack_of_memory
from ..compute.interrupts import RemoteStopFlag
from ..foundation.durations import Seldom
from ..foundation.logs import quiet_logs
from ..foundation.text import describe_exception
from ..runs.beginning import Prepared, begin, prepare
from ..runs.local_training import LESS_MEMORY, ReportCallback
from ..runs.preflight import Subject
from ..runs.run import Plan, RunCallbacks, RunResult, evaluate, train
from ..storage import layout
from ..storage.errors import MissingObject, StorageProblem
from ..tracking.errors import TrackingProblem
from ..tracking.system_metrics import log_system_metrics
from .pruning import PruningClient
from .trial_spec import TrialSpec

REPORT_EVERY_S = 2.0
"""Between two reports of an evaluation."""
OUTCOME = "outcome"
FINISHED, STOPPED, FAILED, SAVED = "finished", "stopped", "failed", "saved"
REFUSED = "refused"  # never trained: its config, its own data or its checkpoint does not allow it
BLOCKED = "blocked"  # failed for a reason that all trainings share


def run_trial(config: dict[str, Any], prepared: Prepared) -> None:
    """Begin the run, train, evaluate, report.

    To begin takes seconds (data, MLflow, a pretrained model), in which the reports of all other trials would
    wait if Tune's event loop did it.

    Reports carry `images_seen`, `total_images` and `metrics` while training, `phase` and the share
    `evaluated` while evaluating; the last one has `outcome`.

    Args:
        config: `number` of the trial, its `spec`, whether it `shares_data` with the sweep, whether
            `pruning` is asked for, and `stop`, which is set when the whole sweep is to save and end.
        prepared: the sweep's, for trials that share its data.
    """
    from ray import tune
    from ray.exceptions import RayError

    quiet_logs()
    spec: TrialSpec = config["spec"]
    plan: Plan | None = None
    try:
        plan = spec.plan()
        if refusal := _begin(plan, prepared if config["shares_data"] else None):
            _fail(plan, refusal, REFUSED)
            return
        with (
            log_system_metrics(plan.run, plan.experiment.tracking.system_metrics),
            naming_lack_of_memory(LESS_MEMORY),
        ):
            result = _train_and_evaluate(plan, config["number"], config["pruning"], config["stop"])
    except RayError:  # a process was lost: Tune runs the trial again
        raise
    except Problem as problem:
        _fail(plan, problem, BLOCKED if _is_shared(problem, config["shares_data"]) else FAILED)
        return
    except Exception as error:  # noqa: BLE001  (reported)
        # A full disk, a library that is missing: of the machine, not of this training.
        of_machine = isinstance(error, OSError | ImportError)
        _fail(plan, _unexpected(plan, error), BLOCKED if of_machine else FAILED)
        return
    if result is not None:
        plan.run.set_tags({layout.Tag.OUTCOME: FINISHED})
        plan.run.finish("FINISHED")
        # As text, because Tune 2.60 flattens nested dictionaries.
        tune.report({OUTCOME: FINISHED, "summary": json.dumps(result.summary())})


def _begin(plan: Plan, shared: Prepared | None) -> Problem | None:
    """Begin the run; return why this point is not to be trained, if so.

    Raises:
        Problem: what every other training of the sweep would meet, too.
    """
    try:
        begin(plan, prepare(Subject(plan.experiment, plan.store), shared))
    except (UsageProblem, CheckpointProblem) as problem:
        return problem
    except DataProblem as problem:
        if shared is not None:
            raise
        return problem
    return None


def _train_and_evaluate(
    plan: Plan, number: int, pruning: bool, sweep_stop: RemoteStopFlag
) -> RunResult | None:
    """Return the trial's result, or None where it ended early and that is reported already."""
    from ray import tune

    def on_progress(p: Progress) -> None:
        tune.report(
            {"images_seen": p.images_seen, "total_images": p.total_images, "metrics": p.metrics}
        )

    evaluation = _EvaluationReports(tune.report)
    stops = (sweep_stop, PruningClient(number)) if pruning else (sweep_stop,)
    callbacks = RunCallbacks(
        on_progress=on_progress,
        on_phase=evaluation.say,
        on_share=evaluation.share,
        should_stop=AnyStop(stops),
    )
    has_workers = plan.experiment.scaling.workers > 1
    trained = train(plan, callbacks, _forward_to_tune() if has_workers else ())
    if trained.images_seen < plan.experiment.training.images:
        if sweep_stop.is_set():
            plan.run.finish("KILLED")
            tune.report({OUTCOME: SAVED})
        else:
            plan.run.set_tags({layout.Tag.OUTCOME: STOPPED})
            plan.run.finish("FINISHED")
            tune.report({OUTCOME: STOPPED})
        return None
    evaluation.say("evaluating")
    return evaluate(plan, trained.checkpoint, callbacks)


class _EvaluationReports:
    """Reports the line and the share of an evaluation together, and not too often for Tune."""

    def __init__(self, report: Callable[[dict[str, Any]], None]) -> None:
        self._report, self._is_due = report, Seldom(REPORT_EVERY_S)
        self._line, self._share, self._title = "", 0.0, ""
        self._lock = Lock()  # lines of actors come on a thread

    def say(self, line: str) -> None:
        """Take a line; one that begins with another word is passed on at once."""
        title = line.partition(" ")[0]
        with self._lock:
            self._line, is_new, self._title = line, title != self._title, title
            if self._is_due() or is_new:
                self._report({"phase": line, "evaluated": self._share})

    def share(self, share: float) -> None:
        """Take the share that is done."""
        self._share = share


def _unexpected(plan: Plan | None, error: Exception) -> Problem:
    """Keep the traceback of an error of our own, and return the problem that names it.

    It goes to stderr too, which is the log of the trial's Ray worker: MLflow may be what failed.
    """
    traceback.print_exception(error)
    where = "its traceback is in the log of its Ray worker"
    if plan is None:
        return Problem(f"unexpected {describe_exception(error)}", where)
    with suppress(Problem):
        text = "".join(traceback.format_exception(error))
        plan.run.log_json({"traceback": text}, layout.Artifact.PROBLEM)
        where = f"its traceback is {layout.Artifact.PROBLEM} in its MLflow run"
    return Problem(f"unexpected {describe_exception(error)}", where)


def _is_shared(problem: Problem, shares_data: bool) -> bool:
    """Return whether the problem would make every other training of the sweep fail."""
    if isinstance(problem, DataProblem):
        return shares_data
    if isinstance(problem, MissingObject):  # a file of its own
        return False
    return isinstance(problem, StorageProblem | TrackingProblem)


def _fail(plan: Plan | None, problem: Problem, outcome: str) -> None:
    """Record why the trial failed, in its MLflow run, if there is one, and for the study."""
    from ray import tune

    if plan is not None:
        with suppress(Problem):  # the problem that came first is the one to report
            plan.run.set_tags({layout.Tag.OUTCOME: FAILED, layout.Tag.PROBLEM: str(problem)})
            plan.run.finish("FAILED")
    tune.report(
        {
            OUTCOME: outcome,
            "what": problem.what,
            "fix": problem.fix,
            "diverged": isinstance(problem, DivergenceProblem),
            "own": isinstance(problem, DivergenceProblem | OutOfMemoryProblem),
        }
    )


@dataclass(frozen=True)
class AnyStop:
    """A `ReportCallback` that stops when one of several does; pickles into Ray Train workers."""

    callbacks: tuple[ReportCallback, ...]

    def __call__(self, progress: Progress) -> bool:
        """Return whether the training should stop."""
        return any(callback(progress) for callback in self.callbacks)


def _forward_to_tune() -> tuple[Any, ...]:
    from ray.tune.integration.ray_train import TuneReportCallback

    return (TuneReportCallback(),)
