"""The file of a proposed recipe, which is never overwritten."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ...trainers.errors import UsageProblem
from .propose import Proposal, model_name, name_of
from .recipe_text import recipe_text


def recipe_file(paths: Sequence[Path], out: Path | None) -> Path:
    """Return the file to write for these pictures; None: named like them, in the present folder.

    Raises:
        UsageProblem: it exists.
    """
    file = out or Path(f"{model_name(name_of(list(paths)))}.yaml")
    if file.exists():
        raise UsageProblem(
            f"{file} exists, and is not overwritten",
            f"`whipray train {shlex.quote(str(file))}` uses it; give another --out, or remove it",
        )
    return file


def write_recipe(file: Path, proposal: Proposal, paths: Sequence[Path]) -> None:
    """Write a proposed recipe.

    Args:
        file: a new one.
        proposal: the recipe.
        paths: the pictures, as they were given.

    Raises:
        UsageProblem: it cannot be written.
    """
    text = recipe_text(proposal, shlex.join(["whipray", "init", *map(str, paths)]))
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as error:
        raise UsageProblem(
            f"{file} cannot be written: {error.strerror}", "give another --out"
        ) from error
