"""The two consoles: data goes to stdout, messages to stderr."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...trainers.errors import Problem
from ..foundation.job import in_cluster_job
from ..foundation.text import cut, printable

SCHEMA = 1
"""Version of all JSON documents; raised when a key is removed or changes its meaning."""

MISSING = "–"
"""In a table, where there is no value."""

LOG_WIDTH = 200
"""Width of tables in a file or a pipe, where nothing has to be cut to fit a screen."""


class PlainConsole(Console):
    """A console that shows any text as it is: no markup, no emoji codes, no terminal controls.

    Texts come from servers, jobs and files of others. Rich 15 turns every `str` that is printed, also in a
    table's cell, into a `Text` by `render_str`.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text without what would control the terminal."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})


def plain_table(*columns: str) -> Table:
    """Return a table whose cells wrap where a line has no room for them; nothing is cut."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


stdout_console = PlainConsole()
if not stdout_console.is_terminal:
    stdout_console.width = LOG_WIDTH
stderr_console = PlainConsole(stderr=True)
error_console = PlainConsole(stderr=True)
"""Errors alone, which `--quiet` does not silence."""


def set_quiet(quiet: bool) -> None:
    """Print errors and data alone from now on, or everything."""
    stderr_console.quiet = quiet
    logging.disable(logging.WARNING if quiet else logging.NOTSET)


def write_output(text: str) -> None:
    """Write a part of a job's output to stdout as it comes, without what would control the terminal."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps({"schema": SCHEMA, **document}, indent=1, default=str) + "\n")


def print_error(what: str, fix: str, code: int, as_json: bool) -> None:
    """Print what is wrong and how to fix it; with `as_json` also as a document on stdout."""
    what, fix = cut(what), cut(fix)
    if as_json:
        print_json({"error": {"code": code, "message": what, "hint": fix}})
    error_console.print(f"error: {what}")
    error_console.print(f"fix: {fix}")


def print_problem(problem: Problem, code: int, as_json: bool) -> None:
    """Print a problem; of several that were found at once, each with its own fix."""
    several = getattr(problem, "problems", ())
    if not several:
        print_error(problem.what, problem.fix, code, as_json)
        return
    if as_json:
        each = [{"message": one.what, "hint": one.fix} for one in several]
        error = {"code": code, "message": problem.what, "hint": problem.fix, "problems": each}
        print_json({"error": error})
    for one in several:
        print_error(one.what, one.fix, code, as_json=False)


def print_warnings(lines: Iterable[str]) -> None:
    """Print warnings on stderr, in yellow where it is a terminal."""
    for line in lines:
        wraps = not stderr_console.is_terminal  # there at words, in a log not at all
        stderr_console.print(f"warning: {line}", style="yellow", soft_wrap=wraps)


def next_commands(*commands: Sequence[str | Path]) -> None:
    """Suggest commands to run next; print nothing in a cluster's job, where nobody types.

    Args:
        commands: the words of each, not quoted; they are printed so that a shell reads the same words.
    """
    if in_cluster_job():
        return
    stderr_console.print("\nnext:")
    for words in commands:
        stderr_console.print(f"  {shlex.join(map(str, words))}")
