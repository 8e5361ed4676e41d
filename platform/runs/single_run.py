"""A run outside of a sweep: `whipray train`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ...trainers.hooks import Progress
from ...trainers.previews import has_previews
from ..compute.interrupts import broadcast_stop, saving_on_interrupt
from ..compute.ray_address import is_this_machine
from ..config.experiment import Experiment
from ..config.paths import with_absolute_paths
from ..foundation.abort import abort
from ..foundation.durations import Clock
from ..foundation.job import in_cluster_job
from ..foundation.names import check_name
from ..storage import layout
from ..storage.store import Storage
from ..storage.writer_lock import writer_lock
from ..tracking.system_metrics import log_system_metrics
from ..tracking.tracker import open_tracker
from .beginning import Prepared, begin, prepare
from .node_checks import check_nodes
from .notes import notes
from .preflight import Subject, check_training
from .run import (
    Plan,
    RunCallbacks,
    RunResult,
    evaluate,
    run_in_ray_task,
    train,
    train_on_ray,
)
from .work import training_share

log = logging.getLogger(__name__)


class SingleRun:
    """A run by its name, under which it is continued."""

    def __init__(
        self,
        name: str,
        experiment: Experiment,
        on_note: Callable[[str], None] = log.warning,
        on_share: Callable[[float], None] = lambda _share: None,
    ) -> None:
        """Open its store; nothing is read.

        Args:
            name: of the run.
            experiment: what it trains.
            on_note: takes each line that is to be read before the training.
            on_share: takes the share of the run, in [0, 1], that is done.
        """
        self.on_note, self._on_share = on_note, on_share
        self.name, self.experiment = check_name(name, "a run"), with_absolute_paths(experiment)
        self.root = Storage(experiment.storage)
        self.store = self.root.child(layout.run_address(name).folder)
        self.run_id = ""
        self._clock, self._line = Clock(), "starting"
        self._training_share = 1.0
        self._subject = self.subject(dry_run=False)
        self._interrupted = threading.Event()

    def status(self) -> str:
        """Return where the run stands, in one line."""
        left = "" if self._interrupted.is_set() else self._clock.left()
        return " · ".join(filter(None, (self._clock.elapsed(), left, self.phase())))

    def phase(self) -> str:
        """Return what is being done, without times."""
        if self._interrupted.is_set():
            return f"{self._line} · saving at the next report; Ctrl-C again leaves at once"
        return self._line

    def execute(self) -> RunResult:
        """Train to the end, evaluate, and log the results.

        Everything that can fail early is checked first: a refused command leaves the store and MLflow
        as they were.

        Raises:
            Problem: what stopped it; the MLflow run is then marked as failed, if it had begun.
            UsageProblem: another process trains the run.
        """
        self._line = "checking config and data"
        subject = self._subject
        check_training(subject)
        for line in notes(subject):
            self.on_note(line)
        self.root.try_write()
        with writer_lock(self.store, "is training this run", on_loss=abort):
            return self._execute_alone(prepare(subject))

    def subject(self, dry_run: bool) -> Subject:
        """Return what there is to check before it."""
        workers = self.experiment.scaling.workers
        is_local = is_this_machine() or (workers == 1 and not in_cluster_job())
        return Subject(
            self.experiment, self.store, workers if is_local else 0, dry_run, self._show_phase
        )

    def _execute_alone(self, prepared: Prepared) -> RunResult:
        tracker = open_tracker(self.experiment.tracking, self.root)
        run = tracker.run(
            layout.run_address(self.name).key, self.name, {layout.Tag.KIND: layout.KIND_RUN}
        )
        self.run_id = run.run_id
        plan = Plan(self.experiment, self.store, run)
        if has_previews(self.experiment, prepared.dataset["train"]):
            self.on_note(
                f"preview {self.store.uri_of(layout.PREVIEW_PAGE)}, as the training goes on"
            )
        counts = prepared.dataset["train"]
        self._training_share = training_share(self.experiment, counts)
        callbacks = RunCallbacks(self._show_progress, self._show_phase, self._show_share)
        with run.finishing():
            begin(plan, prepared)
            with log_system_metrics(run, self.experiment.tracking.system_metrics):
                return self._execute(plan, callbacks)

    def _execute(self, plan: Plan, callbacks: RunCallbacks) -> RunResult:
        if self.experiment.scaling.workers == 1 and not in_cluster_job():
            return self._execute_locally(plan, callbacks)
        from ..compute.ray_session import ray_session

        self._line = "starting Ray"
        with ray_session():
            return self._execute_on_ray(plan, callbacks)

    def _execute_locally(self, plan: Plan, callbacks: RunCallbacks) -> RunResult:
        """Train and evaluate in this process."""
        training = self.experiment.training
        first = min(training.report_every_images, training.images)
        self._line = f"training, first report after {first:,} of {training.images:,} images"
        with saving_on_interrupt() as interrupted:
            self._interrupted = interrupted
            trained = train(
                plan, replace(callbacks, should_stop=lambda _progress: interrupted.is_set())
            )
        self._exit_if_interrupted()
        return replace(evaluate(plan, trained.checkpoint, callbacks), trained=trained)

    def _execute_on_ray(self, plan: Plan, callbacks: RunCallbacks) -> RunResult:
        """Train and evaluate where Ray has room."""
        from ..compute.progress_queue import QueueReporter, progress_queue
        from ..compute.ray_session import run_on_worker

        scaling = self.experiment.scaling
        self._line = f"starting {scaling.workers} workers"
        with progress_queue(callbacks.on_progress, callbacks.on_phase, callbacks.on_share) as queue:
            check_nodes(self._subject)
            put = QueueReporter(queue)
            remote = RunCallbacks(put, put, put)
            with (
                saving_on_interrupt() as self._interrupted,
                broadcast_stop(self._interrupted) as stop,
            ):
                trained = train_on_ray(plan, replace(remote, should_stop=stop))
            self._exit_if_interrupted()
            evaluation = partial(evaluate, plan, trained.checkpoint)
            if self.experiment.evaluation_workers == 1:
                work = partial(run_in_ray_task, plan, partial(evaluation, remote))
                result = run_on_worker(scaling, work, max_retries=scaling.max_failures)
            else:  # it has workers of its own
                result = evaluation(callbacks)
        return replace(result, trained=trained)

    def _exit_if_interrupted(self) -> None:
        if self._interrupted.is_set():
            raise KeyboardInterrupt

    def _show_progress(self, progress: Progress) -> None:
        share = progress.images_seen / progress.total_images
        loss = progress.metrics["loss/total"]
        speed = progress.metrics["images_per_second"]
        self._report(self._training_share * share)
        self._line = f"{share:.0%} of {progress.total_images:,} images · loss {loss:.4f} · " + (
            f"{speed:.0f} images/s"
        )

    def _show_share(self, evaluated: float) -> None:
        self._report(self._training_share + (1 - self._training_share) * evaluated)

    def _report(self, share: float) -> None:
        self._clock.report(share)
        self._on_share(share)

    def _show_phase(self, line: str) -> None:
        self._line = line
