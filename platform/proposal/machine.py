"""The machine that a proposal is made for: this one, or a cluster's nodes."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """What a training can use.

    Args:
        cores: CPU cores, of all nodes together.
        gpus: GPUs, of all nodes together.
        cluster: address of the cluster's dashboard; None for this machine, where steps can be measured.
    """

    cores: int
    gpus: int
    cluster: str | None = None

    def __str__(self) -> str:
        parts = [f"{n} {word}{'s' if n != 1 else ''}" for n, word in self._counts if n]
        return f"{' and '.join(parts)}{f' of {self.cluster}' if self.cluster else ''}"

    @property
    def _counts(self) -> tuple[tuple[int, str], tuple[int, str]]:
        return (self.gpus, "GPU"), (0 if self.gpus else self.cores, "CPU core")


def busy() -> str | None:
    """Return what to say where other programs hold this machine's cores, so that measured times are too long."""
    if not hasattr(os, "getloadavg"):
        return None
    load, cores = os.getloadavg()[0], this_machine().cores
    if load <= cores:
        return None
    return f"{load:.0f} processes want this machine's {cores} cores: the measured times are those of a busy machine"


def this_machine() -> Machine:
    """Return the cores that this process may use and the GPUs that PyTorch finds."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if hasattr(os, "sched_getaffinity"):
        return Machine(len(os.sched_getaffinity(0)), gpus)
    return Machine(os.cpu_count() or 1, gpus)
