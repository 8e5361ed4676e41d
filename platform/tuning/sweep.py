"""A sweep: Optuna chooses what to train, Ray Tune trains it, MLflow and the store keep the results.

To resume is to run the same command again: a new Tune run over the same study, in which every
trial's folder is named by its Optuna number, so that a re-queued trial finds its own checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from ...trainers.data.identity import DataIdentity
from ...trainers.errors import Problem, UsageProblem, combine
from ...trainers.integrity import seal
from ..compute.ray_address import is_this_machine
from ..config.experiment import Experiment, load_experiment, read_experiment, with_values
from ..config.layers import Layer, Resolved
from ..config.paths import with_absolute_paths
from ..config.space import Space
from ..config.space_files import load_space
from ..foundation.background import in_background
from ..foundation.durations import Clock
from ..foundation.names import check_name
from ..generation.loading import load_extractor
from ..runs.beginning import Prepared, begin, prepare
from ..runs.node_checks import check_nodes
from ..runs.notes import notes
from ..runs.preflight import Subject
from ..runs.resolve_guide import check_guides_exist
from ..runs.run import Plan
from ..runs.run_note import note_of_sweep
from ..runs.work import training_share
from ..storage import layout
from ..storage.errors import MissingObject
from ..storage.store import Storage
from ..tracking.mlflow_runs import Run
from ..tracking.tracker import Tracker, open_tracker
from .pretraining import pretrain
from .rebuild_trials import rebuild_trials
from .status import SweepStatus
from .study import Study
from .study_storage import StudyLocation
from .sweep_identity import check_same_images, check_same_sweep, identity_of, read_identity
from .sweep_points import SweepPoints
from .sweep_result import SweepResult, best_row, log_result
from .trial_records import Point, Row
from .trial_spec import TrialSpec

log = logging.getLogger(__name__)

GUIDE = "sampling.guidance.guide"


def plan_sweep(
    space_name: str, recipe: str, overrides: list[str], name: str | None
) -> tuple[Resolved[Experiment], Sweep]:
    """Return the experiment, with the space's base laid over the recipe, and its sweep.

    Args:
        space_name: a packaged search space, or a YAML file.
        recipe: a packaged recipe, or a YAML file.
        overrides: `key=value`, on top of both.
        name: of the sweep; None: from space and experiment.

    Raises:
        UsageProblem: a wrong config, or a space whose points the config does not allow.
    """
    space = load_space(space_name)
    layers = [Layer(f"space {space_name}", space.base)]
    resolved = load_experiment(recipe, overrides, layers)
    stem = space_name.rpartition("/")[2].removesuffix(".yaml")
    sweep = Sweep(f"{stem}-{resolved.value.name}" if name is None else name, resolved.value, space)
    sweep.points.check()
    return resolved, sweep


def stored_sweep(root: Storage, name: str) -> Sweep:
    """Return a sweep as the store has it.

    Raises:
        UsageProblem: there is none of this name.
        Problem: what it runs is damaged, or another version of Whipray began it.
    """
    store = root.child(layout.sweep_address(name).folder)
    where = store.uri_of(layout.SWEEP_IDENTITY)
    try:
        identity = read_identity(store.read_text(layout.SWEEP_IDENTITY), where)
    except MissingObject:
        raise UsageProblem(
            f"{where}: missing, so there is no sweep {name}", "check its name"
        ) from None
    experiment = read_experiment(identity["experiment"], where)
    return Sweep(name, experiment, Space.model_validate(identity["space"]), root)


class Sweep:
    """One sweep by its name.

    Args:
        name: unique in the store.
        experiment: the base of every trial: recipe, the space's base, overrides.
        space: what is searched.
        root: the store's top; None: the experiment's, which may have been written elsewhere.
    """

    def __init__(
        self, name: str, experiment: Experiment, space: Space, root: Storage | None = None
    ) -> None:
        self.name, self.space = check_name(name, "a sweep"), space
        # A trial evaluates on as many workers as it was trained by: more of them would wait for room that
        # other trials hold.
        own = with_values(experiment, {"evaluation.workers": None}, "sweep")
        self.experiment = with_absolute_paths(own)
        self.points = SweepPoints(name, self.experiment, space)
        self.root = root or Storage(experiment.storage)
        self.address = layout.sweep_address(name)
        self.store = self.root.child(self.address.folder)
        self.clock = Clock()
        self.on_note: Callable[[str], None] = log.warning
        """Takes each line that is to be read before the first training."""
        self.status = SweepStatus(experiment.tuning.trials + len(space.baselines), self.clock)
        self._starts_over = False

    def check_identity(self, resume: bool) -> bool:
        """Return whether there is a sweep of this name already. Writes nothing.

        One in which nothing was trained may be resumed with any other config and space: it starts
        over.

        Raises:
            UsageProblem: it exists and is not to be resumed, or what it runs differs.
        """
        try:
            stored = self.store.read_text(layout.SWEEP_IDENTITY)
        except MissingObject:
            return False
        if not resume:
            raise UsageProblem(
                f"there is a sweep {self.name} already",
                "add --resume to go on with it, or give another --name",
            )
        try:
            before = read_identity(stored, self.store.uri_of(layout.SWEEP_IDENTITY))
            check_same_sweep(self.name, before, identity_of(self.experiment, self.space))
        except Problem as difference:
            self._start_over(difference)
        return not self._starts_over

    def _check_images(self, images: DataIdentity) -> None:
        """Compare the training images with those that the sweep was begun with, as `check_identity`."""
        with suppress(MissingObject):
            text = self.store.read_text(layout.SWEEP_IDENTITY)
            try:
                stored = read_identity(text, self.store.uri_of(layout.SWEEP_IDENTITY))
                check_same_images(self.name, stored, images)
            except Problem as difference:
                self._start_over(difference)

    def _start_over(self, difference: Problem) -> None:
        """Plan to forget what the sweep was begun as; raise the difference if it has trained."""
        if layout.has_checkpoint(self.store.list()):
            raise difference
        self._starts_over = True

    def subject(self, dry_run: bool) -> Subject:
        """Return what there is to check before it."""
        workers = self.experiment.scaling.workers if is_this_machine() else 0
        return Subject(self.experiment, self.store, workers, dry_run, self.status.say)

    def run(self) -> SweepResult:
        """Do what is left to do; every step may be interrupted and done again.

        Everything that can fail early is checked first: a refused command leaves the store and MLflow
        as they were.

        Raises:
            Problem: the store, the tracking server or the study cannot be used.
        """
        self.status.say("checking config and data")
        subject = self.subject(dry_run=False)
        if problems := self.points.find_problems(subject):
            raise combine(problems)
        for line in notes(subject):
            self.on_note(line)
        images = DataIdentity.of(subject.load(self.experiment.data).train)
        self.status.training_share = training_share(
            self.experiment, images.class_counts, self.space
        )
        if not self._starts_over:
            self._check_images(images)
        guides = [v for name, v in self.space.choices("sample") if name == GUIDE]
        check_guides_exist(
            self.experiment, self.store, guides, images.class_names, images.image_shape
        )
        prepared = prepare(subject)
        self.status.say("opening MLflow and the study")
        tracker = open_tracker(self.experiment.tracking, self.root)
        goal = self.experiment.evaluation.goal
        with self.open_study() as study:
            parent = self._open_parent(tracker, images)
            with parent.marking_failure():
                self._begin(parent, prepared)
                if self.points.has_pretraining:
                    self.status.say("pre-training")
                    pretrain(self._pretraining_plan(tracker, parent), self.status.say)
                features = partial(self._prepare_features, subject)
                self._train(
                    study,
                    partial(self._trial_spec, tracker, parent),
                    prepared,
                    features,
                    partial(check_nodes, subject),
                )
                rows = study.table()
                self._rebuild_trials(tracker, parent, rows)
                result = SweepResult(self.name, rows, best_row(rows, goal), self.store, parent)
                rank_by = self.experiment.evaluation.rank_by
                parent.set_note(self._note(parent, prepared, result.outcome(rank_by), result.best))
                log_result(result, rank_by)
                return result

    @contextmanager
    def open_study(self) -> Iterator[Study]:
        """Open the study, and close it after the block.

        Raises:
            Problem: as `Study.open`.
        """
        tuning, goal = self.experiment.tuning, self.experiment.evaluation.goal
        study = Study.open(
            self._study_location(),
            self.name,
            self.space,
            seed=tuning.seed,
            total=tuning.trials,
            direction=goal.optuna_direction,
            early_stop=tuning.early_stop,
            starts_over=self._starts_over,
        )
        try:
            yield study
        finally:
            study.close()

    # -- the steps --------------------------------------------------------------------------------

    def _open_parent(self, tracker: Tracker, images: DataIdentity) -> Run:
        """Store the sweep's identity, and return its MLflow run, the parent of the trials' runs."""
        identity = seal(identity_of(self.experiment, self.space, images))
        self.store.write_text(layout.SWEEP_IDENTITY, json.dumps(identity, indent=1))
        return tracker.run(
            self.address.key,
            self.name,
            {layout.Tag.KIND: layout.KIND_SWEEP, layout.Tag.SWEEP: self.name},
        )

    def _begin(self, parent: Run, prepared: Prepared) -> None:
        """Log what the sweep is about to do."""
        begin(Plan(self.experiment, self.store, parent), prepared)
        parent.log_json(self.space.model_dump(mode="json"), layout.Artifact.SPACE)
        parent.set_note(self._note(parent, prepared))

    def _note(
        self,
        parent: Run,
        prepared: Prepared,
        outcome: str = "Not finished yet.",
        best: Row | None = None,
    ) -> str:
        metrics = best["attrs"]["summary"]["metrics"] if best else {}
        dataset, searched = prepared.dataset, list(self.space.train)
        return note_of_sweep(
            parent, self.store, self.experiment, dataset, searched, outcome, metrics
        )

    def _pretraining_plan(self, tracker: Tracker, parent: Run) -> Plan:
        assert self.space.pretrain is not None
        values = self.space.pretrain.values(self.experiment.training.images)
        address = layout.run_address(layout.pretrain_target(self.name))
        tags = {layout.Tag.KIND: layout.PRETRAIN, layout.Tag.SWEEP: self.name}
        run = tracker.run(address.key, layout.PRETRAIN, tags, parent.run_id)
        experiment = with_values(self.experiment, values, layout.PRETRAIN)
        return Plan(experiment, self.root.child(address.folder), run)

    def _trial_spec(self, tracker: Tracker, parent: Run, point: Point) -> TrialSpec:
        """Return a point as a training.

        Raises:
            UsageProblem: as `SweepPoints.experiment_of`.
        """
        experiment = self.points.experiment_of(point)
        return TrialSpec(
            self.name, point, experiment, self.root, self.space, tracker, parent.run_id
        )

    def _rebuild_trials(self, tracker: Tracker, parent: Run, rows: list[Row]) -> None:
        """Make again what MLflow lacks of the trials that earlier drivers finished."""
        if rebuilt := rebuild_trials(
            tracker, self.root, self.name, parent, rows, self.points.experiment_of, log.warning
        ):
            log.warning("MLflow had no run of %s: made again from the store", ", ".join(rebuilt))

    def _train(
        self,
        study: Study,
        spec_for: Callable[[Point], TrialSpec],
        prepared: Prepared,
        prepare_features: Callable[[], None],
        check: Callable[[], None],
    ) -> None:
        """Train and evaluate all points that are left."""
        from .bridge import PointQueue
        from .tune_runs import train_all

        self.status.resume({row["number"] for row in study.finished()})
        points = PointQueue(study, spec_for, self.status)
        if points.peek() is None:
            return
        with points.marking_unfinished():
            # Both take seconds, in which Ray mostly waits.
            features = in_background(prepare_features)
            train_all(points, self.experiment, prepared, self.status, features, check)

    def _prepare_features(self, subject: Subject) -> None:
        """Train the feature network once, rather than in every trial at the same time."""
        splits = subject.reference
        assert splits is not None  # `find_problems` has read them
        load_extractor(self.experiment, splits, self.root, self.status.say)

    def _study_location(self) -> StudyLocation:
        if url := os.environ.get(layout.STUDY_VARIABLE):
            return url
        return Path(self.store.path) / layout.STUDY_JOURNAL if self.store.is_folder else self.store
