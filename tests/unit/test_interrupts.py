"""What a training hears of the end of its host, where nobody but Ray's head could tell."""

from __future__ import annotations

import threading
import time

import pytest
from support.shell import WAIT_S

from whipray.platform.compute import interrupts
from whipray.platform.compute.interrupts import PreemptionWatcher


def test_a_notice_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, True, True])
    monkeypatch.setattr(interrupts, "_is_draining", lambda: next(answers))
    monkeypatch.setattr(interrupts, "HEAD_TIMEOUT_S", WAIT_S)
    notice = PreemptionWatcher()
    assert [notice() for _ in range(4)] == [False, True, False, False]


def test_a_head_that_is_stuck_or_fails_holds_no_training_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go, asked = threading.Event(), []

    def stuck() -> bool:
        asked.append(1)
        go.wait()
        raise ConnectionError

    monkeypatch.setattr(interrupts, "HEAD_TIMEOUT_S", 0.01)
    monkeypatch.setattr(interrupts, "_is_draining", stuck)
    notice = PreemptionWatcher()
    assert [notice() for _ in range(9)] == [False] * 9
    assert len(asked) == 1
    monkeypatch.setattr(interrupts, "_is_draining", lambda: True)
    go.set()
    deadline = time.monotonic() + WAIT_S
    while not notice():  # once the answer that failed is there
        assert time.monotonic() < deadline


def test_without_ray_nobody_gives_notice() -> None:
    assert not PreemptionWatcher()()
