"""A training step of CBDM against one of DDPM: CPU time on one thread, same images and noise."""

from __future__ import annotations

from functools import partial

import torch
from measure import Result, cpu_seconds, hand_over, ratios
from workload import build, step

ROUNDS = 9
STEPS = 3  # a round
CHANNELS = 32
BATCH = 8

OBJECTIVES = {
    "DDPM": {"name": "ddpm"},
    "CBDM": {"name": "cbdm"},
    "CBDM, thin = 1/2": {"name": "cbdm", "thin": 0.5},
    "CBDM, gamma = 0": {"name": "cbdm", "gamma": 0.0},
}
# In forwards and backwards, a backward counted as two forwards: 3, 6, 4.5 and 4. The rest of each
# target is for what is not the network, and for noise.
AT_MOST = {"CBDM": 2.1, "CBDM, thin = 1/2": 1.6, "CBDM, gamma = 0": 1.5}


def main() -> None:
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    trainings = {
        name: build(objective, {}, channels=CHANNELS, batch=BATCH, device=cpu)
        for name, objective in OBJECTIVES.items()
    }
    steps = {name: partial(step, training) for name, training in trainings.items()}
    times = cpu_seconds(steps, ROUNDS, STEPS)
    base = times["DDPM"]
    hand_over(
        [
            Result("step, DDPM", base, "s CPU"),
            *(
                Result(f"step, {name}", ratios(times[name], base), "x DDPM", at_most=limit)
                for name, limit in AT_MOST.items()
            ),
        ]
    )


if __name__ == "__main__":
    main()
