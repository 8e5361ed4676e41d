"""The sweep's memory: an Optuna study that is asked for trainings and told how they went.

Everything is in the storage as soon as it is known, so a driver may die anywhere: the next one to
open the study hands out again what was running, then what was never started, then new points, until
`total` are searched. One driver at a time; on a journal file and in a bucket that is enforced.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from ...trainers.errors import UsageProblem
from ..config.parameters import Values
from ..config.space import Space
from .study_storage import DriverLock, StudyLocation, close_storage, journal_path, open_storage

Direction = Literal["minimize", "maximize"]
Row = dict[str, Any]

TPE_TRIES = 8
"""Draws that may repeat an earlier point before the sampler is set aside."""
UNIFORM_TRIES = 64
"""Further draws, uniform, where the points cannot be counted; then the space is exhausted."""

# User attributes of a trial: any tool that reads the study shows them.
BASELINE = "baseline"  # the baseline's name: beside the search
SEED_POINT = "seed_point"
RETRY = "retry_of"  # number of the failed trial whose place it takes
DUPLICATE = "duplicate_of"  # drawn again, never trained: outside the sweep
REASON = "failure"  # why it failed
DIVERGED = "diverged"  # failed on a loss or metric that is not finite, and would again
STOP = "stop"  # early stopping has decided
CONSTRAINTS = "constraints"  # a list of numbers; feasible where none is above 0

_FIXED = "fixed_params"  # where Optuna keeps the values of a trial that waits


class EarlyStop(Protocol):
    """Asynchronous successive halving (ASHA): rungs at min_images * reduction_factor ** k."""

    @property
    def min_images(self) -> int: ...
    @property
    def reduction_factor(self) -> int: ...


@dataclass(frozen=True)
class Point:
    """One training to run."""

    number: int
    """Of the trial: the same after a restart, so that it can name the trial's folder."""
    values: Values
    """Dotted key -> value: the searched parameters, or what the baseline sets."""
    resumed: bool
    """An earlier driver had begun it, so there may be a checkpoint."""
    baseline: str | None = None


class Study:
    """One sweep; made by `Study.open`. A `number` is always that of an Optuna trial."""

    def __init__(
        self,
        storage: BaseStorage,
        study: optuna.Study,
        space: Space,
        seed: int,
        total: int,
        retry_failed: bool,
        lock_path: Path | None,
    ) -> None:
        self._storage = storage
        self._study = study
        self._space = space
        self._seed = seed
        self._total = total
        self._retry_failed = retry_failed
        self._lock_path = lock_path
        self._lock: DriverLock | None = None
        self._orphans: list[FrozenTrial] | None = None  # running in no driver; None: not looked yet

    @classmethod
    def open(
        cls,
        storage: StudyLocation,
        name: str,
        space: Space,
        *,
        seed: int,
        total: int,
        direction: Direction = "minimize",
        early_stop: EarlyStop | None = None,
        retry_failed: bool = False,
    ) -> Study:
        """Open a sweep, or begin one.

        Until the first `ask` a journal file or a database can be read beside its driver; in a
        bucket, who opens the sweep drives it.

        Args:
            storage: path of a journal file, SQLAlchemy URL of a database, or the sweep's place in a
                bucket.
            name: of the sweep, unique in the storage.
            space: what is searched. Its baselines come on top of `total`.
            seed: >= 0; a draw depends on it, on the trial's number and on the trials before.
            total: how many points to search, earlier drivers' included; a larger one prolongs a
                finished sweep.
            direction: of the values told.
            early_stop: if given, `report` says which trainings to stop.
            retry_failed: train again what failed under earlier drivers, except what diverged.

        Raises:
            UsageProblem: the sweep of this name searches another space or direction, or another
                process drives it in its bucket.
            Problem: the storage cannot be opened.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        opened = open_storage(storage)
        study = optuna.create_study(
            storage=opened,
            study_name=name,
            direction=direction,
            pruner=_pruner(early_stop),
            load_if_exists=True,
        )
        try:
            _check_same_sweep(study, space, direction)
        except UsageProblem:
            close_storage(opened)
            raise
        journal = journal_path(storage)
        lock = journal and journal.with_name(f"{journal.name}.{name.replace('/', '-')}.driver")
        return cls(opened, study, space, seed, total, retry_failed, lock)

    def close(self) -> None:
        """Let go of the storage, and of the sweep if this process drives it."""
        close_storage(self._storage)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune writes down what it is given, but a study is opened, never restored."""
        return {}

    # --- handing out -------------------------------------------------------------------------

    def ask(self) -> Point | None:
        """The next training, or None when all have been handed out or no point is left.

        First what earlier drivers left running, then baselines, seed points and retries, then new
        points. A searched point comes twice only if it failed for another reason than divergence.

        Raises:
            UsageProblem: another process drives this sweep.
        """
        if self._orphans is None:
            self._orphans = self._take_over()
        while self._orphans:
            if point := self._start(self._orphans.pop(0), resumed=True):
                return point
        while waiting := self._pop_waiting():
            if point := self._start(waiting, resumed=False):
                return point
        return self._new_point()

    def _take_over(self) -> list[FrozenTrial]:
        """Become the driver: queue what was never queued, and find what died with the last one."""
        if self._lock_path is not None:
            self._lock = DriverLock(self._lock_path)
        trials = self._trials()
        queued = {trial.user_attrs.get(BASELINE) for trial in trials}
        for baseline in self._space.baselines:
            if baseline.name not in queued:
                self._enqueue({}, {BASELINE: baseline.name})
        seeds = {_key(t.system_attrs[_FIXED]) for t in trials if SEED_POINT in t.user_attrs}
        for point in self._space.seed_points:
            if _key(point) not in seeds:
                seeds.add(_key(point))
                self._enqueue(point, {SEED_POINT: True})
        retried = _retried(trials)
        for trial in trials if self._retry_failed else ():
            again = trial.state == TrialState.FAIL and trial.number not in retried
            if again and not {DUPLICATE, DIVERGED} & trial.user_attrs.keys():
                kept = {k: v for k, v in trial.user_attrs.items() if k == BASELINE}
                self._enqueue(trial.params, {RETRY: trial.number, **kept})
        return [trial for trial in trials if trial.state == TrialState.RUNNING]

    def _enqueue(self, values: Values, user_attrs: dict[str, Any]) -> None:
        # A baseline is told to Optuna as infeasible: its value is of another search space, so
        # neither the sampler nor a reader of the study may take it for the best point.
        constraints = {BASELINE: 1.0} if BASELINE in user_attrs else None
        self._study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                system_attrs={_FIXED: values},
                user_attrs=user_attrs,
                constraints=constraints,
            )
        )

    def _pop_waiting(self) -> FrozenTrial | None:
        trials = self._trials()
        full = _searched(trials) >= self._total
        for trial in trials:
            within = trial.user_attrs.keys() & {BASELINE, RETRY} or not full
            if trial.state == TrialState.WAITING and within:
                self._backend.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
                return trial
        return None

    def _start(self, frozen: FrozenTrial, *, resumed: bool) -> Point | None:
        """Give a running trial the values it still lacks; None if it turns out not to be wanted."""
        number = frozen.number
        if (name := frozen.user_attrs.get(BASELINE)) is not None:
            for baseline in self._space.baselines:
                if baseline.name == name:
                    return Point(number, baseline.values(), resumed, name)
            self.fail(number, "the space has this baseline no more")
            return None
        self._study.sampler = self._sampler(number, uniform=False)
        return self._suggest(Trial(self._study, frozen._trial_id), resumed=resumed)

    def _suggest(self, trial: Trial, *, resumed: bool) -> Point | None:
        values = self._space.suggest(trial, "train")  # what the storage has comes back as it was
        key = _key(values)
        for earlier in self._trials():
            if earlier.number < trial.number and _taken(earlier) and _key(earlier.params) == key:
                trial.set_user_attr(DUPLICATE, earlier.number)
                self._study.tell(trial, state=TrialState.FAIL)
                return None
        return Point(trial.number, values, resumed)

    def _new_point(self) -> Point | None:
        size = self._space.size("train")
        for attempt in range(TPE_TRIES + UNIFORM_TRIES):
            trials = self._trials()
            taken = {_key(trial.params) for trial in trials if _taken(trial)}
            if _searched(trials) >= self._total or (size is not None and len(taken) >= size):
                return None
            if size is not None and attempt == TPE_TRIES:
                self._enqueue(self._free_point(taken, len(trials)), {})
            self._study.sampler = self._sampler(len(trials), uniform=attempt >= TPE_TRIES)
            if point := self._suggest(self._study.ask(), resumed=False):
                return point
        return None

    def _free_point(self, taken: set[str], number: int) -> Values:
        free = [point for point in self._space.grid("train") if _key(point) not in taken]
        return free[int(np.random.default_rng([self._seed, number]).integers(len(free)))]

    def _sampler(self, number: int, *, uniform: bool) -> BaseSampler:
        """A sampler for one trial: a restarted driver must not repeat the first one's draws."""
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        if uniform:
            return RandomSampler(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # group=True, for `when`
            return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)

    # --- being told; each call may be repeated ------------------------------------------------

    def report(self, number: int, images_seen: int, value: float) -> bool:
        """Tell a value on the way; True if the training should stop (then call `prune`).

        A value that is not finite fails the trial. Baselines run to their end.
        """
        frozen = self._get(number)
        if frozen.state.is_finished() or STOP in frozen.user_attrs:
            return True
        if not math.isfinite(value):
            self.fail(number, f"the value after {images_seen} images is {value}", diverged=True)
            return True
        trial = Trial(self._study, frozen._trial_id)
        if images_seen not in frozen.intermediate_values:
            trial.report(value, images_seen)
        if BASELINE in frozen.user_attrs or not trial.should_prune():
            return False
        trial.set_user_attr(STOP, images_seen)
        return True

    def complete(
        self, number: int, value: float, user_attrs: Mapping[str, Any] | None = None
    ) -> bool:
        """Finish a trial with its value; False if that or a constraint is not finite: it failed.

        Args:
            number: of the trial.
            value: what is searched for.
            user_attrs: JSON values to keep; `constraints`, a list of numbers, tells the sampler
                and `best` that the point is infeasible where one is above 0.
        """
        frozen = self._get(number)
        if frozen.state.is_finished():
            return bool(frozen.state == TrialState.COMPLETE)
        constraints = [float(c) for c in (user_attrs or {}).get(CONSTRAINTS, ())]
        feasible_known = all(map(math.isfinite, constraints))
        for key, attr in (user_attrs or {}).items():
            if key != CONSTRAINTS or feasible_known:
                self.set_attr(number, key, attr)
        if not math.isfinite(value):
            self.fail(number, f"the value is {value}", diverged=True)
            return False
        if not feasible_known:
            self.fail(number, f"the constraints are {constraints}", diverged=True)
            return False
        trial = Trial(self._study, frozen._trial_id)
        for i, constraint in enumerate(constraints):
            if str(i) not in trial.constraints:  # a driver that died here has told it before
                trial.set_constraint(str(i), constraint)
        self._study.tell(number, float(value), state=TrialState.COMPLETE)
        return True

    def prune(self, number: int) -> None:
        """Finish a trial that was stopped early; its last reported value stays."""
        self._finish(number, TrialState.PRUNED)

    def fail(self, number: int, reason: str, *, diverged: bool = False) -> None:
        """Finish a trial that failed, one line why; `diverged` if it would fail again."""
        if not self._get(number).state.is_finished():
            self.set_attr(number, REASON, reason)
            if diverged:
                self.set_attr(number, DIVERGED, True)
            self._finish(number, TrialState.FAIL)

    def _finish(self, number: int, state: TrialState) -> None:
        if not self._get(number).state.is_finished():
            self._study.tell(number, state=state)

    # --- reading -----------------------------------------------------------------------------

    def attrs(self, number: int) -> dict[str, Any]:
        """What was kept with a trial."""
        return dict(self._get(number).user_attrs)

    def set_attr(self, number: int, key: str, value: Any) -> None:
        """Keep a JSON value with a trial that is not finished."""
        self._backend.set_trial_user_attr(self._get(number)._trial_id, key, value)

    def table(self) -> list[Row]:
        """A row for each trial that was begun, by number; a retry stands for what it retries.

        Keys: number, state (running, complete, pruned, fail), value, values, baseline, feasible,
        images_seen (of the last report), failure, seconds, attrs. What is not known is None.
        """
        trials = self._trials()
        hidden = _retried([t for t in trials if t.state != TrialState.WAITING])
        return [
            self._row(trial)
            for trial in trials
            if trial.state != TrialState.WAITING
            and DUPLICATE not in trial.user_attrs
            and trial.number not in hidden
        ]

    def finished(self) -> list[Row]:
        """The rows of `table` that run no more."""
        return [row for row in self.table() if row["state"] != "running"]

    def best(self) -> Row | None:
        """The complete and feasible searched trial with the best value; the earliest of equals."""
        rows = [
            row
            for row in self.table()
            if row["state"] == "complete" and row["feasible"] and row["baseline"] is None
        ]
        sign = 1 if self._study.direction == optuna.study.StudyDirection.MINIMIZE else -1
        return min(rows, key=lambda row: sign * float(row["value"]), default=None)

    def _row(self, trial: FrozenTrial) -> Row:
        baseline = trial.user_attrs.get(BASELINE)
        constraints = (c for name, c in trial.constraints.items() if name != BASELINE)
        return {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "value": trial.value,
            "values": self._space.read(trial.params),
            "baseline": baseline,
            "feasible": all(constraint <= 0 for constraint in constraints),
            "images_seen": trial.last_step,
            "failure": trial.user_attrs.get(REASON),
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            "attrs": dict(trial.user_attrs),
        }

    @property
    def _backend(self) -> BaseStorage:
        return self._study._storage

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _get(self, number: int) -> FrozenTrial:
        study = self._study._study_id
        return self._backend.get_trial(
            self._backend.get_trial_id_from_study_id_trial_number(study, number)
        )


def _pruner(early_stop: EarlyStop | None) -> BasePruner:
    if early_stop is None:
        return NopPruner()
    return SuccessiveHalvingPruner(early_stop.min_images, early_stop.reduction_factor)


def _check_same_sweep(study: optuna.Study, space: Space, direction: Direction) -> None:
    """Numbers of another space or direction in one study would mislead the sampler and people."""
    train = {name: p.model_dump(mode="json") for name, p in space.train.items()}
    identity = json.dumps([direction, train], sort_keys=True)
    known = study.user_attrs.get("sweep")
    if known is None:
        study.set_user_attr("sweep", identity)
    elif known != identity:
        raise UsageProblem(
            f"sweep {study.study_name} was begun with another search space or direction",
            "take up the space it was begun with, or give the new sweep another name",
        )


def _searched(trials: list[FrozenTrial]) -> int:
    """How many points of the search were begun; a retry takes the place of what failed."""
    beside = {BASELINE, DUPLICATE, RETRY}
    return sum(t.state != TrialState.WAITING and not beside & t.user_attrs.keys() for t in trials)


def _retried(trials: list[FrozenTrial]) -> set[int]:
    return {trial.user_attrs[RETRY] for trial in trials if RETRY in trial.user_attrs}


def _taken(trial: FrozenTrial) -> bool:
    """Whether the trial's point need not be trained again."""
    if {BASELINE, DUPLICATE} & trial.user_attrs.keys() or trial.state == TrialState.WAITING:
        return False
    return trial.state != TrialState.FAIL or DIVERGED in trial.user_attrs


def _key(values: Mapping[str, Any]) -> str:
    """A text that is equal for equal points, whatever the last digit of a float."""
    items = []
    for name, value in sorted(values.items()):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        items.append([name, f"{float(value):.12g}" if number else repr(value)])
    return json.dumps(items)
