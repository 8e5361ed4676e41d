"""The two consoles: data goes to stdout, messages to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from ..foundation.job import in_cluster_job

SCHEMA = 1
"""Version of all JSON documents; raised when a key is removed or changes its meaning."""

LOG_WIDTH = 200
"""Width of tables in a file or a pipe, where nothing has to be cut to fit a screen."""

# Without markup: a path or a message may hold square brackets.
stdout_console = Console(highlight=False, soft_wrap=True, markup=False)
if not stdout_console.is_terminal:
    stdout_console.width = LOG_WIDTH
stderr_console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps({"schema": SCHEMA, **document}, indent=1, default=str) + "\n")


def print_error(what: str, fix: str, code: int, as_json: bool) -> None:
    """Print what is wrong and how to fix it; with `as_json` also as a document on stdout."""
    if as_json:
        print_json({"error": {"code": code, "message": what, "hint": fix}})
    stderr_console.print(f"error: {what}")
    stderr_console.print(f"fix: {fix}")


def next_commands(*commands: str) -> None:
    """Suggest commands to run next; print nothing in a cluster's job, where nobody types."""
    if in_cluster_job():
        return
    stderr_console.print("\nnext:")
    for command in commands:
        stderr_console.print(f"  {command}")
