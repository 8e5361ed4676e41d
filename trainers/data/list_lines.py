"""The lines of a list of images: a path and a label, separated by blanks, a tab, a comma or a semicolon."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..errors import DataProblem
from .files import Files
from .folder_scan import SUFFIXES
from .report import listed, shown

PATHS = (
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image",
    "image_path",
    "img",
)
LABELS = ("label", "labels", "class", "class_name", "category", "target", "species", "class_id")
"""What headers call the two columns."""
SHOWN = 80
"""Characters of a line that a message repeats."""

_SUFFIX = "|".join(re.escape(suffix) for suffix in sorted(SUFFIXES))
_IMAGE = re.compile(rf".({_SUFFIX})$", re.IGNORECASE)
_IMAGE_AND_LABEL = re.compile(rf"(.+(?:{_SUFFIX}))\s+(\S.*)$", re.IGNORECASE)
_NUMBERS = re.compile(r"\d+(\s+\d+)+$")
_NO_COUNT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$", re.IGNORECASE)
_LONGEST_NUMBER = 18


@dataclass(frozen=True)
class Form:
    """How the lines of a list are written.

    Args:
        separator: None for blanks.
        path: position of the path among the columns.
        label: position of the label.
        columns: number of columns.
        header: whether the first line names them.
    """

    separator: str | None = None
    path: int = 0
    label: int = 1
    columns: int = 2
    header: bool = False


def form_of(lines: Sequence[str]) -> Form:
    """Return how lines are written, from the first two that are not empty.

    Raises:
        DataProblem: a header that does not say which columns are meant.
    """
    first, second = (*lines[:2], "", "")[:2]
    for separator in ("\t", ",", ";"):
        fields, below = (_fields(line, separator) for line in (first, second))
        if len(fields) < 2:
            continue
        if _names_columns(fields):
            words = [field.strip().lower() for field in fields]
            return Form(separator, _first(words, PATHS), _first(words, LABELS), len(words), True)
        if _IMAGE.search(fields[0]) or separator == "\t":
            return Form(separator, columns=len(fields))
        if any(map(_IMAGE.search, below)) and not any(map(_IMAGE.search, fields)):
            raise DataProblem(
                f"its header names {listed([shown(field)[:SHOWN] for field in fields])}",
                "call the column of paths `path`, and that of classes `label`",
            )
    return Form(header=_names_columns(first.split()))


def parse_line(line: str, form: Form, root: Path | Files) -> tuple[str, str]:
    """Return the path, relative to the root, and the label that one line names.

    Raises:
        DataProblem: another form, a label that is neither a word nor a number of a class, or a path out
            of the root.
    """
    path, label = _columns(line, form)
    if not path or not label:
        raise DataProblem(
            f"not `path label` but `{line.strip()[:SHOWN]}`",
            "write the image's path, a space and its class",
        )
    if form.separator is None and _NUMBERS.match(label):
        raise DataProblem(
            f"three columns, not `path label`: `{line.strip()[:SHOWN]}`",
            "leave the image's path and the number of its class",
        )
    if _NO_COUNT.match(label) and not (is_number(label) and len(label) <= _LONGEST_NUMBER):
        raise DataProblem(
            f"label {label[:SHOWN]} is not the number of a class", "number the classes 0, 1, 2, ..."
        )
    return _below(path, root), label


def is_number(label: str) -> bool:
    """Return whether a label is the number of a class, not its name."""
    return label.isascii() and label.isdecimal()


def _columns(line: str, form: Form) -> tuple[str, str]:
    if form.separator is None:
        if match := _IMAGE_AND_LABEL.match(line.strip()):
            return match[1], match[2].strip()
        path, label = [*line.rsplit(maxsplit=1), ""][:2]  # a path may hold spaces
        return path.strip(), label if _NO_COUNT.match(label) else ""
    fields = _fields(line, form.separator)
    if len(fields) != form.columns or (form.columns != 2 and not form.header):
        raise DataProblem(
            f"{len(fields)} columns: `{line.strip()[:SHOWN]}`",
            "put names with the separator in them into double quotes; name more than two columns in a "
            "first line with `path` and `label`",
        )
    return fields[form.path].strip(), fields[form.label].strip()


def _fields(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return [line]


def _names_columns(fields: Sequence[str]) -> bool:
    words = {field.strip().lower() for field in fields}
    return not words.isdisjoint(PATHS) and not words.isdisjoint(LABELS)


def _first(words: Sequence[str], known: Sequence[str]) -> int:
    """Return the position of the first of the known words."""
    return words.index(next(word for word in known if word in words))


def _below(path: str, root: Path | Files) -> str:
    """Return a path relative to the root; Windows writes backslashes."""
    if isinstance(root, Files):
        path = path.replace("\\", "/") if "/" not in path else path
        path = path.removeprefix(f"{root.uri}/")
        if "://" in path or ".." in PurePath(path).parts or path.startswith("/"):
            raise _leads_out(path, root.uri)
        return path.removeprefix("./")
    if "\\" in path and "/" not in path and not (root / path).exists():
        path = path.replace("\\", "/")
    if PurePath(path).is_absolute():
        for base in (root, root.absolute(), root.resolve()):
            if PurePath(path).is_relative_to(base):
                path = str(PurePath(path).relative_to(base))
                break
    if PurePath(path).is_absolute() or ".." in PurePath(path).parts:
        raise _leads_out(path, root)
    return path


def _leads_out(path: str, root: object) -> DataProblem:
    return DataProblem(
        f"{path[:SHOWN]} leads out of {root}",
        "write paths below data.root, or choose a data.root above all of them",
    )


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, with their numbers from 1."""
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        if line.strip():
            yield number, line
