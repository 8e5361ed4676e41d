"""A sweep's memory: an Optuna study that hands out trainings and records how they ended.

Everything is in the storage as soon as it is known, so a driver may die at any moment: the next one
to open the study hands out again what was running, then what was never started, then new points,
until `total` are searched. One driver at a time; on a journal file and in a bucket that is enforced.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

import optuna
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from ...trainers.errors import UsageProblem
from ..config.space import Space
from ..storage.layout import DRIVER_LOCK
from ..storage.writer_lock import FileLock
from .point_sampler import PointSampler
from .study_in_bucket import DRIVING
from .study_storage import (
    StudyLocation,
    close_storage,
    journal_path,
    open_storage,
)
from .trial_queue import TrialQueue
from .trial_records import (
    BASELINE,
    DIVERGED,
    REASON,
    REFUSED,
    STOP,
    Point,
    Row,
    as_rows,
    count_searched,
    open_trial,
)

Direction = Literal["minimize", "maximize"]

FORMAT = 3
"""Raise it when the meaning of what is kept with a study or its trials changes."""


class EarlyStop(Protocol):
    """Asynchronous successive halving (ASHA): rungs at min_images * reduction_factor ** k."""

    @property
    def min_images(self) -> int:
        """Images seen at the first rung."""

    @property
    def reduction_factor(self) -> int:
        """One of so many trainings goes on after a rung."""


class Study:
    """One sweep; made by `Study.open`. A `number` is always that of an Optuna trial."""

    def __init__(
        self,
        storage: BaseStorage,
        study: optuna.Study,
        space: Space,
        seed: int,
        total: int,
        lock_path: Path | None,
        lock: FileLock | None = None,
    ) -> None:
        self._storage = storage
        self._study = study
        self._space = space
        self._sampler = PointSampler(study, space, seed, total)
        self._queue = TrialQueue(study, space, total)
        self._total = total
        self._lock_path = lock_path
        self._lock = lock
        self._drives = False

    @classmethod
    def open(
        cls,
        location: StudyLocation,
        name: str,
        space: Space,
        *,
        seed: int,
        total: int,
        direction: Direction = "minimize",
        early_stop: EarlyStop | None = None,
        starts_over: bool = False,
    ) -> Study:
        """Open a sweep's study, or begin one.

        Until the first `ask` a journal file or a database can be read while another process drives
        the sweep; in a bucket, opening the study makes this process its driver.

        Args:
            location: path of a journal file, SQLAlchemy URL of a database, or the sweep's folder in
                a bucket.
            name: of the sweep, unique in the storage.
            space: what is searched. Its baselines come on top of `total`.
            seed: >= 0; the values of a trial depend on it, on the trial's number and on the trials
                before.
            total: how many points to search, earlier drivers' included; a larger one prolongs a
                finished sweep.
            direction: of the values passed to `complete`.
            early_stop: if given, `report` says which trainings to stop.
            starts_over: forget the study of this name, if there is one.

        Raises:
            UsageProblem: the sweep of this name searches another space or direction, or another
                process drives it: in its bucket, or where it is to start over.
            Problem: the storage cannot be opened.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = open_storage(location)
        journal = journal_path(location)
        lock_path = journal and journal.with_name(
            f"{journal.name}.{name.replace('/', '-')}{DRIVER_LOCK}"
        )
        lock = None
        if starts_over:
            lock = FileLock(lock_path, DRIVING) if lock_path else None
            with suppress(KeyError):  # there is none
                optuna.delete_study(study_name=name, storage=storage)
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction=direction,
            pruner=_pruner(early_stop),
            load_if_exists=True,
        )
        try:
            _check_same_sweep(study, space, direction)
        except UsageProblem:
            close_storage(storage)
            raise
        return cls(storage, study, space, seed, total, lock_path, lock)

    def drive(self) -> None:
        """Let no other process drive the sweep until `close`.

        Raises:
            UsageProblem: another process does.
        """
        if self._lock_path is not None and self._lock is None:
            self._lock = FileLock(self._lock_path, DRIVING)

    def close(self) -> None:
        """Release the storage, and the sweep if this process drives it."""
        close_storage(self._storage)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray Tune pickles what it is given, but a study is opened, never restored."""
        return {}

    # --- what to train -----------------------------------------------------------------------

    def ask(self) -> Point | None:
        """Return the next training, or None when all have been handed out or no point is left.

        First what earlier drivers left running, then baselines and seed points, then new points. A
        searched point comes twice only if it failed for another reason than divergence.

        Raises:
            UsageProblem: another process drives this sweep.
        """
        if not self._drives:
            self.drive()
            self._queue.take_over()
            self._drives = True
        while queued := self._queue.pop():
            trial, resumed = queued
            if point := self._point_of(trial, resumed=resumed):
                return point
        return self._sampler.new_point()

    def _point_of(self, frozen: FrozenTrial, *, resumed: bool) -> Point | None:
        """Return the point of a running trial, or None, the trial failed, if it is not wanted."""
        number = frozen.number
        if (name := frozen.user_attrs.get(BASELINE)) is not None:
            for baseline in self._space.baselines:
                if baseline.name == name:
                    return Point(number, baseline.values(), resumed, name)
            self.fail(number, "the search space no longer has this baseline")
            return None
        self._sampler.prepare(number)
        return self._sampler.complete_values(open_trial(self._study, frozen), resumed=resumed)

    # --- how it went; each call may be repeated ----------------------------------------------

    def report(self, number: int, images_seen: int, value: float) -> bool:
        """Record an intermediate value; True if the training should stop (then call `prune`).

        A value that is not finite fails the trial. Baselines are never stopped.
        """
        frozen = self._get(number)
        if frozen.state.is_finished() or STOP in frozen.user_attrs:
            return True
        if not math.isfinite(value):
            self.fail(number, f"the value after {images_seen} images is {value}", diverged=True)
            return True
        trial = open_trial(self._study, frozen)
        if images_seen not in frozen.intermediate_values:
            trial.report(value, images_seen)
        if BASELINE in frozen.user_attrs or not trial.should_prune():
            return False
        trial.set_user_attr(STOP, images_seen)
        return True

    def complete(
        self, number: int, value: float, user_attrs: Mapping[str, Any] | None = None
    ) -> bool:
        """Finish a trial with its value; False if that is not finite: then the trial has failed.

        Args:
            number: of the trial.
            value: what is searched for.
            user_attrs: JSON values to keep.
        """
        frozen = self._get(number)
        if frozen.state.is_finished():
            return bool(frozen.state == TrialState.COMPLETE)
        trial = open_trial(self._study, frozen)
        for key, attr in (user_attrs or {}).items():
            trial.set_user_attr(key, attr)
        if not math.isfinite(value):
            self.fail(number, f"the value is {value}", diverged=True)
            return False
        self._study.tell(number, float(value), state=TrialState.COMPLETE)
        return True

    def prune(self, number: int) -> None:
        """Finish a trial that was stopped early; its last reported value stays."""
        self._finish(number, TrialState.PRUNED)

    def fail(
        self, number: int, reason: str, *, diverged: bool = False, refused: bool = False
    ) -> None:
        """Finish a trial that failed.

        Args:
            number: of the trial.
            reason: one line.
            diverged: it would fail again, so its point is not tried again.
            refused: as `diverged`, because the config does not allow its values.
        """
        frozen = self._get(number)
        if frozen.state.is_finished():
            return
        trial = open_trial(self._study, frozen)
        trial.set_user_attr(REASON, reason)
        if diverged:
            trial.set_user_attr(DIVERGED, True)
        if refused:
            trial.set_user_attr(REFUSED, True)
        self._finish(number, TrialState.FAIL)

    def _finish(self, number: int, state: TrialState) -> None:
        if not self._get(number).state.is_finished():
            self._study.tell(number, state=state)

    # --- reading -----------------------------------------------------------------------------

    def table(self) -> list[Row]:
        """Return a row for each trial that was begun, as `as_rows`."""
        return as_rows(self._study.get_trials(deepcopy=False), self._space)

    def finished(self) -> list[Row]:
        """Return the rows of trials that have ended."""
        return [row for row in self.table() if row["state"] != "running"]

    def has_ended(self) -> bool:
        """Return whether nothing is left to train."""
        trials = self._study.get_trials(deepcopy=False)
        left = (
            t.state == TrialState.RUNNING
            or (t.state == TrialState.WAITING and BASELINE in t.user_attrs)
            for t in trials
        )
        size = self._space.size("train")
        wanted = self._total if size is None else min(self._total, size)
        return not any(left) and count_searched(trials) >= wanted

    def _get(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]  # in the order of their numbers


def _pruner(early_stop: EarlyStop | None) -> BasePruner:
    if early_stop is None:
        return NopPruner()
    return SuccessiveHalvingPruner(early_stop.min_images, early_stop.reduction_factor)


def _check_same_sweep(study: optuna.Study, space: Space, direction: Direction) -> None:
    """Raise if the study is of another format, space or direction: its numbers would mislead."""
    train = {name: p.model_dump(mode="json") for name, p in space.train.items()}
    identity = json.dumps([FORMAT, direction, train], sort_keys=True)
    known = study.user_attrs.get("sweep")
    if known is None:
        study.set_user_attr("sweep", identity)
    elif known != identity:
        raise UsageProblem(
            f"sweep {study.study_name} was begun with another search space or direction, or by "
            "another version of Whipray",
            "restore the search space it was begun with, or give the new sweep another name",
        )
