"""One run outside of a sweep."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import replace
from functools import partial

from ...trainers.errors import Problem
from ...trainers.loop import Progress
from ..compute.interrupts import passed_on, saving_on_interrupt
from ..config.experiment import Experiment
from ..foundation.durations import Clock
from ..foundation.job import JOB_ENVIRONMENT
from ..storage.store import Storage
from ..tracking.mlflow_runs import Tracker
from .run import Finished, Plan, Watch, begin, evaluate, there, train


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

    def go(self) -> Finished:
        """Train what is left to train, evaluate, record.

        Raises:
            Problem: what stopped it; the MLflow run is then marked as failed.
        """
        self.root.try_write()
        tracker = Tracker(self.experiment.tracking, self.root)
        run = tracker.run(f"run/{self.name}", self.name, {"whipray.kind": "run"})
        self.run_id = run.run_id
        plan = Plan(self.experiment, self.store, run)
        watch = Watch(progress=self._trained, phase=self._phase)
        try:
            begin(plan)
            with run.system_metrics(self.experiment.tracking.system_metrics):
                finished = self._do(plan, watch)
        except BaseException as error:
            with suppress(Problem):  # the first problem is the one to tell
                run.set_tags({"whipray.problem": str(error)[:500]})
                run.finish("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        run.finish("FINISHED")
        return finished

    def _do(self, plan: Plan, watch: Watch) -> Finished:
        """In this process, or where Ray has room: several workers, or a job on a cluster."""
        if self.experiment.scaling.workers == 1 and JOB_ENVIRONMENT not in os.environ:
            with saving_on_interrupt() as self._interrupted:
                asked = self._interrupted
                trained = train(plan, replace(watch, stop=lambda _progress: asked.is_set()))
            self._leave_if_asked()
            return replace(evaluate(plan, trained.checkpoint, watch), trained=trained)
        from ..compute.ray_session import connected

        self._line = "starting Ray"
        with connected():
            return self._do_on_ray(plan, watch)

    def _do_on_ray(self, plan: Plan, watch: Watch) -> Finished:
        from ..compute.progress_queue import ForwardProgress, Put, heard
        from ..compute.ray_session import on_a_worker

        scaling = self.experiment.scaling
        self._line = f"starting {scaling.workers} workers"
        with heard(watch.progress, watch.phase) as reports:
            told = Watch(Put(reports), Put(reports))
            with (
                saving_on_interrupt() as self._interrupted,
                passed_on(self._interrupted) as stop,
            ):
                stoppable = replace(told, stop=stop)
                if scaling.workers > 1:
                    trained = train(plan, stoppable, (ForwardProgress(reports),))
                else:
                    task = partial(there, plan, partial(train, plan, stoppable))
                    trained = on_a_worker(scaling, task, max_retries=scaling.max_failures)
            self._leave_if_asked()
            measure = partial(evaluate, plan, trained.checkpoint)
            if self.experiment.evaluation.workers == 1:
                work = partial(there, plan, partial(measure, told))
                finished = on_a_worker(scaling, work, max_retries=scaling.max_failures)
            else:  # it has workers of its own
                finished = measure(watch)
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
