"""Does it run at all, and right: eager losses, checkpoints both ways, images, beside the CPU's."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from support import devices

from whipray.trainers.randomness import BatchRandom

from .setting import Setting, parse

NOISE_LIMIT = 1e-5
"""Of standard normal numbers, by rounding."""


def compare_losses(
    setting: Setting,
    expected: dict[str, list[float]],
    engine: dict[str, Any],
    how: str,
    beside: str = "the CPU in fp32",
) -> None:
    """Say how far the first losses of some trainings are from others, all in one row.

    Args:
        expected: objective -> losses.
    """
    limit = devices.TOLERANCES[engine.get("precision", "fp32")]
    gaps: dict[str, float] = {}
    failed = []
    for objective, losses in expected.items():
        try:
            gaps[objective] = devices.apart(devices.losses(objective, engine), losses)
        except Exception as error:  # noqa: BLE001  (a row as well)
            failed.append(f"{objective}: {type(error).__name__}: {first_line(error)}")
        else:
            if not gaps[objective] <= limit:  # also where it is NaN
                failed.append(f"{objective}: {gaps[objective]:.2g}")
    numbers = {"relative": max(gaps.values())} if gaps else {}
    note = "; ".join([f"at most {limit:g}", *failed])
    setting.say(f"{', '.join(expected)}, {how}: losses beside {beside}", numbers, note, not failed)


def first_line(error: Exception) -> str:
    """What went wrong, in at most a line of the table."""
    return (str(error).strip().splitlines() or [""])[0][:160]


def compare_checkpoints(setting: Setting, folders: dict[str, str]) -> None:
    """From the CPU to the device and back: the next loss is what the checkpoint recorded.

    Args:
        folders: precision -> a folder with a checkpoint of the CPU's.
    """
    there: dict[str, dict[str, float]] = {}
    for precision, folder in folders.items():
        try:
            there[precision] = devices.go_on(folder, 4, {"precision": precision})
        except Exception as error:  # noqa: BLE001  (a row as well)
            note = f"{type(error).__name__}: {first_line(error)}"
            setting.say(f"checkpoint CPU to GPU, {precision}", {}, note, False)
    back = devices.several_on_the_cpu(
        [("go_on", {"folder": folders[name], "steps": 6, "engine": {}}) for name in there]
    )
    for precision, returned in zip(there, back, strict=True):
        limit = devices.TOLERANCES[precision]
        for what, losses in (("CPU to GPU", there[precision]), ("GPU to CPU", returned)):
            gap = devices.apart([losses["reproduced"]], [losses["saved"]])
            what = f"checkpoint {what}, {precision}: next loss"
            setting.say(what, {"relative": gap}, f"at most {limit:g}", gap <= limit)


def compare_images(setting: Setting, expected: list[float]) -> None:
    """Guided DDIM from the same noise."""
    gap = max(abs(a - b) for a, b in zip(devices.sampled(), expected, strict=True))
    limit = devices.IMAGE_TOLERANCE
    what = "images from the CPU's noise: largest difference of a pixel in [-1, 1]"
    setting.say(what, {"": gap}, f"at most {limit:g}", gap <= limit)


def compare_noise(setting: Setting) -> None:
    """A batch's noise from the device's kernel beside the CPU's, as one worker and as the second of two."""
    gaps = []
    for first, rows in ((0, 128), (64, 64)):
        mine = BatchRandom(0, 3, first, rows, setting.device).normal("eps", (3, 32, 32))
        cpu = BatchRandom(0, 3, first, rows, torch.device("cpu")).normal("eps", (3, 32, 32))
        gaps.append(float((mine.cpu() - cpu).abs().max()))
    note = f"at most {NOISE_LIMIT:g}"
    setting.say("noise beside the CPU's", {"": max(gaps)}, note, max(gaps) <= NOISE_LIMIT)


def main(setting: Setting) -> None:
    compare_noise(setting)  # all that follows needs it
    with TemporaryDirectory() as scratch:
        folders = {precision: f"{scratch}/{precision}" for precision in devices.TOLERANCES}
        for folder in folders.values():
            Path(folder).mkdir()
        # in one process of the CPU: each takes seconds to start
        reference, images, *_ = devices.several_on_the_cpu(
            [
                ("all_losses", {}),
                ("sampled", {}),
                *[("go_on", {"folder": f, "steps": 2, "engine": {}}) for f in folders.values()],
            ]
        )
        for precision in ("fp32", "bf16"):
            compare_losses(setting, reference, {"precision": precision}, f"{precision} eager")
        some = {"cbdm": reference["cbdm"]}
        compare_losses(setting, some, {"zero_stage": 1}, "fp32 eager, ZeRO 1")
        compare_images(setting, images)
        compare_checkpoints(setting, folders)
    refused = sorted(set(sys.modules) & {"ray", "mlflow", "optuna", "boto3", "typer"})
    setting.say("imported beside the trainers", {}, ", ".join(refused) or "nothing", not refused)


if __name__ == "__main__":
    main(parse("agree"))
