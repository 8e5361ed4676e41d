"""One of several trainings that share a card: `sharing.py` starts it and says when to begin.

It says `ready` after some steps, waits for a line on its input with the seconds that it is to step for, and says
how many images it has trained on in them.
"""

from __future__ import annotations

import os
import sys
import time

from whipray.trainers.devices import limit_memory

from .cells import Cell
from .setting import parse
from .speed import config_of_cell, start
from .timing import synchronize

SHARE = "WHIPRAY_BENCH_SHARE"
"""Environment variable: the part of the card's memory that this training may use."""
WARM = 4


def main() -> None:
    setting = parse("sharing")
    cell = Cell("DDPM", setting.batches[0])
    limit_memory(setting.device, float(os.environ[SHARE]))
    running = start(setting, config_of_cell(setting, cell))
    for _ in range(WARM):
        running.step()
    synchronize(setting.device)
    print("ready", flush=True)
    seconds, steps = float(sys.stdin.readline()), 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or steps == 0:
        running.step()
        steps += 1
    synchronize(setting.device)
    print((steps * cell.batch) / (time.perf_counter() - begin), flush=True)
    running.training.close()


if __name__ == "__main__":
    main()
