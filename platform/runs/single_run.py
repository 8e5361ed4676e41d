"""One run outside of a sweep."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from functools import partial

from ...trainers.errors import Problem
from ...trainers.loop import Progress
from ..compute.interrupts import broadcast_stop, saving_on_interrupt
from ..config.experiment import Experiment
from ..foundation.durations import Clock
from ..foundation.job import in_cluster_job
from ..storage.store import Storage
from ..tracking.mlflow_runs import Tracker
from .run import Plan, RunCallbacks, RunResult, begin, evaluate, run_in_ray_task, train


class SingleRun:
    """`runs/<name>` in the store; found again and continued by its name."""

    def __init__(self, name: str, experiment: Experiment) -> None:
        self.name, self.experiment = name, experiment
        self.root = Storage(experiment.storage)
        self.store = self.root.child(f"runs/{name}")
        self.run_id = ""
        self._clock, self._line, self._share = Clock(), "starting", 0.0
        self._interrupted = threading.Event()

    def status(self) -> str:
        """For a status line."""
        parts = [self._clock.elapsed(), self._line, self._clock.left(self._share)]
        if self._interrupted.is_set():
            parts = [*parts[:2], "saving at the next report; Ctrl-C again leaves at once"]
        return " · ".join(filter(None, parts))

    def execute(self) -> RunResult:
        """Train what is left to train, evaluate, record.

        Raises:
            Problem: what stopped it; the MLflow run is then marked as failed.
        """
        self.root.try_write()
        tracker = Tracker(self.experiment.tracking, self.root)
        run = tracker.run(f"run/{self.name}", self.name, {"whipray.kind": "run"})
        self.run_id = run.run_id
        plan = Plan(self.experiment, self.store, run)
        callbacks = RunCallbacks(self._trained, self._phase)
        try:
            begin(plan)
            with run.system_metrics(self.experiment.tracking.system_metrics):
                finished = self._execute_locally(plan, callbacks)
        except BaseException as error:
            with suppress(Problem):  # the first problem is the one to tell
                run.set_tags({"whipray.problem": str(error)[:500]})
                run.finish("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        run.finish("FINISHED")
        return finished

    def _execute_locally(self, plan: Plan, callbacks: RunCallbacks) -> RunResult:
        """In this process, or where Ray has room: several workers, or a job on a cluster."""
        if self.experiment.scaling.workers == 1 and not in_cluster_job():
            with saving_on_interrupt() as self._interrupted:
                asked = self._interrupted
                trained = train(
                    plan, replace(callbacks, should_stop=lambda _progress: asked.is_set())
                )
            self._leave_if_asked()
            return replace(evaluate(plan, trained.checkpoint, callbacks), trained=trained)
        from ..compute.ray_session import ray_session

        self._line = "starting Ray"
        with ray_session():
            return self._execute_on_ray(plan, callbacks)

    def _execute_on_ray(self, plan: Plan, callbacks: RunCallbacks) -> RunResult:
        from ..compute.progress_queue import ForwardProgress, QueueReporter, progress_queue
        from ..compute.ray_session import run_on_worker

        scaling = self.experiment.scaling
        self._line = f"starting {scaling.workers} workers"
        with progress_queue(callbacks.on_progress, callbacks.on_phase) as reports:
            told = RunCallbacks(QueueReporter(reports), QueueReporter(reports))
            with (
                saving_on_interrupt() as self._interrupted,
                broadcast_stop(self._interrupted) as stop,
            ):
                stoppable = replace(told, should_stop=stop)
                if scaling.workers > 1:
                    trained = train(plan, stoppable, (ForwardProgress(reports),))
                else:
                    task = partial(run_in_ray_task, plan, partial(train, plan, stoppable))
                    trained = run_on_worker(scaling, task, max_retries=scaling.max_failures)
            self._leave_if_asked()
            measure = partial(evaluate, plan, trained.checkpoint)
            if self.experiment.evaluation.workers == 1:
                work = partial(run_in_ray_task, plan, partial(measure, told))
                finished = run_on_worker(scaling, work, max_retries=scaling.max_failures)
            else:  # it has workers of its own
                finished = measure(callbacks)
        return replace(finished, trained=trained)

    def _leave_if_asked(self) -> None:
        if self._interrupted.is_set():
            raise KeyboardInterrupt

    def _trained(self, progress: Progress) -> None:
        share = progress.images_seen / progress.total_images
        loss = progress.metrics["loss/total"]
        speed = progress.metrics["images_per_second"]
        self._share = 0.9 * share
        self._line = f"{share:.0%} of {progress.total_images:,} images · loss {loss:.4f} · " + (
            f"{speed:.0f} images/s"
        )

    def _phase(self, line: str) -> None:
        self._share, self._line = 0.95, line
