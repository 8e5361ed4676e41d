"""A person's own pictures: what they hold, and a recipe for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .documents import inspection_document, proposal_document


def check_data(
    paths: str | Path | Sequence[str | Path], root: Path | None = None
) -> dict[str, Any]:
    """Look at images before anything is trained on them.

    Args:
        paths: a folder of class folders, Parquet files, or one or two lists.
        root: folder that the paths in lists start from; None: that of the list, or one above it.

    Returns:
        the document that `whipray data check --json` prints: classes with their counts, sizes, formats, what
        is wrong and how to mend it (`findings`), and whether anything can be trained (`usable`).

    Raises:
        UsageProblem: no such file or folder, or one without images.
        DataProblem: a folder or file that cannot be read at all.
    """
    from ..inspection.inspect import inspect
    from ..inspection.source import source_of

    return inspection_document(inspect(source_of(_absolute(paths), root)))


def init(
    paths: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    size: int | None = None,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Look at images and write a recipe for them; it measures a training step on this machine.

    Args:
        paths: as `check_data`.
        out: the file, which is never overwritten; None: the folder's name and .yaml.
        size: side of the images, in pixels; None: chosen.
        minutes: time for the whole run; None: 10 on a CPU, 240 on a GPU.

    Returns:
        the document that `whipray init --json` prints: `file`, which `load_experiment` takes, `recipe`,
        `warnings`, `times` and `inspection`.

    Raises:
        UsageProblem: the file exists, or no such images.
        DataProblem: nothing can be trained on them.
    """
    from ..inspection.inspect import inspect
    from ..inspection.source import source_of
    from ..proposal.machine import this_machine
    from ..proposal.measure import measure
    from ..proposal.propose import name_of, propose
    from ..proposal.recipe_file import recipe_file, write_recipe

    given = _absolute(paths)
    file = recipe_file(given, None if out is None else Path(out))
    inspection = inspect(source_of(given))
    proposal = propose(
        inspection, name_of(given), this_machine(), measure, minutes=minutes, size=size
    )
    write_recipe(file, proposal, given)
    return proposal_document(file, proposal)


def _absolute(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    several = [paths] if isinstance(paths, str | Path) else paths
    return [Path(path).expanduser().absolute() for path in several]
