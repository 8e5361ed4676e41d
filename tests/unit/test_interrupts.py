"""The notice of a preemption, which only Ray's head can give."""

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
    watcher = PreemptionWatcher()
    assert [watcher() for _ in range(4)] == [False, True, False, False]


def test_an_unresponsive_head_does_not_block_a_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go, asked = threading.Event(), []

    def stuck() -> bool:
        asked.append(1)
        go.wait()
        raise ConnectionError

    monkeypatch.setattr(interrupts, "HEAD_TIMEOUT_S", 0.01)
    monkeypatch.setattr(interrupts, "_is_draining", stuck)
    watcher = PreemptionWatcher()
    assert [watcher() for _ in range(9)] == [False] * 9
    assert len(asked) == 1
    monkeypatch.setattr(interrupts, "_is_draining", lambda: True)
    go.set()
    deadline = time.monotonic() + WAIT_S
    while not watcher():  # once the answer that failed is there
        assert time.monotonic() < deadline


def test_without_ray_nobody_gives_notice() -> None:
    assert not PreemptionWatcher()()
