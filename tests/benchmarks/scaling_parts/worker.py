"""One worker of a run over hosts: DeepSpeed's step around a network whose computation is a sleep.

    worker.py RANK WORLD ADDRESS PORT INTERFACE

It reads one job a line from stdin, as JSON, and answers with one line each.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from whipray.trainers.deepspeed_setup import quiet_deepspeed
from whipray.trainers.devices import set_local_rank
from whipray.trainers.engine import Engine
from whipray.trainers.engine_config import EngineConfig
from whipray.trainers.gradient_buckets import SMALLEST
from whipray.trainers.optimizer import OptimizerConfig

from .trace import Recorder

LARGE, SMALL = 4_000_000, 16
"""Numbers of a message by which the bandwidth, and of one by which the latency is measured."""
PINGS, REPEATS = 20, 3
"""How often each is measured."""
CPU = torch.device("cpu")


class Sleep(torch.autograd.Function):
    """Identity that takes its time, and whose weight has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, seconds: float) -> Tensor:
        """Sleep a third of the time: a backward pass takes twice as long as a forward one."""
        ctx.size, ctx.seconds = weight.shape, seconds
        time.sleep(seconds / 3)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Sleep the rest."""
        time.sleep(2 * ctx.seconds / 3)
        return gradients[0], torch.full(ctx.size, 1e-3), None


class Block(nn.Module):
    """A block of a network."""

    def __init__(self, parameters: int, seconds: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(parameters))
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, some time later."""
        slept: Tensor = Sleep.apply(x, self.weight, self.seconds)  # type: ignore[no-untyped-call]
        return slept


class Sleeper(nn.Module):
    """A network of equal blocks."""

    def __init__(self, blocks: int, parameters: int, seconds: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(parameters // blocks, seconds / blocks) for _ in range(blocks)
        )

    def forward(self, x: Tensor, _time: Tensor, _labels: Tensor) -> Tensor:
        """See `Network.forward`."""
        for block in self.blocks:
            x = block(x)
        return x


def probe() -> dict[str, float]:
    """Return the seconds of a small and a large message, and of each kind of collective of a large tensor.

    Messages are between workers 0 and 1; the keys are `small`, `large` and the kinds. It is reduced in parts of a
    bucket's size, each to its owner: gloo takes longer for larger ones.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    whole, part = torch.zeros(LARGE), torch.zeros(LARGE // world)

    def ping(message: Tensor) -> None:
        if rank == 0:
            dist.send(message, 1)
            dist.recv(message, 1)
        elif rank == 1:
            dist.recv(message, 0)
            dist.send(message, 0)

    return {
        "small": _timed(partial(ping, torch.zeros(SMALL)), PINGS) / 2,
        "large": _timed(partial(ping, whole), REPEATS) / 2,
        "all_reduce": _timed(partial(dist.all_reduce, whole), REPEATS),
        "all_gather": _timed(partial(dist.all_gather_into_tensor, whole, part), REPEATS),
        "reduce_scatter": _timed(partial(dist.reduce_scatter_tensor, part, whole), REPEATS),
        "reduce": _timed(partial(_reduce_to_owners, whole.split(SMALLEST)), REPEATS),
        "broadcast": _timed(partial(dist.broadcast, whole, 0), REPEATS),
    }


def _reduce_to_owners(parts: Sequence[Tensor]) -> None:
    """Reduce each part to one worker, one after the other, as ZeRO's stages 1 and 2 do with gradients."""
    for i, part in enumerate(parts):
        dist.reduce(part, i * dist.get_world_size() // len(parts))


def _timed(call: Callable[[], Any], repeats: int) -> float:
    """Return the median seconds of a call, which all workers begin at once."""
    taken = []
    for _ in range(repeats + 1):
        dist.barrier()
        begin = time.perf_counter()
        call()
        dist.barrier()  # until the slowest has ended; its own time is that of a small message
        taken.append(time.perf_counter() - begin)
    return median(taken[1:])


def train(stage: int, blocks: int, parameters: int, seconds: float, steps: int) -> dict[str, Any]:
    """Return seconds of each step, and the collectives of the last one."""
    x = torch.zeros(1, 1, 1, 1, requires_grad=True)
    engine = Engine(
        Sleeper(blocks, parameters, seconds),
        EngineConfig(zero_stage=stage),
        OptimizerConfig(clip=0),
        micro_batch=1,
        accumulation=1,
        device=CPU,
        image_shape=(1, 1, 1),
    )
    taken, recorder = [], Recorder()
    for step in range(steps + 2):
        dist.barrier()
        begin = time.perf_counter()
        with recorder if step == steps + 1 else nullcontext():
            engine.backward(engine.predict(x, x, x).sum())
            engine.step(0.0, {"ema": 0.5})
        taken.append(time.perf_counter() - begin)
    engine.close()
    return {"seconds": taken[1:-1], "collectives": [asdict(c) for c in recorder.collectives]}


def main() -> None:
    """Join the group, and do one job after the other."""
    rank, world, address, port, interface = sys.argv[1:]
    os.environ["GLOO_SOCKET_IFNAME"] = interface
    torch.set_num_threads(1)
    quiet_deepspeed()
    set_local_rank(0)
    dist.init_process_group(
        "gloo", init_method=f"tcp://{address}:{port}", rank=int(rank), world_size=int(world)
    )
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(probe() if job is None else train(**job)), flush=True)


if __name__ == "__main__":
    main()
