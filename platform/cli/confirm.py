"""Ask before what cannot be undone."""

from __future__ import annotations

import sys

import typer

from ...trainers.errors import UsageProblem
from . import exit_codes
from .consoles import stderr_console


def confirm(question: str, refused: str, yes: str) -> None:
    """Ask a person on the terminal; exit if the answer is no.

    Args:
        question: with its mark.
        refused: what has not happened then.
        yes: how to answer without a terminal.

    Raises:
        UsageProblem: there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise UsageProblem(f"there is no terminal to ask for a yes: {refused}", yes)
    if not typer.confirm(question, err=True):
        stderr_console.print(refused)
        sys.exit(exit_codes.INTERRUPTED)
