"""Does it run at all, and right: eager losses, checkpoints both ways, images, beside the CPU's."""

from __future__ import annotations

import sys
from tempfile import TemporaryDirectory
from typing import Any

from support import devices

from .setting import Setting, parse


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


def compare_checkpoints(setting: Setting) -> None:
    """From the CPU to the device and back: the next loss is what the checkpoint told."""
    for precision in ("fp32", "bf16"):
        engine = {"precision": precision}
        with TemporaryDirectory() as folder:
            try:
                devices.on_the_cpu("go_on", folder=folder, steps=2, engine={})
                there = devices.go_on(folder, 4, engine)
                back = devices.on_the_cpu("go_on", folder=folder, steps=6, engine={})
            except Exception as error:  # noqa: BLE001  (a row as well)
                note = f"{type(error).__name__}: {first_line(error)}"
                setting.say(f"checkpoint to the GPU and back, {precision}", {}, note, False)
                continue
        limit = devices.TOLERANCES[precision]
        for what, losses in (("CPU to GPU", there), ("GPU to CPU", back)):
            gap = devices.apart([losses["found"]], [losses["told"]])
            note = f"at most {limit:g}"
            setting.say(
                f"checkpoint {what}, {precision}: next loss", {"relative": gap}, note, gap <= limit
            )


def compare_images(setting: Setting) -> None:
    """Guided DDIM from the same noise."""
    expected, found = devices.on_the_cpu("sampled"), devices.sampled()
    gap = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    note = f"of [-1, 1], at most {devices.IMAGE_TOLERANCE:g}"
    setting.say(
        "images from the CPU's noise: largest difference",
        {"": gap},
        note,
        gap <= devices.IMAGE_TOLERANCE,
    )


def main(setting: Setting) -> None:
    reference = devices.on_the_cpu("all_losses")
    for precision in ("fp32", "bf16"):
        compare_losses(setting, reference, {"precision": precision}, f"{precision} eager")
    some = {"cbdm": reference["cbdm"]}
    compare_losses(setting, some, {"zero_stage": 1}, "fp32 eager, ZeRO 1")
    compare_checkpoints(setting)
    compare_images(setting)
    refused = sorted(set(sys.modules) & {"ray", "mlflow", "optuna", "boto3", "typer"})
    setting.say("imported beside the trainers", {}, ", ".join(refused) or "nothing", not refused)


if __name__ == "__main__":
    main(parse("agree"))
