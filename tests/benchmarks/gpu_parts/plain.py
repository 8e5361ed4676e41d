"""CBDM beside a plain PyTorch loop, in one process: at its defaults, and at equal precision."""

from __future__ import annotations

import os

import torch

from . import flops
from .ceilings import fp32_products, product_flops
from .cells import MODES, Cell
from .plain_loop import PlainLoop
from .setting import Setting, parse
from .speed import SIDE, config_of_cell, measure
from .timing import forget_peak, peak_memory, release, timed

DEFAULT_TARGET, EQUAL_TARGET = 3.0, 1.3
COMPILING_S = 40.0
WORKERS = 4


def measure_plain(
    setting: Setting, batch: int, ceiling: float, *, bf16: bool, all_tf32: bool
) -> dict[str, float]:
    """The plain loop's speed.

    Args:
        all_tf32: also for matrix products, as Whipray's fp32 has it; PyTorch's default is TF32 in
            convolutions alone.
    """
    config = config_of_cell(setting, Cell("CBDM", batch))
    workers = min(WORKERS, len(os.sched_getaffinity(0)))
    loop = PlainLoop(config, setting.splits().train, setting.device, workers, bf16)
    try:
        forget_peak(setting.device)
        if all_tf32:
            with fp32_products(tf32=True):
                found = timed(setting, loop.step)
        else:
            found = timed(setting, loop.step)
        memory = peak_memory(setting.device)
    finally:
        loop.close()
        del loop
        release(setting.device)
    speed = batch / found.seconds
    mfu = 100 * speed * flops.of_training(config, SIDE) / ceiling
    return {"images/s": speed, "% MFU": mfu, **memory, "% spread": 100 * found.spread}


def compare(setting: Setting, what: str, own: float, plain: float, target: float | None) -> None:
    """Say how many times as fast the own training is."""
    met = None if setting.toy or target is None else own / plain >= target
    note = "" if target is None else f"asked for: {target:g}"
    setting.say(f"CBDM over the plain loop, {what}", {"x": own / plain}, note, met)


def main(setting: Setting) -> None:
    torch.set_float32_matmul_precision("highest")  # PyTorch's defaults, for the plain loop
    torch.backends.cudnn.allow_tf32 = True
    batch = setting.batches[0]
    ceiling = product_flops(setting, torch.bfloat16)
    speeds: dict[str, float] = {}

    def note(name: str, what: str, numbers: dict[str, float]) -> None:
        speeds[name] = numbers["images/s"]
        setting.say(f"{what}, {batch}", numbers)

    plain = {"fp32 as PyTorch has it": (False, False), "bf16": (True, False), "tf32": (False, True)}
    for how, (bf16, all_tf32) in plain.items():
        numbers = measure_plain(setting, batch, ceiling, bf16=bf16, all_tf32=all_tf32)
        note(f"plain {how}", f"plain loop, {how}", numbers)
    for precision in ("bf16", "tf32"):
        numbers = measure(setting, Cell("CBDM", batch, precision), ceiling)
        note(precision, f"CBDM, {precision}, eager", numbers)
    default = speeds["plain fp32 as PyTorch has it"]
    compare(setting, "bf16 eager over its defaults", speeds["bf16"], default, None)
    compare(setting, "eager, both in bf16", speeds["bf16"], speeds["plain bf16"], EQUAL_TARGET)
    compare(setting, "eager, both in TF32", speeds["tf32"], speeds["plain tf32"], EQUAL_TARGET)
    best = max(speeds["bf16"], compiled_speed(setting, batch, ceiling))
    compare(setting, "its best mode over the loop's defaults", best, default, DEFAULT_TARGET)


def compiled_speed(setting: Setting, batch: int, ceiling: float) -> float:
    """Images/s of the best compiled training: as `speed` found it, or measured here if there is time."""
    before = setting.rows_before("speed")
    known = [before.get(str(Cell("CBDM", batch, mode=mode)), {}) for mode in MODES]
    if not any(known) and (setting.toy or setting.left() > COMPILING_S):
        cell = Cell("CBDM", batch, mode="regional")
        known = [measure(setting, cell, ceiling)]
        setting.say(f"{cell}", known[0])
    return max(numbers.get("images/s", 0.0) for numbers in known)


if __name__ == "__main__":
    main(parse("plain"))
