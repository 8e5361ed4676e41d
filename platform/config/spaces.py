"""Search spaces as the platform uses them: checked against the experiment's own keys."""

from __future__ import annotations

from ...trainers.errors import UsageProblem
from .space import Space, SpaceError, load_space


def read_space(name_or_path: str, known_keys: list[str]) -> Space:
    """Load a space and check every parameter's name.

    Raises:
        UsageProblem: no such space, or one that does not fit the experiment.
    """
    try:
        space = load_space(name_or_path)
        space.check(known_keys)
    except SpaceError as error:
        raise UsageProblem(error.what, error.fix) from error
    return space
