"""The values of a sweep's points: Optuna's samplers, and what happens where they repeat a point."""

from __future__ import annotations

import warnings

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState

from ..config.parameters import Values
from ..config.space import Space
from .trial_records import DUPLICATE, Point, count_searched, is_taken, point_key

TPE_TRIES = 8
"""Points of TPE that may repeat an earlier one before it is set aside. TPE repeats itself when it is sure
of a point in a space with few: then it hardly ever comes to another one."""
UNIFORM_TRIES = 64
"""Further points, uniform, where they cannot be counted. So many that all repeat an earlier point leave
less than 5 % of the space untried (0.95 ** 64 < 0.04): it counts as exhausted."""


class PointSampler:
    """Gives trials their values.

    The values of a trial depend on the seed, its number and the trials before it, never on how many
    drivers the sweep has had.

    Args:
        study: whose trials.
        space: what is searched.
        seed: >= 0.
        total: how many points to search.
    """

    def __init__(self, study: optuna.Study, space: Space, seed: int, total: int) -> None:
        self._study, self._space, self._seed, self._total = study, space, seed, total

    def new_point(self) -> Point | None:
        """Return a point that no trial has had, or None if none is left or wanted."""
        size = self._space.size("train")
        for attempt in range(TPE_TRIES + UNIFORM_TRIES):
            trials = self._study.get_trials(deepcopy=False)
            taken = {point_key(trial.params) for trial in trials if is_taken(trial)}
            exhausted = size is not None and len(taken) >= size
            if exhausted or count_searched(trials) >= self._total:
                return None
            if size is not None and attempt == TPE_TRIES:
                self._study.enqueue_trial(self._free_point(taken, len(trials)))
            self.prepare(len(trials), uniform=attempt >= TPE_TRIES)
            if point := self.complete_values(self._study.ask(), resumed=False):
                return point
        return None

    def prepare(self, number: int, *, uniform: bool = False) -> None:
        """Set the study's sampler for one trial; a later driver must not repeat the first's."""
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        self._study.sampler = RandomSampler(seed) if uniform else _tpe(seed)

    def complete_values(self, trial: Trial, *, resumed: bool) -> Point | None:
        """Give a running trial the values that it lacks; None for a repeated point, which fails."""
        values = self._space.suggest(trial, "train")  # those in the storage are returned unchanged
        key = point_key(values)
        for earlier in self._study.get_trials(deepcopy=False):
            if earlier.number >= trial.number or not is_taken(earlier):
                continue
            if point_key(earlier.params) == key:
                trial.set_user_attr(DUPLICATE, earlier.number)
                self._study.tell(trial, state=TrialState.FAIL)
                return None
        return Point(trial.number, values, resumed)

    def _free_point(self, taken: set[str], number: int) -> Values:
        free = [point for point in self._space.grid("train") if point_key(point) not in taken]
        return free[int(np.random.default_rng([self._seed, number]).integers(len(free)))]


def _tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        # `group=True` is experimental in Optuna 5.0; without it parameters under a `when` would be
        # sampled one by one.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
