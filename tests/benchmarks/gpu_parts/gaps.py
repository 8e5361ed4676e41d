"""A profile of some steps: how busy the device is, its longest kernels, its longest gaps."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from .cells import Cell
from .setting import Setting, parse
from .speed import Running, config_of_cell, start
from .timing import release, synchronize

STEPS = 3
LONGEST = 3
KERNELS = 6
COMPILING_S = 40.0
DEVICE_KINDS = {"kernel", "gpu_memcpy", "gpu_memset"}
PHASES = ("images and loss", "backward", "update")


@dataclass(frozen=True)
class Span:
    """Something that was going on, µs."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Gap:
    """The device had nothing to do between two kernels, µs."""

    length: float
    before: str
    after: str
    host: str
    """What the host did at the end of it."""


def find_gaps(kernels: list[Span], host: list[Span]) -> tuple[float, list[Gap]]:
    """Share of the time in which a kernel ran, and the gaps, the longest first.

    Args:
        kernels: on the device, on any stream.
        host: the phases of a step; a gap is put down to the one in which it ended.
    """
    kernels = sorted(kernels, key=lambda span: span.begin)
    gaps, busy, until, last = [], 0.0, kernels[0].begin, kernels[0]
    for span in kernels:
        if span.begin > until:
            at = [phase.name for phase in host if phase.begin <= span.begin <= phase.end]
            gaps.append(Gap(span.begin - until, last.name, span.name, (at or ["between"])[0]))
        busy += max(0.0, span.end - max(span.begin, until))
        if span.end > until:
            until, last = span.end, span
    gaps.sort(key=lambda gap: -gap.length)
    return busy / (until - kernels[0].begin), gaps


def longest_kernels(kernels: list[Span]) -> list[tuple[str, float]]:
    """Kernels by their share of all kernels' time, the largest first."""
    total: dict[str, float] = defaultdict(float)
    for span in kernels:
        total[span.name] += span.end - span.begin
    whole = sum(total.values())
    return sorted(((name, time / whole) for name, time in total.items()), key=lambda x: -x[1])


def spans(events: list[dict[str, Any]], kinds: set[str]) -> list[Span]:
    """Those events of a trace that are of some kinds."""
    return [
        Span(event["name"], event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("cat") in kinds and "dur" in event
    ]


def trace(setting: Setting, running: Running) -> list[dict[str, Any]]:
    """The profiler's events of some steps; each phase of a step is marked."""
    training = running.training
    plan, optimizer = training.config.training, training.config.optimizer
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * setting.gpu
    with profile(activities=activities) as found:
        for _ in range(STEPS):
            seen = running.number * plan.batch_size
            after = seen + plan.batch_size
            with record_function(PHASES[0]):
                loss = training._loss(seen, 0)
            with record_function(PHASES[1]):
                training.engine.backward(loss.total)
            with record_function(PHASES[2]):
                decays = optimizer.decays_at(after, plan.batch_size)
                training.engine.step(optimizer.lr_at(after, plan.batch_size), decays)
            running.number += 1
        synchronize(setting.device)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        found.export_chrome_trace(str(file))
        events: list[dict[str, Any]] = json.loads(file.read_text())["traceEvents"]
    return events


def short(name: str) -> str:
    """A kernel's name without its arguments."""
    return name.removeprefix("void ").partition("(")[0].partition("<")[0][:60]


def show(setting: Setting, cell: Cell) -> None:
    """The profile of one training."""
    running = start(setting, config_of_cell(setting, cell))
    for _ in range(3):
        running.step()
    events = trace(setting, running)
    running.training.close()
    del running
    release(setting.device)
    # on a CPU the operators stand in for kernels: it proves this file, and says nothing else
    kernels = spans(events, DEVICE_KINDS if setting.gpu else {"cpu_op"})
    phases = [span for span in spans(events, {"user_annotation"}) if span.name in PHASES]
    busy, gaps = find_gaps(kernels, phases)
    numbers = {"% busy": 100 * busy, "kernels a step": len(kernels) / STEPS}
    setting.say(str(cell), numbers)
    for number, gap in enumerate(gaps[:LONGEST], 1):
        note = f"in {gap.host}: from {short(gap.before)} to {short(gap.after)}"
        setting.say(f"{cell}: gap {number}", {"µs": gap.length}, note)
    for name, share in longest_kernels(kernels)[:KERNELS]:
        setting.say(f"{cell}: kernel", {"%": 100 * share}, short(name))


def main(setting: Setting) -> None:
    batch = setting.batches[0]
    show(setting, Cell("CBDM", batch))
    if setting.toy or setting.left() > COMPILING_S:
        show(setting, Cell("CBDM", batch, mode="regional"))


if __name__ == "__main__":
    main(parse("profile"))
