"""Requests to stop a command: Ctrl-C, SIGTERM, and SIGHUP, which a closed terminal sends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPEAT_S = 1.0
"""SIGTERMs nearer than this are one request: `timeout` sends one to the process and one to its group."""

_last_request = {number: float("-inf") for number in STOP_SIGNALS}
_terminals: list[int] = []


@contextmanager
def handling_stop(on_request: Callable[[], None]) -> Iterator[None]:
    """Inside, the main thread calls `on_request` at each request to stop.

    A signal that was ignored before stays ignored, as in a shell's background job or under `nohup`.
    Outside of the main thread, where Python handles no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: Any) -> None:
        if _is_new(signal.Signals(number)):
            on_request()

    _note_terminals()
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, before[number])


def interrupt() -> None:
    """Raise what Ctrl-C raises."""
    raise KeyboardInterrupt


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Keep a library from changing what a signal does, and SIGHUP from the processes it starts.

    A closed terminal sends SIGHUP to every process that was started from it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # children inherit it
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, before[number])
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _is_new(number: signal.Signals) -> bool:
    """Return whether a signal is another request than the one before."""
    now = time.monotonic()
    since, _last_request[number] = now - _last_request[number], now
    if number is signal.SIGHUP:
        _leave_terminals()
        return since == float("inf")  # shell and kernel send one each
    return number is signal.SIGINT or since > REPEAT_S


def _note_terminals() -> None:
    """Remember which outputs are a terminal: it can no longer be asked once it is closed."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # no such file: pytest's, a notebook's
            if stream.isatty() and stream.fileno() not in _terminals:
                _terminals.append(stream.fileno())


def _leave_terminals() -> None:
    """Write nowhere in place of a terminal that is closed: each write to it would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for terminal in _terminals:
        os.dup2(nowhere, terminal)
    os.close(nowhere)
