"""One training of a sweep, as Ray Tune runs it."""

from __future__ import annotations

import json
import traceback
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...trainers.errors import DivergenceProblem, Problem
from ...trainers.loop import Progress
from ..compute.interrupts import RemoteStopFlag
from ..compute.ray_session import run_on_worker
from ..foundation.logs import quiet_logs
from ..foundation.text import describe_exception
from ..runs.local_training import ReportCallback
from ..runs.run import Plan, RunCallbacks, RunResult, evaluate, run_in_ray_task, train
from ..storage import layout

OUTCOME = "outcome"
FINISHED, STOPPED, FAILED, SAVED = "finished", "stopped", "failed", "saved"
PRUNING_ACTOR = "whipray-pruning"
"""Name of the actor that decides on early stopping, where there is any."""


def run_trial(config: dict[str, Any]) -> None:
    """Train, evaluate, report.

    Reports carry `images_seen`, `total_images` and `metrics` while training, `phase` while
    evaluating; the last one has `outcome`.

    Args:
        config: `number` of the trial, its `plan`, whether `pruning` is asked for, and `stop`,
            which says whether the whole sweep is to save and leave.
    """
    from ray import tune
    from ray.exceptions import RayError

    quiet_logs()
    plan: Plan = config["plan"]
    leave: RemoteStopFlag = config["stop"]
    early = (PruningClient(config["number"]),) if config["pruning"] else ()

    def progress(p: Progress) -> None:
        tune.report(
            {"images_seen": p.images_seen, "total_images": p.total_images, "metrics": p.metrics}
        )

    callbacks = RunCallbacks(
        on_progress=progress,
        on_phase=lambda line: tune.report({"phase": line}),
        should_stop=AnyStop((leave, *early)),
    )
    several = plan.experiment.scaling.workers > 1
    try:
        with plan.run.system_metrics(plan.experiment.tracking.system_metrics):
            trained = train(plan, callbacks, _forward_to_tune() if several else ())
            if trained.images_seen < plan.experiment.training.images:
                if leave.is_set():
                    plan.run.finish("KILLED")
                    tune.report({OUTCOME: SAVED})
                    return
                plan.run.set_tags({layout.Tag.OUTCOME: STOPPED})
                plan.run.finish("FINISHED")
                tune.report({OUTCOME: STOPPED})
                return
            tune.report({"phase": "evaluating"})
            finished = (
                _evaluate_on_a_worker(plan, trained.checkpoint)
                if several
                else evaluate(plan, trained.checkpoint, callbacks)
            )
    except RayError:  # a process was lost: Tune runs the trial again
        raise
    except Problem as problem:
        _fail(plan, problem)
        return
    except Exception as error:  # noqa: BLE001  (would come again; the sweep goes on without it)
        with suppress(Problem):
            plan.run.log_json({"traceback": traceback.format_exc()}, layout.Artifact.PROBLEM)
        what = f"unexpected {describe_exception(error)}"
        _fail(plan, Problem(what, f"its traceback is {layout.Artifact.PROBLEM} in its MLflow run"))
        return
    plan.run.set_tags({layout.Tag.OUTCOME: FINISHED})
    plan.run.finish("FINISHED")
    # as text, because Tune flattens what is nested
    tune.report({OUTCOME: FINISHED, "summary": json.dumps(finished.summary())})


def _fail(plan: Plan, problem: Problem) -> None:
    """The run and the sweep get to know why."""
    from ray import tune

    with suppress(Problem):  # the first problem is the one to tell
        plan.run.set_tags({layout.Tag.OUTCOME: FAILED, layout.Tag.PROBLEM: str(problem)})
        plan.run.finish("FAILED")
    diverged = isinstance(problem, DivergenceProblem)
    tune.report({OUTCOME: FAILED, "problem": str(problem), "diverged": diverged})


@dataclass(frozen=True)
class AnyStop:
    """Whether one of several wants to stop; pickles into Ray Train workers."""

    tells: tuple[ReportCallback, ...]

    def __call__(self, progress: Progress) -> bool:
        return any(tell(progress) for tell in self.tells)


class PruningClient:
    """Asks the sweep's pruning actor whether to stop; pickles into Ray Train workers."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, progress: Progress) -> bool:
        """At checkpoints only: there the validation loss is, and nothing is lost by stopping."""
        import ray

        if "validation/denoising" not in progress.metrics:
            return False
        actor = ray.get_actor(PRUNING_ACTOR)
        value = progress.metrics["validation/denoising"]
        return bool(ray.get(actor.report.remote(self.number, progress.images_seen, value)))


def _forward_to_tune() -> tuple[Any, ...]:
    from ray.tune.integration.ray_train import TuneReportCallback

    return (TuneReportCallback(),)


def _evaluate_on_a_worker(plan: Plan, checkpoint: str) -> RunResult:
    """A trial with Ray Train workers holds no CPU or GPU itself: evaluate where there is one."""
    return run_on_worker(
        plan.experiment.scaling,
        partial(run_in_ray_task, plan, partial(evaluate, plan, checkpoint, RunCallbacks())),
        scheduling_strategy="DEFAULT",  # not in the trial's own placement group, which has no CPU
    )
