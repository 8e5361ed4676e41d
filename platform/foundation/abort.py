"""The end of the process from any thread, for when the main thread cannot be interrupted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from functools import partial
from typing import NoReturn

from ...trainers.errors import Problem
from .background import in_background

ACTION_TIMEOUT_S = 5.0
"""How long each action may take: a server may be down too, and whoever waits for the process waits for
all of them."""
EXIT_CODE = 1

_actions: list[Callable[[Problem], None]] = []


@contextmanager
def before_abort(action: Callable[[Problem], None]) -> Iterator[None]:
    """Inside, an abort does this first, after the actions that were added before it."""
    _actions.append(action)
    try:
        yield
    finally:
        _actions.remove(action)


def abort(problem: Problem) -> NoReturn:
    """Do what is to be done before an abort, and end this process with exit code 1."""
    for action in tuple(_actions):
        wait([in_background(partial(action, problem))], timeout=ACTION_TIMEOUT_S)
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(EXIT_CODE)
