"""The second level of a search: guidance, sampler and what fills classes up, on a finished checkpoint.

No diffusion model is trained for it.

Every point starts from the same noise, which is not that of the reported result; results in the store are
reused.
"""

from __future__ import annotations

import logging

import optuna
from optuna.trial import TrialState

from ...trainers.errors import UsageProblem
from ..config.parameters import Values
from ..config.points import in_words
from ..config.space import Space
from .evaluator import Evaluated, Evaluator

log = logging.getLogger(__name__)

STARTUP_POINTS = 4
"""Random points before TPE's own. Optuna's default, 10, would leave TPE 2 of the 12 points that
`tuning.sample_points` is by default."""


def search_guidance(evaluator: Evaluator, space: Space | None) -> list[Evaluated]:
    """Evaluate the points of the `sample:` level and return them in order.

    Without such a level, the experiment's own settings are the only point; a single point is reported as it
    is. A level with few points is tried whole, a larger one by TPE. Points that are refused, as where
    N_t is below every class's count, are left out with a line.

    Raises:
        UsageProblem: all points are refused.
    """
    if space is None or not space.sample:
        return [evaluator.evaluate_at()]
    tuning, config = evaluator.experiment.tuning, evaluator.experiment.evaluation
    size, seed = space.size("sample"), evaluator.search_seed
    if size == 1:
        return [evaluator.evaluate_at(next(space.grid("sample")))]
    search = _Search(evaluator, seed)
    if size is not None and size <= tuning.sample_points:
        for values in space.grid("sample"):
            search.evaluate(values)
        return search.result()
    sampler = optuna.samplers.TPESampler(seed=tuning.seed, n_startup_trials=STARTUP_POINTS)
    study = optuna.create_study(sampler=sampler, direction=config.goal.optuna_direction)
    for _ in range(tuning.sample_points):
        trial = study.ask()
        point = search.evaluate(space.suggest(trial, "sample"))
        if point is None:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, evaluator.value(point))
    return search.result()


class _Search:
    """Evaluates points by one noise, and remembers those that were refused."""

    def __init__(self, evaluator: Evaluator, seed: int) -> None:
        self._evaluator, self._seed = evaluator, seed
        self._tried: list[Evaluated] = []
        self._refusals: list[UsageProblem] = []

    def evaluate(self, values: Values) -> Evaluated | None:
        """Return the result at a point; None where it is refused."""
        try:
            self._tried.append(self._evaluator.evaluate_at(values, self._seed))
        except UsageProblem as problem:
            self._refusals.append(problem)
            log.warning("%s is left out: %s", in_words(values), problem.what)
            return None
        return self._tried[-1]

    def result(self) -> list[Evaluated]:
        """Return the points that were not refused, in order."""
        if not self._tried:
            raise self._refusals[0]
        return self._tried
