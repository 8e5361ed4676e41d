"""MLflow's runs and registered models made again, after its database was lost, from the store.

What MLflow has is never changed, so all of this may be repeated, and ended at any moment. A run that a
process is training, and a sweep that one is driving, are left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ...trainers.errors import Problem
from ...trainers.export import ModelCard
from ...trainers.sampling import SamplingConfig
from ...trainers.scratch import Scratch
from ..config.experiment import Experiment
from ..config.tracking import TrackingConfig
from ..foundation.abort import abort
from ..runs.find_run import find_run, list_runs
from ..runs.rebuild import (
    LostRun,
    begin_rebuilding,
    end_rebuilding,
    is_missing,
    rebuild_run,
)
from ..runs.speed import step_key
from ..storage import layout
from ..storage.store import Storage
from ..storage.writer_lock import writer_lock
from ..tracking import registry
from ..tracking.mlflow_runs import Run
from ..tracking.server import store_database
from ..tracking.tracker import Tracker, open_tracker
from ..tracking.versions import Version
from .champion import reason_not_promoted, register_trial, version_tags
from .rebuild_trials import rebuild_trials
from .study import Study
from .sweep import Sweep, stored_sweep
from .sweep_result import SweepResult, best_row, log_result
from .trial_records import Row

REBUILDING = "is rebuilding this run's record"


@dataclass
class Rebuilt:
    """What was made again."""

    runs: list[str] = field(default_factory=list)
    """Names of runs and sweeps, `SWEEP/TRIAL` of trials."""
    models: list[str] = field(default_factory=list)
    """Addresses of registered versions."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""


class Rebuilding:
    """Makes again what MLflow lacks of a store's runs, sweeps and registered models.

    Args:
        root: the store's top.
        tracking: MLflow's address; None: where each run's config says.
        on_phase: takes a line about what is being done.
    """

    def __init__(
        self, root: Storage, tracking: str | None, on_phase: Callable[[str], None]
    ) -> None:
        self.root, self.tracking, self.on_phase = root, tracking, on_phase
        self.done = Rebuilt()
        self._trackers: dict[TrackingConfig, Tracker] = {}
        self._has_champion: dict[tuple[str, str], bool] = {}
        """By MLflow's address and the model's name: whether it had one before."""
        self._sweeps: list[tuple[Sweep, SweepResult, bool]] = []

    def run(self) -> Rebuilt:
        """Do all of it."""
        targets = sorted(list_runs(self.root))
        for target in targets:
            if not layout.belongs_to_sweep(target):
                with self._noting(target):
                    self._rebuild_alone(target)
        for name in layout.sweeps_in(self.root.list(layout.SWEEPS)):
            with self._noting(name):
                self._rebuild_sweep(name)
        self._rebuild_models()
        return self.done

    @contextmanager
    def _noting(self, target: str) -> Iterator[None]:
        """Note a problem of one run, and go on with the others."""
        self.on_phase(target)
        try:
            yield
        except Problem as problem:
            self.done.notes.append(f"{target} is left out: {problem.what}")

    def _tracker(self, experiment: Experiment) -> Tracker:
        config = experiment.tracking
        if self.tracking:
            config = config.model_copy(update={"uri": self.tracking})
        if config not in self._trackers:
            self._trackers[config] = open_tracker(config, self.root)
        return self._trackers[config]

    def _rebuild_alone(self, target: str) -> None:
        """Make the MLflow run of a run outside of sweeps."""
        stored = find_run(self.root, target)
        tracker = self._tracker(stored.experiment)
        if not is_missing(tracker, stored.key):
            return
        with writer_lock(stored.store, REBUILDING, on_loss=abort):
            if is_missing(tracker, stored.key):  # still, now that nobody else writes it
                lost = LostRun(
                    layout.run_address(target), target, {layout.Tag.KIND: layout.KIND_RUN}
                )
                rebuild_run(tracker, self.root, lost, self.done.notes.append)
                self.done.runs.append(target)

    def _rebuild_sweep(self, name: str) -> None:
        """Make the MLflow runs of a sweep, its pre-training and its trials."""
        sweep = stored_sweep(self.root, name)
        tracker = self._tracker(sweep.experiment)
        with sweep.open_study() as study:
            study.drive()
            rows = study.table()
            parent = tracker.existing(sweep.address.key)
            if lacking := parent is None or is_missing(tracker, sweep.address.key):
                parent = self._begin_parent(tracker, sweep)
            assert parent is not None
            if sweep.points.has_pretraining:
                self._rebuild_pretraining(tracker, sweep, parent)
            self.done.runs += rebuild_trials(
                tracker,
                self.root,
                name,
                parent,
                rows,
                sweep.points.experiment_of,
                self.done.notes.append,
            )
            result = SweepResult(
                name, rows, best_row(rows, sweep.experiment.evaluation.goal), sweep.store, parent
            )
            self._sweeps.append((sweep, result, study.has_ended()))
            if lacking:
                self._end_parent(sweep, study, result)

    def _begin_parent(self, tracker: Tracker, sweep: Sweep) -> Run:
        tags = {layout.Tag.KIND: layout.KIND_SWEEP, layout.Tag.SWEEP: sweep.name}
        parent = begin_rebuilding(tracker, LostRun(sweep.address, sweep.name, tags))
        parent.log_config(sweep.experiment)
        parent.set_tags({layout.Tag.STEP: step_key(sweep.experiment)})
        parent.log_json(sweep.space.model_dump(mode="json"), layout.Artifact.SPACE)
        return parent

    def _end_parent(self, sweep: Sweep, study: Study, result: SweepResult) -> None:
        end_rebuilding(result.parent)
        if sweep.store.exists(layout.CHAMPION_GRID):
            with Scratch() as scratch:
                grid = Path(scratch) / layout.CHAMPION_GRID
                sweep.store.get_file(layout.CHAMPION_GRID, grid)
                result.parent.log_file(grid, layout.Artifact.CHAMPION)
        if study.has_ended():
            log_result(result, sweep.experiment.evaluation.rank_by)
        else:
            result.parent.finish("KILLED")
        self.done.runs.append(sweep.name)

    def _rebuild_pretraining(self, tracker: Tracker, sweep: Sweep, parent: Run) -> None:
        target = layout.pretrain_target(sweep.name)
        address = layout.run_address(target)
        if not is_missing(tracker, address.key):
            return
        tags = {layout.Tag.KIND: layout.PRETRAIN, layout.Tag.SWEEP: sweep.name}
        with self._noting(target):
            lost = LostRun(address, layout.PRETRAIN, tags, parent.run_id)
            rebuild_run(tracker, self.root, lost, self.done.notes.append)
            self.done.runs.append(target)

    def _rebuild_models(self) -> None:
        """Register again what sweeps had registered; no alias that exists is moved."""
        owners = {
            registry.model_identity(
                row["attrs"]["summary"]["provenance"]["checkpoint"],
                SamplingConfig.model_validate(row["attrs"]["summary"]["sampling"]),
            ): (sweep, row)
            for sweep, result, _ in self._sweeps
            for row in result.rows
            if row["state"] == "complete"
        }
        for folder, card in registry.exported_models(self.root):
            owner = owners.get(registry.model_identity(card.checkpoint, card.sampling))
            if owner and self._tracker(owner[0].experiment).uri == store_database(self.root):
                self._register(*owner, partial(self._register_files, folder, card))
        for sweep, result, has_ended in self._sweeps:
            if has_ended and result.best is not None:
                self._register(sweep, result.best, register_trial)

    def _register_files(
        self, folder: Path, card: ModelCard, tracker: Tracker, sweep: Sweep, row: Row
    ) -> Version:
        run = tracker.find(layout.trial_address(sweep.name, row["number"]).key)
        tags = version_tags(sweep, row)
        return registry.register_again(tracker, run, folder, card, sweep.experiment.name, tags)

    def _register(
        self, sweep: Sweep, row: Row, make: Callable[[Tracker, Sweep, Row], Version]
    ) -> None:
        """Register a trial's model where it is missing; an alias that exists is not moved."""
        with self._noting(f"the model of {layout.trial_target(sweep.name, row['number'])}"):
            tracker, name = self._tracker(sweep.experiment), sweep.experiment.name
            before = registry.versions(tracker, name)
            had_champion = any(registry.CHAMPION in version.aliases for version in before)
            is_chosen = self._has_champion.setdefault((tracker.uri, name), had_champion)
            version = make(tracker, sweep, row)
            if version.version in {known.version for known in before}:
                return
            self.done.models.append(version.uri)
            if not is_chosen and not reason_not_promoted(
                sweep.experiment.evaluation, tracker, version
            ):
                registry.set_alias(tracker, version, registry.CHAMPION)
