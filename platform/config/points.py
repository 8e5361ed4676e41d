"""Points of one level of a search space: sampled, counted, enumerated, written in words."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from typing import Any

from .parameters import Parameter, Scalar, Suggester, Values, is_active

Parameters = Mapping[str, Parameter]
"""Name -> parameter, each after those that its `when` names: see `in_order`."""


def in_order(parameters: Parameters) -> dict[str, Parameter]:
    """Return the parameters sorted, each after those that its `when` names."""
    order = TopologicalSorter({name: list(p.when) for name, p in parameters.items()})
    return {name: parameters[name] for name in order.static_order()}


def suggest(parameters: Parameters, trial: Suggester) -> Values:
    """Sample the active parameters, define-by-run."""
    values: Values = {}
    for name, parameter in parameters.items():
        if is_active(parameter, values):
            values[name] = parameter.suggest(trial, name)
    return values


class RandomSuggester:
    """A `Suggester` of uniform values, but for those that are fixed."""

    def __init__(self, rng: random.Random, fixed: Values) -> None:
        self._rng, self._fixed = rng, fixed

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float:
        """See `Suggester`."""
        if name in self._fixed:
            return float(self._fixed[name])
        if step is not None:
            return low + step * self._rng.randint(0, round((high - low) / step))
        if log:
            return math.exp(self._rng.uniform(math.log(low), math.log(high)))
        return self._rng.uniform(low, high)

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:  # noqa: ARG002
        """See `Suggester`."""
        return int(self._fixed.get(name, self._rng.randrange(low, high + 1, step)))

    def suggest_categorical(self, name: str, choices: list[Scalar]) -> Scalar:
        """See `Suggester`."""
        chosen: Scalar = self._fixed.get(name, self._rng.choice(choices))
        return chosen


def random_point(parameters: Parameters, name: str, value: Scalar, rng: random.Random) -> Values:
    """Sample a point that has this value of one parameter, and what its `when` asks for."""
    return suggest(parameters, RandomSuggester(rng, _with_conditions(parameters, name, value, rng)))


def _with_conditions(
    parameters: Parameters, name: str, value: Scalar, rng: random.Random
) -> Values:
    fixed: Values = {name: value}
    for other, accepted in parameters[name].when.items():
        fixed |= _with_conditions(parameters, other, rng.choice(accepted), rng)
    return fixed


def is_finite(parameters: Parameters) -> bool:
    """Return whether the points can be counted."""
    return all(parameter.grid() is not None for parameter in parameters.values())


def count(parameters: Parameters) -> int:
    """Return the number of points of finite parameters, without enumerating independent ones."""
    ordered = list(parameters.items())
    named = {name for _, parameter in ordered for name in parameter.when}

    def count_from(i: int, values: Values) -> int:
        if i == len(ordered):
            return 1
        name, parameter = ordered[i]
        if not is_active(parameter, values):
            return count_from(i + 1, values)
        grid = parameter.grid() or []
        if name not in named:
            return len(grid) * count_from(i + 1, values)
        return sum(count_from(i + 1, {**values, name: value}) for value in grid)

    return count_from(0, {})


def enumerate_points(parameters: Parameters) -> Iterator[Values]:
    """Yield every point of finite parameters."""
    ordered = list(parameters.items())

    def extend(i: int, values: Values) -> Iterator[Values]:
        if i == len(ordered):
            yield values
            return
        name, parameter = ordered[i]
        if not is_active(parameter, values):
            yield from extend(i + 1, values)
            return
        for value in parameter.grid() or []:
            yield from extend(i + 1, {**values, name: value})

    return extend(0, {})


def in_words(values: Mapping[str, Any]) -> str:
    """Return a point in a few words: `tau=0.53 label_set=train`, `objective=call base=oc`."""
    words = []
    for key, value in values.items():
        *_, section, name = ("", *key.split("."))
        shown = f"{value:.3g}" if isinstance(value, float) else value
        words.append(f"{section if name == 'name' else name}={shown}")
    return " ".join(words)
