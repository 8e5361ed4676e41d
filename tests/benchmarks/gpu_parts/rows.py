"""A row of the GPU benchmark: how a part prints one, and how the driver reads and shows it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

MARK = "ROW "
"""Begins a line of output that is a row; everything else is talk."""


@dataclass(frozen=True)
class Row:
    """One measurement.

    Args:
        numbers: unit -> value, e.g. `images/s`.
        met: whether it meets its target or is right; None where nothing is asked of it.
    """

    part: str
    what: str
    numbers: dict[str, float] = field(default_factory=dict)
    note: str = ""
    met: bool | None = None

    def result(self) -> str:
        """The numbers and the note in words."""
        words = [f"{shown(value)} {unit}" for unit, value in self.numbers.items()]
        return ", ".join([*words, *filter(None, [self.note])])

    def verdict(self) -> str:
        """`yes`, `NO` or nothing."""
        return {True: "yes", False: "NO", None: ""}[self.met]


def shown(value: float) -> str:
    """Three digits, or all of a large number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def say(row: Row) -> None:
    """Print a row at once, so that a run which is cut short has shown it."""
    print(MARK + json.dumps(asdict(row)), flush=True)


def read(line: str) -> Row | None:
    """A row from a line of output; None for talk."""
    return Row(**json.loads(line.removeprefix(MARK))) if line.startswith(MARK) else None


def table(rows: Iterable[Row]) -> str:
    """One table in Markdown."""
    lines = ["| part | what | result | as wanted |", "|---|---|---|---|"]
    for row in rows:
        cells = (row.part, row.what, row.result(), row.verdict())
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)
