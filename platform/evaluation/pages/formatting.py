"""Formatting of numbers: digits, intervals, and positions on an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..bootstrap import Estimate
from ..extractors.base import Value
from ..metrics.base import MetricOutput

MINUS = "\N{MINUS SIGN}"


def digits(x: float, decimals: int, sign: bool = False) -> str:
    """Return fixed decimals with a true minus sign; -0.0000 is 0.0000."""
    text = f"{x:{'+' if sign else ''}.{decimals}f}"
    if not text.strip("+-0."):
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def ends(low: float, high: float, decimals: int, sign: bool = False) -> str:
    """Return an interval in words: `0.12 to 0.34`."""
    return f"{digits(low, decimals, sign)} to {digits(high, decimals, sign)}"


def plain(value: Value) -> str:
    """Return a setting as text: 6 significant digits, yes and no."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Axis:
    """A linear scale with ticks at round numbers."""

    low: float
    high: float
    ticks: tuple[float, ...] = ()
    decimals: int = 0
    """How many the ticks need."""

    @classmethod
    def over(cls, values: Iterable[float], about: int = 4) -> Axis:
        """Return the shortest axis between round numbers that holds all values, with `about` steps."""
        values = list(values)
        low, high = min(values), max(values)
        if high - low < 1e-12:
            high = low + (abs(low) or 1.0)
        rough = (high - low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        decimals = next(d for d in range(16) if abs(step * 10**d - round(step * 10**d)) < 1e-6)
        ticks = tuple(i * step for i in range(first, last + 1))
        return cls(ticks[0], ticks[-1], ticks, decimals)

    @classmethod
    def of(cls, output: MetricOutput, estimates: Iterable[Estimate | None]) -> Axis:
        """Return an axis from the least possible value to the greatest, or as far as intervals reach."""
        known = [e for e in estimates if e]
        least, most = output.bounds
        low = min([least, *(min(e.low, e.value) for e in known)])
        high = max([low + 1e-12, *(max(e.high, e.value) for e in known)])
        if output.better == "higher" and math.isfinite(most):
            high = most
        return cls(low, high)

    def position(self, x: float) -> float:
        """Return a value's position, per cent of the axis."""
        return round(100 * (x - self.low) / (self.high - self.low), 2)


@dataclass(frozen=True)
class Cell:
    """An estimate's text, and its position in per cent of its column's axis."""

    value: str
    interval: str
    low: float
    width: float
    at: float
    zero: float | None = None
    """Where 0 is, if inside the axis."""


def cell(e: Estimate, axis: Axis, decimals: int, sign: bool = False) -> Cell:
    """Return one estimate on an axis."""
    low = axis.position(e.low)
    return Cell(
        value=digits(e.value, decimals, sign),
        interval=ends(e.low, e.high, decimals, sign),
        low=low,
        width=round(axis.position(e.high) - low, 2),
        at=axis.position(e.value),
        zero=axis.position(0.0) if axis.low < 0 < axis.high else None,
    )


def cells(output: MetricOutput, estimates: Sequence[Estimate | None]) -> list[Cell | None]:
    """Return estimates on one axis; None stays None."""
    axis = Axis.of(output, estimates)
    return [cell(e, axis, output.decimals) if e else None for e in estimates]
