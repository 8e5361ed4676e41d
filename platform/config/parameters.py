"""The parameters of a search space: a float, an integer or a categorical choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, field_validator

from ...trainers.config import Config
from ..foundation.text import brief

Scalar = str | int | float | bool | None
Values = dict[str, Any]
"""Parameter name -> value, for the active parameters of one level."""

MAX_LISTED = 12
"""A message lists at most this many values of a parameter, and gives the range of longer grids."""
STEP_TOLERANCE = 1e-8
"""How far (high - low) / step may be from an integer: rounding of decimal fractions, no more."""


class Suggester(Protocol):
    """The part of an Optuna trial that a space samples from."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float:
        """Sample a number in [low, high]."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Sample a whole number in [low, high]."""

    def suggest_categorical(self, name: str, choices: list[Scalar]) -> Scalar:
        """Sample a choice."""


class _Parameter(Config):
    when: dict[str, list[Scalar]] = Field({})
    """Active only where each of these parameters of the same level has one of these values."""

    @field_validator("when", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: v if isinstance(v, list) else [v] for name, v in value.items()}


class FloatParameter(_Parameter):
    """A number in [low, high], both inclusive; on a grid of `step` if given."""

    type: Literal["float"]
    low: float
    high: float
    log: bool = False
    step: float | None = Field(None, gt=0)

    def suggest(self, trial: Suggester, name: str) -> float:
        """Sample a value."""
        value = trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        return self.round_to_step(value)

    def round_to_step(self, value: float) -> float:
        """Return 0.3 for 0.30000000000000004 where there is a step; other values unchanged."""
        return float(f"{value:.12g}") if self.step else float(value)

    def grid(self) -> list[Scalar] | None:
        """Return all values, or None where they cannot be counted."""
        if self.low == self.high:
            return [self.low]
        if self.step is None:
            return None
        steps = round((self.high - self.low) / self.step)
        return [self.round_to_step(self.low + i * self.step) for i in range(steps + 1)]

    def contains(self, value: Any) -> bool:
        """Return whether the value is one that `suggest` may give."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return (
            number
            and self.low <= value <= self.high
            and (self.step is None or _is_whole((value - self.low) / self.step))
        )

    def validation_error(self) -> str | None:
        """Return what is wrong with the range, or None."""
        return _range_error(self.low, self.high, self.log, self.step)


class IntParameter(_Parameter):
    """A whole number in [low, high], both inclusive, in steps of `step`."""

    type: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: int = Field(1, ge=1)

    def suggest(self, trial: Suggester, name: str) -> int:
        """Sample a value."""
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)

    def grid(self) -> list[Scalar] | None:
        """Return all values."""
        return list(range(self.low, self.high + 1, self.step))

    def contains(self, value: Any) -> bool:
        """Return whether the value is one that `suggest` may give."""
        number = isinstance(value, int) and not isinstance(value, bool)
        return number and value in range(self.low, self.high + 1, self.step)

    def validation_error(self) -> str | None:
        """Return what is wrong with the range, or None."""
        return _range_error(self.low, self.high, self.log, self.step if self.step > 1 else None)


class CategoricalParameter(_Parameter):
    """One of several values."""

    type: Literal["categorical"]
    choices: list[Scalar]

    def suggest(self, trial: Suggester, name: str) -> Scalar:
        """Sample a value."""
        return trial.suggest_categorical(name, self.choices)

    def grid(self) -> list[Scalar] | None:
        """Return all values."""
        return list(self.choices)

    def contains(self, value: Any) -> bool:
        """Return whether the value is a choice; true is not 1."""
        return any(value == choice and type(value) is type(choice) for choice in self.choices)

    def validation_error(self) -> str | None:
        """Return what is wrong with the choices, or None."""
        if not self.choices:
            return "choices is empty"
        for i, choice in enumerate(self.choices):
            if choice in self.choices[:i]:
                return f"choice {brief(choice)} is given twice"
        return None


Parameter = Annotated[
    FloatParameter | IntParameter | CategoricalParameter, Field(discriminator="type")
]


def is_active(parameter: Parameter, values: Values) -> bool:
    """Return whether the values fulfil all conditions of the parameter's `when`."""
    return all(
        name in values and any(_equal(values[name], accepted) for accepted in choices)
        for name, choices in parameter.when.items()
    )


def allowed_values(parameter: Parameter) -> str:
    """Return the values that a parameter can have, for a message."""
    grid = parameter.grid()
    if grid and (isinstance(parameter, CategoricalParameter) or len(grid) <= MAX_LISTED):
        return ", ".join(map(str, grid))
    assert not isinstance(parameter, CategoricalParameter)
    return f"{parameter.low:g} to {parameter.high:g}"


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) or isinstance(b, float):
        return isinstance(a, int | float) and isinstance(b, int | float) and math.isclose(a, b)
    return bool(a == b) and type(a) is type(b)


def _range_error(low: float, high: float, log: bool, step: float | None) -> str | None:
    if low > high:
        return f"low {low:g} is above high {high:g}"
    if log and low <= 0:
        return f"low {low:g} has no logarithm; log needs low > 0"
    if log and step is not None:
        return "log and step exclude each other"
    if step is not None and not _is_whole((high - low) / step):
        return f"high {high:g} is not low {low:g} plus whole steps of {step:g}"
    return None


def _is_whole(number: float) -> bool:
    return abs(number - round(number)) < STEP_TOLERANCE
