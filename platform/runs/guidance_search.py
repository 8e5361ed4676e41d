"""The second level of a search: guidance and sampler, on a finished checkpoint, without training.

Every point starts from the same noise, which is not that of the reported result; results in the store are
reused.
"""

from __future__ import annotations

import optuna

from ..config.space import Space
from .evaluator import Evaluated, Evaluator

STARTUP_POINTS = 4
"""Random points before TPE's own. Optuna's default, 10, would leave TPE 2 of the 12 points that
`tuning.sample_points` is by default."""


def search_guidance(evaluator: Evaluator, space: Space | None) -> list[Evaluated]:
    """Evaluate the points of the `sample:` level and return them in order.

    Without such a level, the experiment's own settings are the only point; a single point is reported as it
    is. A level with few points is tried whole, a larger one by TPE.
    """
    if space is None or not space.sample:
        return [evaluator.evaluate_at()]
    tuning, config = evaluator.experiment.tuning, evaluator.experiment.evaluation
    size, seed = space.size("sample"), evaluator.search_seed
    if size == 1:
        return [evaluator.evaluate_at(next(space.grid("sample")))]
    if size is not None and size <= tuning.sample_points:
        return [evaluator.evaluate_at(values, seed) for values in space.grid("sample")]
    sampler = optuna.samplers.TPESampler(seed=tuning.seed, n_startup_trials=STARTUP_POINTS)
    study = optuna.create_study(sampler=sampler, direction=config.goal.optuna_direction)
    tried = []
    for _ in range(tuning.sample_points):
        trial = study.ask()
        tried.append(evaluator.evaluate_at(space.suggest(trial, "sample"), seed))
        study.tell(trial, evaluator.value(tried[-1]))
    return tried
