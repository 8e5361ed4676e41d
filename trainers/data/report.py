"""What a source found that is not used as it is: files left out, images cut, turned or repeated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import DataProblem

LISTED = 10
"""Problems of the data that are shown at once."""
PATH_SHOWN = 300
"""Characters of a path that an error repeats."""


@dataclass(frozen=True)
class Note:
    """One kind of thing that was found.

    Args:
        kind: a word for programs: `left out`, `nested`, `cropped`, `turned`, ...
        count: of the files or images that it concerns.
        text: one line for people.
    """

    kind: str
    count: int
    text: str


@dataclass(frozen=True)
class DataReport:
    """What was found in both splits."""

    notes: tuple[Note, ...] = ()

    def lines(self) -> list[str]:
        """Return one line for each kind."""
        return [note.text for note in self.notes]

    def count(self, kind: str) -> int:
        """Return the number of files or images of a kind."""
        return sum(note.count for note in self.notes if note.kind == kind)

    def as_json(self) -> list[dict[str, Any]]:
        """Return the notes as JSON types."""
        return [asdict(note) for note in self.notes]


def shown(name: object) -> str:
    """Return a name in one line of text that any output can encode, whatever characters it has."""
    text = str(name)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(count: int, things: str) -> str:
    """Return a number of things, which end with an s that one of them has not."""
    return f"{count} {things if count != 1 else things.removesuffix('s')}"


def listed(items: Sequence[str]) -> str:
    """Return the first items in one line, and how many more there are."""
    more = len(items) - LISTED
    return ", ".join(items[:LISTED]) + (f" and {more} more" if more > 0 else "")


def raise_together(problems: Iterable[DataProblem], more: int = 0) -> None:
    """Raise nothing, the one problem, or one that holds the first ten.

    Args:
        more: number of further problems, which were only counted.

    Raises:
        DataProblem: if there is one.
    """
    every = list(problems)
    total = len(every) + more
    if total == 1:
        raise every[0]
    if total:
        lines = [f"{total} problems of the data:"]
        lines += [f"  {problem.what}" for problem in every[:LISTED]]
        lines += [f"  and {total - LISTED} more"] if total > LISTED else []
        fixes = dict.fromkeys(problem.fix for problem in every[:LISTED])
        raise DataProblem("\n".join(lines), "; ".join(fixes))
