"""The same losses from compiled networks; apart from `agree`, since compiling takes long.

They are compared with those of the same device, eager in fp32, which `agree` compares with the CPU's.
"""

from __future__ import annotations

from support import devices

from .agree import compare_losses
from .setting import Setting, parse

COMPILING_S = 15.0
"""What one of these small networks may take; with less time left it is not begun."""


WANTED = [
    *(("bf16", name, "regional") for name in devices.OBJECTIVES),
    ("bf16", "ddpm", "graphs"),
    ("bf16", "cbdm", "graphs"),
    ("fp32", "call", "regional"),
    ("bf16", "call", "full"),
]


def main(setting: Setting) -> None:
    reference = {name: devices.losses(name, {}) for name in devices.OBJECTIVES}  # see `agree`
    for precision, objective, compiled in WANTED:
        how = f"{precision} compiled, {compiled}"
        if compiled == "graphs" and not setting.gpu:
            continue
        if not setting.toy and setting.left() < COMPILING_S:
            setting.say(f"{objective}, {how}", {}, "not reached in the time given")
            continue
        engine = {"precision": precision, "compile": compiled}
        one = {objective: reference[objective]}
        compare_losses(setting, one, engine, how, "eager in fp32")


if __name__ == "__main__":
    main(parse("agree_compiled"))
