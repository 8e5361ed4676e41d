"""What the shell completes: recipes, runs, models, keys and their values; without PyTorch and MLflow.

Each function returns whole words. bash takes `objective.name=cb` and `models:/m` apart at `=`, `:` and `@`; such
words are put together first, and of what is returned it wants the last part alone.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from importlib.resources import files
from pathlib import Path

from ...trainers.errors import Problem

WORDS, CURRENT, COMMAND = "COMP_WORDS", "COMP_CWORD", "_WHIPRAY_COMPLETE"
BREAK = re.compile(r"[=:@]+")
"""Of bash's COMP_WORDBREAKS, what is in our words."""

Complete = Callable[[str], list[str]]


def is_running() -> bool:
    """Return whether this process completes a line for a shell."""
    return COMMAND in os.environ


@contextmanager
def whole_words() -> Iterator[None]:
    """Inside, a completion for bash sees whole words, and bash is given the last part of each.

    Nothing happens where this process does not complete for bash.
    """
    if os.environ.get(COMMAND) != "complete_bash":
        yield
        return
    words = os.environ[WORDS].split("\n")
    current = int(os.environ[CURRENT])
    joined: list[str] = []
    for number, word in enumerate(words[: current + 1]):
        breaks = BREAK.fullmatch(word) or (number and BREAK.fullmatch(words[number - 1]))
        if joined and breaks and word:
            joined[-1] += word
        else:
            joined.append(word)
    os.environ[WORDS] = "\n".join(shlex.quote(word) for word in joined)
    os.environ[CURRENT] = str(len(joined) - 1)
    known = max((match.end() for match in BREAK.finditer(joined[-1])), default=0)
    offered = io.StringIO()
    try:
        with redirect_stdout(offered):
            yield
    finally:
        sys.stdout.writelines(f"{word[known:]}\n" for word in offered.getvalue().splitlines())


def _completes(find: Callable[[str], Iterable[str]]) -> Complete:
    """Return a function for Typer: the words that begin as the incomplete one."""

    def complete(incomplete: str) -> list[str]:
        with suppress(Problem, OSError):  # then there is nothing to offer
            return sorted({word for word in find(incomplete) if word.startswith(incomplete)})
        return []

    return complete


def _recipes(incomplete: str) -> Iterable[str]:
    from ..config.recipes import recipe_names

    return [*recipe_names(), *_files(incomplete, (".yaml", ".yml"))]


def _spaces(incomplete: str) -> Iterable[str]:
    packaged = (file.name for file in files("whipray.search_spaces").iterdir())
    names = (name.removesuffix(".yaml") for name in packaged if name.endswith(".yaml"))
    return [*names, *_files(incomplete, (".yaml", ".yml"))]


def _overrides(incomplete: str) -> Iterable[str]:
    from ..config.key_facts import known_facts

    key, equals, _ = incomplete.partition("=")
    facts = known_facts()
    if not equals:
        return [f"{fact.key}=" for fact in facts]
    return [f"{key}={choice}" for fact in facts if fact.key == key for choice in fact.choices]


def _keys(incomplete: str) -> Iterable[str]:  # noqa: ARG001
    from ..config.key_facts import known_facts

    keys = [fact.key for fact in known_facts()]
    return [*keys, *(key.rpartition(".")[0] for key in keys if "." in key)]


def _runs(incomplete: str) -> Iterable[str]:  # noqa: ARG001
    from ..storage.config import StorageConfig
    from ..storage.layout import owner
    from ..storage.store import Storage

    root = Storage(StorageConfig(retry_timeout_s=0))
    return [owned[0] for name in root.list() if (owned := owner(name))]


def _targets(incomplete: str) -> Iterable[str]:
    yield from _runs(incomplete)
    if incomplete and not "models:/".startswith(incomplete[:8]):
        return
    from .stores import StoreOptions

    for version in StoreOptions().known_versions() or []:
        yield version.uri
        yield from (f"models:/{version.name}@{alias}" for alias in version.aliases)


def _files(incomplete: str, endings: tuple[str, ...]) -> list[str]:
    """Return the files and folders that a path may be completed to."""
    folder, slash, _ = incomplete.rpartition("/")
    paths = Path(f"{folder}{slash}" or ".").expanduser().iterdir()
    return [
        f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}"
        for path in paths
        if path.name.endswith(endings) or (slash and path.is_dir())
    ]


recipes, spaces, overrides, keys, runs, targets = map(
    _completes, (_recipes, _spaces, _overrides, _keys, _runs, _targets)
)
