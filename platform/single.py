"""One run outside of a sweep."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from ..trainers.errors import Problem
from ..trainers.loop import Progress
from .experiment import Experiment
from .progress import Clock
from .runs import Finished, Plan, Watch, begin, evaluate, train
from .storage import Storage
from .tracking import Tracker


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
                trained = self._train(plan, watch)
                finished = evaluate(plan, trained.checkpoint, watch)
        except BaseException as error:
            with suppress(Problem):  # the first problem is the one to tell
                run.tags({"whipray.problem": str(error)[:500]})
                run.finish("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        run.finish("FINISHED")
        return Finished(trained, finished.best, finished.tried, finished.generated)

    def _train(self, plan: Plan, watch: Watch) -> Any:
        if self.experiment.scaling.workers == 1:
            with saving_on_interrupt() as asked:
                stop = replace(watch, stop=lambda _progress: asked.is_set())
                self._interrupted = asked
                trained = train(plan, stop)
            if asked.is_set():
                raise KeyboardInterrupt
            return trained
        from .local_ray import connected

        self._line = "starting Ray"
        with connected():
            from .ray_callbacks import ForwardProgress, heard

            self._line = f"starting {self.experiment.scaling.workers} workers"
            with heard(self._trained) as reports:
                return train(plan, watch, (ForwardProgress(reports),))

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


@contextmanager
def saving_on_interrupt() -> Iterator[threading.Event]:
    """Inside, the first Ctrl-C (or SIGTERM) only sets the event; the second one interrupts."""
    asked = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def ask(_number: int, _frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is threading.main_thread():
        for number in signals:
            if before[number] is not signal.SIG_IGN:  # as in a shell's background job
                signal.signal(number, ask)
    try:
        yield asked
    finally:
        if threading.current_thread() is threading.main_thread():
            for number in signals:
                signal.signal(number, before[number])
