"""The trials of a study that are still to be handed out, before any new point is sampled."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..config.space import Space
from .trial_records import BASELINE, SEED_POINT, count_searched, point_key, start_waiting

FIXED_PARAMS = "fixed_params"
"""System attribute in which Optuna 5.0 keeps the values of a trial that `enqueue_trial` made."""


class TrialQueue:
    """First what earlier drivers left running, then what waits: baselines, then seed points.

    Args:
        study: whose trials.
        space: its baselines and seed points.
        total: how many points to search.
    """

    def __init__(self, study: optuna.Study, space: Space, total: int) -> None:
        self._study, self._space, self._total = study, space, total
        self._interrupted: list[FrozenTrial] = []

    def take_over(self) -> None:
        """Queue what was never queued, and find what was running when the last driver ended."""
        trials = self._study.get_trials(deepcopy=False)
        queued = {trial.user_attrs.get(BASELINE) for trial in trials}
        for baseline in self._space.baselines:
            if baseline.name not in queued:
                self._add_baseline(baseline.name)
        seeds = {
            point_key(trial.system_attrs[FIXED_PARAMS])
            for trial in trials
            if SEED_POINT in trial.user_attrs
        }
        for point in self._space.seed_points:
            if point_key(point) not in seeds:
                seeds.add(point_key(point))
                self._study.enqueue_trial(point, {SEED_POINT: True})
        self._interrupted = [trial for trial in trials if trial.state == TrialState.RUNNING]

    def _add_baseline(self, name: str) -> None:
        # Infeasible, because its value is of another search space: neither the sampler nor a tool
        # that reads the study may take it for the best point.
        self._study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                user_attrs={BASELINE: name},
                constraints={BASELINE: 1.0},
            )
        )

    def pop(self) -> tuple[FrozenTrial, bool] | None:
        """Take the next trial, now running, and whether an earlier driver had begun it."""
        if self._interrupted:
            return self._interrupted.pop(0), True
        trials = self._study.get_trials(deepcopy=False)
        full = count_searched(trials) >= self._total
        for trial in trials:
            wanted = BASELINE in trial.user_attrs or not full
            if trial.state == TrialState.WAITING and wanted:
                start_waiting(self._study, trial)
                return trial, False
        return None
