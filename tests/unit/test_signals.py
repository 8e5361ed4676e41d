"""Requests to stop: which signals are one, which are two, and which are none."""

from __future__ import annotations

import signal

import pytest

from whipray.platform.compute.interrupts import saving_on_interrupt
from whipray.platform.foundation import signals


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        signals, "_last_request", dict.fromkeys(signals.STOP_SIGNALS, float("-inf"))
    )
    monkeypatch.setattr(signals, "_note_terminals", lambda: None)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_two_at_once_are_one_request_to_save(number: signal.Signals) -> None:
    with saving_on_interrupt() as requested:
        for _ in range(2):  # the shell's and the kernel's; to a process and to its group
            signal.raise_signal(number)
        assert requested.is_set()


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_request_leaves_at_once(second: signal.Signals) -> None:
    with saving_on_interrupt():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)


def test_what_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with saving_on_interrupt() as requested:
            signal.raise_signal(signal.SIGHUP)
            assert not requested.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_library_changes_no_handler() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals.keeping_handlers():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.SIGHUP in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
