"""Sampling settings beside each other: named by what differs between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....trainers.sampling import SamplingConfig
from .content import CurvePoint

OF_SAMPLER = ("sampler", "steps")
"""What a sampler's label says."""
OMEGA = "guidance omega"


class Settings:
    """The points of one search."""

    def __init__(self, points: Sequence[CurvePoint]) -> None:
        self.points = list({_key(p): p for p in reversed(points)}.values())[::-1]
        """The first of those with equal settings."""
        self.differing = differing([p.sampling for p in points])
        """Names of the settings that differ; of a guide not its content."""
        self.x_title, self._x_of = self._axis()
        self._over_omega = self.x_title.startswith(OMEGA)

    def label(self, point: CurvePoint) -> str:
        """Return a point in words: `omega 1 (ddim 50 steps)`."""
        facts, sampler = point.sampling.facts(), point.sampling.sampler
        others = [
            _words(key, facts[key])
            for key in self.differing
            if key in facts and key not in OF_SAMPLER and not _is_of_guidance(point.sampling, key)
        ]
        return f"{point.sampling.guidance.label} ({', '.join([sampler.label, *others])})"

    def x(self, point: CurvePoint) -> float:
        """Return where a point is on the axis."""
        return self._x_of[_key(point)]

    def is_curve(self, line: Sequence[CurvePoint]) -> bool:
        """Return whether a curve can go through points: an axis of numbers, on which no two share a place."""
        return self.x_title != "setting" and len({self.x(p) for p in line}) == len(line)

    def lines(self) -> list[tuple[str, list[CurvePoint]]]:
        """Return points that differ on the axis alone, in the order of their first, each from left to right.

        Without guidance all kinds of it are one; that point is the beginning of each one's line.
        """
        lines: dict[tuple[str, str], list[CurvePoint]] = {}
        unguided = [p for p in self.points if self._over_omega and p.omega == 0]
        guided = [p for p in self.points if not self._over_omega or p.omega != 0]
        for point in guided:
            lines.setdefault(self._line(point), []).append(point)
        for point in unguided:
            kind, rest = self._line(point)
            own = [line for (_, others), line in lines.items() if others == rest]
            for line in own or [lines.setdefault((kind, rest), [])]:
                line.append(point)
        return [
            (", ".join(filter(None, name)) or self._common(line[0]), sorted(line, key=self.x))
            for name, line in lines.items()
        ]

    def columns(self) -> list[str]:
        """Return the settings that a table has a column for; one of all of them where none differs."""
        return [key.replace("_", " ") for key in self.differing] or ["setting"]

    def cells(self, point: CurvePoint) -> list[str | None]:
        """Return a point's entry in each column; None where it has no such setting."""
        if not self.differing:
            return [self.label(point)]
        facts = point.sampling.facts()
        return [_value(key, facts[key]) if key in facts else None for key in self.differing]

    def _axis(self) -> tuple[str, dict[str, float]]:
        """Return the title of the axis, and where each point is.

        It is omega, a mean over the classes, where that varies; else the first number that does; else the
        points' order.
        """
        omegas = {_key(p): p.omega for p in self.points}
        if len(set(omegas.values())) > 1:
            by_class = any(p.sampling.guidance.strength != ("omega",) for p in self.points)
            return f"{OMEGA}, mean of the classes" if by_class else OMEGA, omegas
        facts = [p.sampling.facts() for p in self.points]
        for key in self.differing:
            values = [f.get(key) for f in facts]
            if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
                at = {_key(p): float(f[key]) for p, f in zip(self.points, facts, strict=True)}
                return key.replace("_", " "), at
        return "setting", {_key(p): float(n) for n, p in enumerate(self.points, 1)}

    def _line(self, point: CurvePoint) -> tuple[str, str]:
        """Return what a point's line is called by its guidance, and by the rest."""
        facts, guidance = point.sampling.facts(), point.sampling.guidance
        on_axis = set(guidance.strength) if self._over_omega else {self.x_title.replace(" ", "_")}
        guided = [p for p in self.points if p.omega] if self._over_omega else self.points
        keys = [
            key
            for key in differing([p.sampling for p in guided])
            if key in facts and key not in on_axis
        ]
        if self.x_title == "setting":
            keys = []
        of_guidance = [k for k in keys if _is_of_guidance(point.sampling, k)]
        rest = [k for k in keys if k not in of_guidance and k not in OF_SAMPLER]
        sampler = [point.sampling.sampler.label] if set(OF_SAMPLER) & set(keys) else []
        return (
            ", ".join(_words(k, facts[k]) for k in of_guidance),
            ", ".join([*sampler, *(_words(k, facts[k]) for k in rest)]),
        )

    def _common(self, point: CurvePoint) -> str:
        kind = point.sampling.guidance.name
        label = point.sampling.sampler.label
        return label if kind == "cfg" else f"{kind}, {label}"


def _key(point: CurvePoint) -> str:
    return point.sampling.model_dump_json()


def differing(samplings: Sequence[SamplingConfig]) -> list[str]:
    """Return the names of the settings that are not the same in all that have them."""
    facts = [sampling.facts() for sampling in samplings]
    keys = dict.fromkeys(key for each in facts for key in each if key != "guide_content")
    return [key for key in keys if len({repr(each[key]) for each in facts if key in each}) > 1]


def _is_of_guidance(sampling: SamplingConfig, key: str) -> bool:
    return key == "guidance" or key in type(sampling.guidance).model_fields


def _words(key: str, value: Any) -> str:
    text = _value(key, value)
    return text if key in ("guidance", "sampler") else f"{key.replace('_', ' ')} {text}"


def _value(key: str, value: Any) -> str:
    if key == "guide":
        return str(value).removeprefix("checkpoint:")
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
