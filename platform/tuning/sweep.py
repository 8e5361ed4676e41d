"""A sweep: Optuna says what to train, Ray Tune trains it, MLflow and the store keep it.

To resume is to run the same command again: a new Tune run over the same study, in which every
trial's folder is named by its Optuna number, so that a re-queued trial finds its own checkpoint.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from ...trainers.errors import UsageProblem
from ..compute.interrupts import broadcast_stop, saving_on_interrupt
from ..config.experiment import Experiment, cache_folder, with_values
from ..config.layers import flatten
from ..config.points import in_words
from ..config.space import Space
from ..foundation.durations import Clock
from ..generation.loading import load_extractor, load_splits
from ..runs.run import Plan, begin
from ..storage import layout
from ..storage.errors import MissingObject
from ..storage.store import Storage
from ..tracking.mlflow_runs import Run, Tracker
from .study import Study
from .study_storage import StudyLocation
from .trial_records import Point, Row

EVALUATION_SHARE = 0.15
"""Of a trial's work, for the time left."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found."""

    name: str
    rows: list[Row]
    """All trials, as `Study.table`."""
    best: Row | None
    """The best complete trial, baselines among them; None if none is complete."""
    store: Storage
    parent: Run


class Sweep:
    """One sweep by its name."""

    def __init__(self, name: str, experiment: Experiment, space: Space) -> None:
        """`experiment` is the base of every trial: recipe, the space's base, overrides.

        A trial evaluates in the place that it trained in: workers of its own would wait for room
        that other trials hold.
        """
        self.name, self.space = name, space
        self.experiment = with_values(experiment, {"evaluation.workers": 1}, "sweep")
        self.root = Storage(experiment.storage)
        self.store = self.root.child(layout.sweep_address(name).folder)
        self.clock = Clock()
        self.status = Status(experiment.tuning.trials + len(space.baselines), self.clock)

    def check_identity(self, resume: bool) -> bool:
        """Is it known, and the same? Writes nothing.

        Returns:
            whether there is one of this name already.

        Raises:
            UsageProblem: it exists and is not to be resumed, or what it runs differs.
        """
        try:
            saved = json.loads(self.store.read_text(layout.SWEEP_IDENTITY))
        except MissingObject:
            return False
        if not resume:
            raise UsageProblem(
                f"there is a sweep {self.name} already",
                "add --resume to go on with it, or give another --name",
            )
        now = self._identity()
        if saved["space"] != now["space"]:
            raise UsageProblem(
                f"sweep {self.name} was begun with another search space",
                "take up the space that it was begun with, or give another --name",
            )
        before, after = flatten(saved["experiment"]), flatten(now["experiment"])
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key) and not key.startswith(
                CHANGEABLE_IN_RESUMED_SWEEP
            ):
                raise UsageProblem(
                    f"sweep {self.name} was begun with {key}={before.get(key)}, "
                    f"not {after.get(key)}",
                    "keep its value, or give another --name",
                )
        return True

    def check_points(self) -> None:
        """Try every seed point and baseline on the config, before anything starts.

        Raises:
            UsageProblem: one of them gives a value that the config refuses, or the sample level one
                that an exported model cannot change.
        """
        if "sampling.weights" in self.space.sample:
            raise UsageProblem(
                "sampling.weights cannot be searched on the sample level: it is chosen at export",
                "search it on the train level, or use `whipray evaluate RUN sampling.weights=general`",
            )
        for point in self.space.seed_points:
            self.experiment_for(point, "seed point")
        for baseline in self.space.baselines:
            self.experiment_for(baseline.values(), f"baseline {baseline.name}")

    def run(self) -> SweepResult:
        """Do what is left to do; every step may be interrupted and done again.

        Raises:
            Problem: the store, the tracking server or the study cannot be used.
        """
        self.status.say("opening MLflow and the study")
        tracker = Tracker(self.experiment.tracking, self.root)
        tuning, config = self.experiment.tuning, self.experiment.evaluation
        study = Study.open(
            self._study_storage(),
            self.name,
            self.space,
            seed=tuning.seed,
            total=tuning.trials,
            direction=config.goal.optuna_direction,
            early_stop=tuning.early_stop,
        )
        try:
            self.store.write_text(layout.SWEEP_IDENTITY, json.dumps(self._identity(), indent=1))
            parent = tracker.run(
                layout.sweep_address(self.name).key,
                self.name,
                {layout.Tag.KIND: layout.KIND_SWEEP, layout.Tag.SWEEP: self.name},
            )
            begin(Plan(self.experiment, self.store, parent))
            parent.log_json(self.space.model_dump(mode="json"), layout.Artifact.SPACE)
            if self.has_pretraining:
                from .pretraining import pretrain

                self.status.say("pre-training")
                pretrain(self._pretraining(tracker, parent), self.status.say)
            points = self._points(study, tracker, parent)
            if points.peek() is not None:
                with ThreadPoolExecutor(1) as pool:  # both take seconds, Ray mostly waiting
                    features = pool.submit(self._prepare_features)
                    self._train_all(points, features)
            rows = study.table()
        finally:
            study.close()
        result = SweepResult(self.name, rows, self._best(rows), self.store, parent)
        self._conclude(result)
        return result

    # -- the pieces ---------------------------------------------------------------------------

    @property
    def has_pretraining(self) -> bool:
        """Return whether the space pre-trains; a `pretrained.model` takes the place of that."""
        return self.space.pretrain is not None and self.experiment.pretrained is None

    def experiment_for(self, values: dict[str, Any], origin: str) -> Experiment:
        """Return the experiment of one training; it fine-tunes the shared pre-training, if any."""
        finetune = {}
        if self.has_pretraining:
            assert self.space.pretrain is not None
            images = self.experiment.training.images
            finetune = self.space.pretrain.finetune_values(
                images, layout.pretrain_target(self.name)
            )
        return with_values(self.experiment, {**finetune, **values}, origin)

    def _pretraining(self, tracker: Tracker, parent: Run) -> Plan:
        assert self.space.pretrain is not None
        values = self.space.pretrain.values(self.experiment.training.images)
        address = layout.run_address(layout.pretrain_target(self.name))
        tags = {layout.Tag.KIND: layout.PRETRAIN, layout.Tag.SWEEP: self.name}
        run = tracker.run(address.key, layout.PRETRAIN, tags, parent.run_id)
        experiment = with_values(self.experiment, values, layout.PRETRAIN)
        return Plan(experiment, self.root.child(address.folder), run)

    def _points(self, study: Study, tracker: Tracker, parent: Run) -> Any:
        from .bridge import PointQueue

        def plan_for(point: Point) -> Plan:
            origin = f"baseline {point.baseline}" if point.baseline else f"trial {point.number}"
            experiment = self.experiment_for(point.values, origin)
            address = layout.trial_address(self.name, point.number)
            kind = layout.KIND_BASELINE if point.baseline else layout.KIND_TRIAL
            label = point.baseline or in_words(point.values)
            run = tracker.run(
                address.key,
                f"{point.number:03d} {label}",
                {
                    layout.Tag.KIND: kind,
                    layout.Tag.SWEEP: self.name,
                    layout.Tag.TRIAL: str(point.number),
                },
                parent.run_id,
            )
            plan = Plan(experiment, self.root.child(address.folder), run, self.space)
            begin(plan)
            return plan

        done = {row["number"] for row in study.finished()}
        self.status.finished.update(done)
        self.status.before = len(done)
        return PointQueue(study, plan_for)

    def _prepare_features(self) -> None:
        """Train the extractor once, here, rather than in every trial at the same time."""
        load_extractor(self.experiment, load_splits(self.experiment), self.root, self.status.say)

    def _train_all(self, points: Any, features: Future[None]) -> None:
        """One Tune run for each stretch of points of the same shape."""
        from ray import tune

        from ..compute.capacity import cluster_capacity, is_single_machine, no_room
        from .bridge import ShowProgress, StudySearcher, resource_request
        from .trial import run_trial

        early_stops = self.experiment.tuning.early_stop is not None
        with (
            ray_running(self.status),
            self._pruning(points.study),
            saving_on_interrupt() as self.status.asked,
            broadcast_stop(self.status.asked) as stop,
        ):
            self.status.say("training the feature network on the reference images")
            features.result()
            self.status.say("starting trainings")
            while (ahead := points.peek()) and not self.status.asked.is_set():
                workers, cpus, gpus = resource_request(ahead[1])
                # With several workers the trial itself only waits; Tune wants it to hold something.
                own: dict[str, float] = (
                    {"cpu": cpus, "gpu": gpus} if workers == 1 else {"memory": 2**20}
                )
                room = cluster_capacity(cpus, gpus) // workers
                if room < 1 and is_single_machine():
                    scaling = ahead[1].experiment.scaling
                    raise no_room(scaling, cluster_capacity(cpus, gpus), "this machine")
                concurrent = self.experiment.tuning.concurrent or max(1, room)
                if is_single_machine():  # elsewhere a host may still come
                    concurrent = min(concurrent, room)
                rank_by = self.experiment.evaluation.rank_by
                tune.Tuner(
                    tune.with_resources(run_trial, own),
                    tune_config=tune.TuneConfig(
                        search_alg=StudySearcher(points, rank_by, early_stops, stop),
                        max_concurrent_trials=concurrent,
                        num_samples=-1,
                        reuse_actors=True,  # a process imports PyTorch once, not once a trial
                    ),
                    run_config=tune.RunConfig(
                        name=f"tune-{uuid4().hex[:12]}",
                        storage_path=str(cache_folder() / "ray"),
                        failure_config=tune.FailureConfig(
                            max_failures=self.experiment.scaling.max_failures
                        ),
                        callbacks=[ShowProgress(self.status.report)],
                        verbose=0,
                    ),
                ).fit()
        if self.status.asked.is_set():
            raise KeyboardInterrupt

    def _pruning(self, study: Study) -> AbstractContextManager[None]:
        """Inside, trainings are told when to stop early, if they are to be."""
        if self.experiment.tuning.early_stop is None:
            return nullcontext()
        from .pruning import run_pruning_actor

        return run_pruning_actor(study, self.experiment.evaluation.goal)

    def _study_storage(self) -> StudyLocation:
        if url := os.environ.get("WHIPRAY_STUDY_URL"):
            return url
        return Path(self.store.path) / layout.STUDY_JOURNAL if self.store.is_folder else self.store

    def _identity(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment.model_dump(mode="json"),
            "space": self.space.model_dump(mode="json"),
        }

    def _best(self, rows: list[Row]) -> Row | None:
        complete = [row for row in rows if row["state"] == "complete"]
        goal = self.experiment.evaluation.goal
        return goal.best(complete, lambda row: float(row["value"])) if complete else None

    def _conclude(self, result: SweepResult) -> None:
        """The parent run holds what all trials came to."""
        rank_by = self.experiment.evaluation.rank_by
        table = [
            {
                "trial": row["number"],
                "state": row["state"],
                "baseline": row["baseline"],
                "values": row["values"],
                "failure": row["failure"],
                **(row["attrs"].get("summary") or {}),
            }
            for row in result.rows
        ]
        result.parent.log_json({"rank_by": rank_by, "trials": table}, layout.Artifact.SWEEP)
        if result.best is not None:
            result.parent.log_metrics({f"best/{rank_by}": result.best["value"]}, 0)
            result.parent.set_tags({layout.Tag.BEST_TRIAL: str(result.best["number"])})
        result.parent.finish("FINISHED")


CHANGEABLE_IN_RESUMED_SWEEP = (
    "engine.",
    "scaling.",
    "storage.",
    "tracking.",
    "keep_checkpoints",
    "tuning.trials",
    "tuning.concurrent",
)
"""What a resumed sweep may change: where it runs and how many trials it does."""


class Status:
    """Where a sweep stands, in one line."""

    def __init__(self, total: int, clock: Clock) -> None:
        self.total, self.clock = total, clock
        self.finished: set[int] = set()
        self.before = 0
        """Trials that an earlier driver finished; they say nothing of this one's speed."""
        self.running: dict[int, tuple[float, str]] = {}
        self.line = "starting"
        self.asked = threading.Event()
        """Set when trainings are to save and leave."""

    def say(self, line: str) -> None:
        """What is going on outside of trials."""
        self.line = line

    def report(self, number: int, result: dict[str, Any]) -> None:
        """A trial's report."""
        if "outcome" in result:
            self.running.pop(number, None)
            if result["outcome"] != "saved":
                self.finished.add(number)
        elif "phase" in result:
            self.running[number] = (1 - EVALUATION_SHARE / 2, result["phase"])
        elif "images_seen" in result:
            share = result["images_seen"] / result["total_images"]
            loss = result["metrics"].get("loss/total", float("nan"))
            self.running[number] = (share * (1 - EVALUATION_SHARE), f"{share:.0%} loss {loss:.3f}")

    def text(self) -> str:
        """`1:20 · 3/7 trainings · #3 62% loss 0.12 · #4 omega 1: 128/400 images · about 2:10 left`"""
        parts = [f"{self.clock.elapsed()} · {len(self.finished)}/{self.total} trainings"]
        running = dict(self.running)
        parts += [f"#{number} {what}" for number, (_, what) in sorted(running.items())]
        if not running:
            parts.append(self.line)
        if self.asked.is_set():
            return " · ".join([*parts, "saving at the next report; Ctrl-C again leaves at once"])
        done = len(self.finished) - self.before + sum(share for share, _ in running.values())
        left = self.clock.left(done / max(1, self.total - self.before))
        return " · ".join(filter(None, [*parts, left]))


@contextmanager
def ray_running(status: Status) -> Iterator[None]:
    """Ray: the cluster that RAY_ADDRESS names, or one on this machine while inside."""
    from ..compute.ray_session import ray_session

    status.say("starting Ray")
    with ray_session():
        yield
