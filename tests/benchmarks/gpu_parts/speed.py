"""Training at the papers' network: images/s, MFU, memory, seconds to the first step, host share.

MFU is the counted work of forward and backward over the measured rate of a large bf16 matrix
product, whatever the precision. The host share is the time in which Python and PyTorch issue a step
to an idle device, over the time of a step; near 100 % the device waits for the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from support.devices import step
from workload import config_of

from whipray.trainers.devices import join_workers
from whipray.trainers.loop import Training
from whipray.trainers.trainer_config import TrainerConfig

from . import flops
from .ceilings import product_flops
from .cells import ENGINES, MODES, OBJECTIVES, Cell, first_cells
from .setting import Setting, parse
from .timing import Timed, forget_peak, peak_memory, release, synchronize, timed

EAGER_TARGET, BEST_TARGET = 15.0, 25.0
"""MFU in % that is asked for at bf16 and the main batch."""
LEAST_S = {"eager": 6.0, "recomputed": 6.0, "regional": 30.0, "full": 60.0, "graphs": 60.0}
"""What a cell may take; with less time left it is not begun."""
SIDE = 32


@dataclass
class Running:
    """A training that takes one step after another."""

    training: Training
    number: int = 0

    def step(self) -> None:
        """Take the next step."""
        step(self.training, self.number)
        self.number += 1


def config_of_cell(setting: Setting, cell: Cell, **engine: Any) -> TrainerConfig:
    """The config of a cell's training."""
    mode = "full" if cell.mode == "graphs" and not setting.gpu else cell.mode
    return config_of(
        OBJECTIVES[cell.objective],
        {**ENGINES[cell.precision], **MODES[mode], **engine},
        model=setting.model,
        batch=cell.batch,
    )


def start(setting: Setting, config: TrainerConfig) -> Running:
    """Build a training; what compiles it does so at its first step."""
    torch.compiler.reset()
    join_workers(setting.device)
    return Running(Training(config, setting.splits(), setting.device, None))


def host_seconds(running: Running, device: torch.device) -> float:
    """In which the host issues one step to an idle device, the median of some steps.

    A device's queue holds about a thousand kernels, so each of the three phases begins with an
    empty one; what is issued beyond that in one phase waits, and counts as the host's all the same.
    """
    training, found = running.training, []
    plan, optimizer = training.config.training, training.config.optimizer

    def issue(phase: Callable[[], Any]) -> tuple[Any, float]:
        synchronize(device)
        begin = time.perf_counter()
        result = phase()
        return result, time.perf_counter() - begin

    for _ in range(5):
        seen = running.number * plan.batch_size
        after = seen + plan.batch_size
        decays = optimizer.decays_at(after, plan.batch_size)
        loss, forward = issue(partial(training._loss, seen, 0))
        _, backward = issue(partial(training.engine.backward, loss.total))
        _, update = issue(
            partial(training.engine.step, optimizer.lr_at(after, plan.batch_size), decays)
        )
        found.append(forward + backward + update)
        running.number += 1
    return sorted(found)[len(found) // 2]


def measure(setting: Setting, cell: Cell, ceiling: float, **engine: Any) -> dict[str, float]:
    """All that is said of a cell.

    Args:
        ceiling: FLOP/s of the device.
        engine: changes to its engine's config.
    """
    config = config_of_cell(setting, cell, **engine)
    begin = time.perf_counter()
    running = start(setting, config)
    try:
        running.step()
        synchronize(setting.device)
        first = time.perf_counter() - begin
        running.step()
        forget_peak(setting.device)
        found: Timed = timed(setting, running.step)
        memory = peak_memory(setting.device)
        host = host_seconds(running, setting.device)
    finally:
        running.training.close()
        del running
        release(setting.device)
    speed = cell.batch / found.seconds
    return {
        "images/s": speed,
        "% MFU": 100 * speed * flops.of_training(config, SIDE) / ceiling,
        **memory,
        "s to the first step": first,
        "% host": 100 * host / found.seconds,
        "% spread": 100 * found.spread,
    }


def measure_cells(setting: Setting, cells: list[Cell]) -> dict[Cell, dict[str, float]]:
    """Say a row for each cell, as long as there is time; a failure is a row too."""
    ceiling = product_flops(setting, torch.bfloat16)
    found: dict[Cell, dict[str, float]] = {}
    left_out = []
    for cell in cells:
        if not setting.toy and setting.left() < LEAST_S[cell.mode]:
            left_out.append(cell)
            continue
        try:
            found[cell] = measure(setting, cell, ceiling)
            setting.say(str(cell), found[cell])
        except Exception as error:  # noqa: BLE001  (a row as well)
            release(setting.device)
            setting.say(str(cell), {}, f"{type(error).__name__}: {str(error)[:160]}", False)
    if left_out:
        setting.say("not reached in the time given", {"cells": len(left_out)})
    return found


def say_targets(setting: Setting, found: dict[Cell, dict[str, float]]) -> None:
    """MFU eager and in the best mode, held against what is asked for; on a GPU at full size only."""
    for name in ("DDPM", "CBDM"):
        eager = Cell(name, setting.batches[0])
        modes = [replace(eager, mode=mode) for mode in MODES]
        known = {cell.mode: found[cell]["% MFU"] for cell in modes if cell in found}
        if "eager" not in known:
            continue
        best = max(known, key=lambda mode: known[mode])
        for what, mode, target in (
            ("eager", "eager", EAGER_TARGET),
            (f"best, {best}", best, BEST_TARGET),
        ):
            met = None if setting.toy else known[mode] >= target
            note = f"asked for: {target:g}"
            setting.say(f"target: {name}, bf16, {what}", {"% MFU": known[mode]}, note, met)


def main(setting: Setting) -> None:
    found = measure_cells(setting, first_cells(setting.batches))
    say_targets(setting, found)


if __name__ == "__main__":
    main(parse("speed"))
