"""The host's work alone, and whether any step waits for the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from support.devices import waits_of
from workload import config_of

from whipray.trainers.data.batches import gather
from whipray.trainers.devices import join_workers
from whipray.trainers.loop import Training
from whipray.trainers.randomness import BatchRandom

from .cells import OBJECTIVES, Cell
from .setting import Setting, parse
from .speed import Running, config_of_cell, host_seconds, start
from .timing import release, synchronize, timed

TINY = {"base_channels": 32, "channel_mult": [1, 2], "blocks_per_level": 1, "norm_groups": 8}
LOOKED_AT: dict[str, tuple[dict[str, Any], int | None]] = {
    **{name: (objective, None) for name, objective in OBJECTIVES.items()},
    "focal": ({"name": "focal"}, None),
    "TCFG": ({"name": "tcfg"}, None),
    "OC in two pieces": ({"name": "oc"}, 8),
}
"""Name -> objective and rows of a piece."""
BATCH = 16
CALLS = 50


def look_for_waits(setting: Setting) -> None:
    """Every objective's step, small, with PyTorch's check for synchronisation as an error."""
    never = []
    for name, (objective, micro) in LOOKED_AT.items():
        found = waits_at(setting, objective, {"precision": "bf16"}, micro)
        if found:
            setting.say(f"{name}: a step waits for the device", {}, shorten(found), False)
        else:
            never.append(name)
    note = "" if setting.gpu else "needs a GPU; no explicit wait"
    what = f"no step waits for the device: {', '.join(never)}"
    setting.say(what, {}, note, len(never) == len(LOOKED_AT) if setting.gpu else None)
    found = waits_at(setting, {"name": "cbdm"}, {"zero_stage": 1}, None)
    setting.say("waits in DeepSpeed's own step at ZeRO 1", {"places": len(found)}, shorten(found))


def shorten(found: list[str]) -> str:
    """Where the waits are, for a cell of the table."""
    return "; ".join(found)[:300]


def waits_at(
    setting: Setting, objective: dict[str, Any], engine: dict[str, Any], micro: int | None
) -> list[str]:
    """Where the steps of a small training wait."""
    config = config_of(objective, engine, model=TINY, batch=BATCH, micro_batch=micro)
    join_workers(setting.device)
    training = Training(config, setting.splits(), setting.device, None)
    found = waits_of(training)
    training.close()
    return found


def host_work(setting: Setting) -> None:
    """Milliseconds in which the host issues a step to an idle device, and what some parts take."""
    batch = setting.batches[0]
    for name in ("DDPM", "CBDM"):
        running = start(setting, config_of_cell(setting, Cell(name, batch)))
        for _ in range(3):
            running.step()
        numbers = {"ms a step": 1e3 * host_seconds(running, setting.device)}
        numbers |= parts_of(setting, running, batch)
        running.training.close()
        del running
        release(setting.device)
        setting.say(f"host alone: {name}, {batch}, bf16, eager", numbers)
    running = start(setting, config_of_cell(setting, Cell("DDPM", 8)))
    found = timed(setting, running.step)
    running.training.close()
    setting.say(
        "a step of 8 images, for which the device has little to do", {"ms": 1e3 * found.seconds}
    )


def parts_of(setting: Setting, running: Running, batch: int) -> dict[str, float]:
    """Milliseconds that the host takes for the images and for the noise of a step."""
    training, device = running.training, setting.device

    def images() -> None:
        gather(training.data.train, training.batches.order.indices(0, batch), device)

    def noise() -> None:
        BatchRandom(0, 0, 0, batch, device).normal("eps", training.data.train.image_shape)

    steps = iter(range(running.number, running.number + 10 * CALLS))

    def prepared() -> None:  # by the thread, beside nothing else: how fast it can be
        training.batches.rows_and_random(next(steps) * batch, 0, batch)

    calls = {"images": images, "noise": noise, "images, labels and random numbers": prepared}
    return {f"ms for {what}": issue_ms(call, device) for what, call in calls.items()}


def issue_ms(call: Callable[[], None], device: torch.device) -> float:
    """Host time of a call, the mean of some in a row."""
    call()
    synchronize(device)
    begin = time.perf_counter()
    for _ in range(CALLS):
        call()
    issued = time.perf_counter() - begin
    synchronize(device)
    return 1e3 * issued / CALLS


def main(setting: Setting) -> None:
    look_for_waits(setting)
    host_work(setting)


if __name__ == "__main__":
    main(parse("waits"))
