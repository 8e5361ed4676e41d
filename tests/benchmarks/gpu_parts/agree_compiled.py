"""The same losses from compiled networks; apart from `agree`, since compiling takes long.

They are compared with those of the same device, eager in fp32, which `agree` compares with the CPU's.
"""

from __future__ import annotations

from support import devices

from .agree import compare_losses
from .setting import Setting, parse

COMPILING_S = 15.0
"""What one of these small networks may take; with less time left it is not begun."""


WANTED = [("bf16", name) for name in devices.OBJECTIVES] + [("fp32", "cbdm"), ("fp32", "call")]


def main(setting: Setting) -> None:
    reference = {name: devices.losses(name, {}) for name in devices.OBJECTIVES}  # see `agree`
    for precision, objective in WANTED:
        if not setting.toy and setting.left() < COMPILING_S:
            setting.say(f"{objective}, {precision} compiled", {}, "not reached in the time given")
            continue
        engine = {"precision": precision, "compile": True}
        how = f"{precision} compiled"
        one = {objective: reference[objective]}
        compare_losses(setting, one, engine, how, "eager in fp32")


if __name__ == "__main__":
    main(parse("agree_compiled"))
