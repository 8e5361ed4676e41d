"""Time of work on a device: warmed up, synchronised, the median of rounds."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from .setting import Setting

MOST_CALLS = 200
"""Of one round."""


@dataclass(frozen=True)
class Timed:
    """Seconds of one call: the median over rounds and how far these are apart."""

    seconds: float
    spread: float
    """(largest - smallest) / median."""


def synchronize(device: torch.device) -> None:
    """Wait until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(setting: Setting, call: Callable[[], object]) -> float:
    """Seconds of one call, the device's work included."""
    synchronize(setting.device)
    start = time.perf_counter()
    call()
    synchronize(setting.device)
    return time.perf_counter() - start


def timed(setting: Setting, call: Callable[[], object], warm: int = 3) -> Timed:
    """Measure a call that may return before the device is done.

    Args:
        warm: calls before the measurement, which load and choose kernels.
    """
    for _ in range(1 if setting.toy else warm):
        call()
    calls = 1
    if setting.round_s:
        once = max(seconds_of(setting, call), 1e-5)
        calls = min(MOST_CALLS, max(1, round(setting.round_s / once)))

    def round_of() -> None:
        for _ in range(calls):
            call()

    found = [seconds_of(setting, round_of) / calls for _ in range(setting.rounds)]
    return Timed(median(found), (max(found) - min(found)) / median(found))


def forget_peak(device: torch.device) -> None:
    """Start to look for the highest memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> dict[str, float]:
    """The highest memory that tensors had, GiB; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    return {"GiB": torch.cuda.max_memory_allocated(device) / 2**30}


def release(device: torch.device) -> None:
    """Give the memory that nobody uses back, also that of objects which refer to one another."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
