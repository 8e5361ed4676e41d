"""Which class a text names: by its id or by its name, never one taken for the other."""

from __future__ import annotations

import csv
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from ..errors import UsageProblem
from .report import shown

ALL = "all"
ID, NAME = "id:", "name:"
"""Prefixes that choose a reading where a word is the id of one class and the name of another."""
LISTED = 10
"""Classes that a line lists by name; a data set may have thousands."""
NEAR = 3
"""Similar names that an error suggests."""
SIMILAR = 0.5
"""Similarity from which a name is suggested, 0 to 1."""
SHOWN = 80
"""Characters of a wrong word that an error repeats."""
LONGEST_ID = 9
"""Digits of an id; Python refuses to read thousands of them."""


@dataclass(frozen=True)
class ChosenClasses:
    """Classes that were named, each once, in the order in which they were named.

    Args:
        ids: class ids.
        repeated: those of them that were named more than once.
    """

    ids: tuple[int, ...]
    repeated: tuple[int, ...] = ()

    def describe(self, names: Sequence[str]) -> str:
        """Return the ids with their names in one line, the first ten of them."""
        shown = ", ".join(_describe(c, names) for c in self.ids[:LISTED])
        more = len(self.ids) - LISTED
        twice = ", ".join(_describe(c, names) for c in self.repeated)
        return (
            shown
            + (f" and {more} more" if more > 0 else "")
            + (f"; named more than once, taken once: {twice}" if twice else "")
        )


def choose_classes(values: Sequence[str], names: Sequence[str]) -> ChosenClasses:
    """Return the classes that the values of `--classes` name.

    Each value is `all`, a class, or classes separated by commas; a class whose name has a comma may be
    a value of its own, or stand in double quotes. A class is named by its name, its id, `name:NAME` or
    `id:ID`.

    Args:
        values: of the option, which may be repeated.
        names: of all classes, by id.

    Raises:
        UsageProblem: no such class, or a text that can be read as two; it says how to choose.
    """
    named = [c for value in values for c in _value(value, names)]
    if not named:
        raise UsageProblem(
            "--classes names no class", "give ids or names, or omit the option for all classes"
        )
    times = Counter(named)  # in the order of the first naming
    return ChosenClasses(tuple(times), tuple(c for c, count in times.items() if count > 1))


def class_argument(names: Sequence[str], class_id: int) -> str:
    """Return what chooses one class: its name if that is clear, else its id.

    It is the word as `choose_classes` gets it, not quoted for a shell.
    """
    name = names[class_id]
    if name.isprintable() and not name.startswith("-"):
        for text in (name, '"' + name.replace('"', '""') + '"'):
            try:
                if choose_classes([text], names).ids == (class_id,):
                    return text
            except UsageProblem:
                continue
    return f"{ID}{class_id}"


def _describe(class_id: int, names: Sequence[str]) -> str:
    name = shown(names[class_id])
    return name if name == str(class_id) else f"{class_id} ({name})"


def _value(value: str, names: Sequence[str]) -> list[int]:
    """Return the ids that one value of the option names."""
    value = value.strip()
    words = _split(value)
    whole = _readings(value, names)
    if value == ALL:
        if whole:
            raise UsageProblem(
                f"--classes: {ALL} is every class, and the name of class {min(whole)}",
                f"give {NAME}{ALL} for that one, or omit the option for every class",
            )
        return list(range(len(names)))
    if len(words) < 2 or not whole:
        return [_one(word, names) for word in words]
    if all(_readings(word, names) for word in words):
        raise UsageProblem(
            f"--classes: {value} is one class, and a list of {len(words)}",
            f"give {ID}{min(whole)} for the one, or --classes for each of the {len(words)}",
        )
    return [_one(value, names)]


def _split(value: str) -> list[str]:
    """Return the parts between commas, without those that are empty."""
    try:
        (row,) = csv.reader([value.replace("\n", " ")], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):
        row = [value]  # a quotation mark that is part of a name
    return [word.strip() for word in row if word.strip()]


def _one(word: str, names: Sequence[str]) -> int:
    readings = _readings(word, names)
    if not readings:
        raise UsageProblem(
            f"--classes: there is no class {word[:SHOWN]}", _what_there_is(word, names)
        )
    if len(readings) > 1:
        ids = sorted(readings)
        raise UsageProblem(
            f"--classes: {word} can be read as "
            + " or ".join(f"class {c} ({shown(names[c])})" for c in ids[:LISTED]),
            "give " + " or ".join(dict.fromkeys(readings[c] for c in ids[:LISTED])),
        )
    return min(readings)


def _readings(word: str, names: Sequence[str]) -> dict[int, str]:
    """Return the classes that a word can mean, with a form that means this one alone."""
    same = _same_name(word, names)
    if word.startswith(NAME):
        same += _same_name(word.removeprefix(NAME), names)
    alone = f"{NAME}{word}"
    readings = {c: alone if len(same) == 1 else f"{ID}{c}" for c in same}
    digits = word.removeprefix(ID)
    if digits.isascii() and digits.isdecimal() and len(digits) <= LONGEST_ID:
        number = int(digits)
        if number < len(names) and (word.startswith(ID) or digits == str(number)):
            readings.setdefault(number, f"{ID}{number}")
    return readings


def _same_name(word: str, names: Sequence[str]) -> list[int]:
    """Return the classes of a name; macOS writes accents in another form than keyboards."""
    if exact := [c for c, name in enumerate(names) if name == word]:
        return exact
    if word.isascii():
        return []
    composed = unicodedata.normalize("NFC", word)
    return [c for c, name in enumerate(names) if unicodedata.normalize("NFC", name) == composed]


def _what_there_is(word: str, names: Sequence[str]) -> str:
    def similarity(name: str) -> float:
        ours, theirs = word.casefold(), name.casefold()
        if ours in theirs:
            return 1.0
        return SequenceMatcher(None, ours, theirs).ratio()

    near = sorted((name for name in names if similarity(name) >= SIMILAR), key=similarity)[-NEAR:]
    hint = f"did you mean {' or '.join(map(shown, reversed(near)))}? " if near else ""
    listed = f": {', '.join(map(shown, names))}" if len(names) <= LISTED else ""
    return f"{hint}give ids from 0 to {len(names) - 1}, or names{listed}"
