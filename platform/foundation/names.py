"""Names that a person gives to runs, sweeps, models and aliases."""

from __future__ import annotations

import re

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
