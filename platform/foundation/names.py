"""Names that a person gives to runs, sweeps, models and aliases; folders named after classes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from ...trainers.errors import UsageProblem

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Pattern of such a name. It is a folder of the store, a part of `SWEEP/TRIAL` and `models:/NAME@ALIAS`,
an argument beside KEY=VALUE overrides, and stands in quotes in MLflow's filters."""

LONGEST = 128
"""Characters: file systems take 255 bytes, and a sweep's name gets prefixes and suffixes."""


def is_name(text: str) -> bool:
    """Return whether a text can be such a name."""
    return len(text) <= LONGEST and re.fullmatch(NAME, text) is not None


def check_name(name: str, of: str) -> str:
    """Return the name.

    Args:
        of: what it names, as the error says it.

    Raises:
        UsageProblem: it has characters that a name must not have, or is too long.
    """
    if len(name) > LONGEST:
        raise UsageProblem(
            f"the name of {of} has {len(name)} characters", f"give one of at most {LONGEST}"
        )
    if not is_name(name):
        raise UsageProblem(
            f"{name!a} cannot be the name of {of}",
            "start with a letter or digit, and go on with letters, digits, '.', '_' and '-'",
        )
    return name


_UNSAFE = re.compile(r'[/\\:*?"<>|]')
_FOLDER_BYTES = 200
"""Bytes of a class's name in a folder's: file systems take 255, and the class's number comes before."""


def class_folders(names: Sequence[str]) -> list[str]:
    """Return the name of a folder for each class: no path, no control character, no two alike.

    The names are those of the classes where all can be folders, so that generated images can be laid
    beside real ones; else each is the class's id and what of its name can be a folder's.
    """
    safe = [_safe_folder(name) for name in names]
    distinct = {unicodedata.normalize("NFC", name).casefold() for name in safe}  # as on macOS
    if safe == list(names) and len(distinct) == len(safe):
        return safe
    return [f"{class_id:03d}-{name}" for class_id, name in enumerate(safe)]


def numbered_class_folders(names: Sequence[str]) -> list[str]:
    """Return the name of a folder for each class that begins with its id: sorted, they are in its order."""
    digits = max(4, len(str(len(names) - 1)))
    return [f"{class_id:0{digits}d}-{_safe_folder(name)}" for class_id, name in enumerate(names)]


def _safe_folder(name: str) -> str:
    """Return a name without separators, what cannot be printed, and dots and blanks at its ends."""
    printable = "".join(c if c.isprintable() else "_" for c in _UNSAFE.sub("_", name))
    cut = printable.encode()[:_FOLDER_BYTES].decode(errors="ignore")
    return cut.strip(". ") or "_"
