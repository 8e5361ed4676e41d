"""Search spaces read from YAML, in the dialect of recipes."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import ValidationError

from ...trainers.errors import UsageProblem, did_you_mean
from .errors import problem
from .experiment import Experiment
from .schema import known_keys
from .space import Space
from .yaml12 import load_mapping, read_text


def load_space(name_or_path: str) -> Space:
    """Read a packaged space by its name, or any by its path, and check its keys.

    Raises:
        UsageProblem: no such space, or one that contradicts itself or does not fit `Experiment`.
    """
    path: Path | Traversable = Path(name_or_path)
    if not _is_path(name_or_path):
        packaged = _packaged_spaces()
        if name_or_path not in packaged:
            hint = did_you_mean(name_or_path, packaged)
            raise UsageProblem(
                f"no search space is named {name_or_path}",
                f"{hint}there are {', '.join(sorted(packaged))}, or give a .yaml file",
            )
        path = packaged[name_or_path]
    space = parse_space(read_text(path), name_or_path)
    space.check(known_keys(Experiment))
    return space


def parse_space(text: str, where: str) -> Space:
    """Read a space from YAML; `where` names it in errors.

    Raises:
        UsageProblem: not YAML, an unknown key, a wrong value, or a space that contradicts itself.
    """
    values = load_mapping(text, where)
    try:
        return Space.model_validate(values)
    except ValidationError as error:
        first = problem(error, Space)
    except UsageProblem as contradiction:
        first = contradiction
    raise UsageProblem(f"{where}: {first.what}", first.fix)


def _is_path(name_or_path: str) -> bool:
    path = Path(name_or_path)
    return path.suffix in (".yaml", ".yml") or len(path.parts) > 1


def _packaged_spaces() -> dict[str, Traversable]:
    return {
        entry.name.removesuffix(".yaml"): entry
        for entry in files("whipray.search_spaces").iterdir()
        if entry.name.endswith(".yaml")
    }
