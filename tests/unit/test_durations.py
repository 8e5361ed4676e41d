"""The estimate of the remaining time."""

from __future__ import annotations

import time

import pytest

from whipray.platform.foundation.durations import Clock


def test_the_time_left_does_not_count_the_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock()
    now = 500.0
    assert clock.left(0.0) == ""
    assert clock.left(0.1) == ""  # nothing to measure by yet
    now = 520.0
    assert clock.left(0.3) == "about 1:10 left"  # 20 % in 20 s, 70 % to go
    assert clock.left(1.0) == ""
    assert clock.elapsed() == "8:40"
