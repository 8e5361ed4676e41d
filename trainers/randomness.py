"""Randomness as a function of (seed, step, row of the global batch), never of the rank.

Every row has its range in a stream of random bits: Philox (Salmon et al. 2011) computes the bits at any
position from a 128-bit key, which names seed, stream and step. One, two or four workers therefore see the
same images, noise and labels, on a GPU (`gpu_noise.py`) as on the CPU but for rounding, and a run resumes
without saving the state of any generator.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CPU = torch.device("cpu")
BLOCK = 8
"""Consecutive rows of the global batch with numbers in common (`for_block`)."""


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on their order."""
    return _digest(parts, 8) >> 1


def random_words(key: int, first: int, count: int) -> NDArray[np.uint64]:
    """Return `count` words of the stream of a key, from word `first` on, (count,) uint64.

    NumPy guarantees a bit generator's raw stream across versions, and its distributions not.

    Args:
        key: in [0, 2^128).
        first: at least 0.
    """
    skipped = first % 4  # a count of Philox stands for four words
    words: NDArray[np.uint64] = np.random.Philox(key=key, counter=first // 4).random_raw(
        skipped + count
    )
    return words[skipped:]


Per = Literal["row", "block", "batch"]
Request = tuple[str, int, Per]
"""Of uniform numbers: stream, columns, and what has numbers of its own."""


class MadeAhead:
    """Uniform numbers of some rows, made before they are asked for.

    Args:
        asked: what steps have asked for. What is asked for beyond it is added, so that a later step has it.
    """

    def __init__(self, asked: dict[Request, None]) -> None:
        self.asked = asked
        self.values: dict[Request, Tensor] = {}


@dataclass(frozen=True)
class BatchRandom:
    """The random numbers of some consecutive rows of one step's global batch.

    Args:
        seed: of the experiment.
        step: number of the global batch, or another index that names this set of random numbers.
        first_row: where this worker's rows start in the global batch.
        rows: how many rows this worker has.
        device: where noise is sampled; small samples are made on the CPU.
        ahead: what has been made of these numbers already; they are the same with and without it.
    """

    seed: int
    step: int
    first_row: int
    rows: int
    device: torch.device
    ahead: MadeAhead | None = field(default=None, compare=False, repr=False)

    def make_ahead(self, asked: dict[Request, None]) -> BatchRandom:
        """Return the same random numbers, those that steps have `asked` for made now."""
        ahead = MadeAhead(asked)
        for request in list(asked):  # another thread may add to it
            if request[2] != "block" or self.whole_blocks:
                ahead.values[request] = self._make_uniform(*request)
        return replace(self, ahead=ahead)

    @property
    def whole_blocks(self) -> bool:
        """Whether these rows start and end on the border of a block."""
        return self.first_row % BLOCK == 0 and self.rows % BLOCK == 0

    def normal(self, stream: str, shape: Sequence[int]) -> Tensor:
        """Sample standard normal noise, (rows, *shape) float32, on the device.

        On the CPU, and copied, for a device other than a GPU or where Triton is not installed.
        """
        size = math.prod(shape)
        if self.device.type == "cuda" and (gpu := _gpu_noise()):
            made: Tensor = gpu.normal(
                self._key(stream), self.first_row, self.rows, size, self.device
            )
            return made.view(self.rows, *shape)
        pairs = -(-size // 2)  # numbers come in pairs, each from one word
        words = random_words(self._key(stream), self.first_row * pairs, self.rows * pairs)
        halves = words.view(np.uint32).reshape(self.rows, 2, pairs)
        radius, angle = (torch.from_numpy(halves[:, i].astype(np.float32)) for i in (0, 1))
        # Box & Muller 1958; 1 is added for a uniform number in (0, 1]
        radius.add_(1).mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle.mul_(2 * math.pi * 2.0**-32)
        noise = torch.cat([radius * angle.cos(), angle.sin_().mul_(radius)], 1)  # (rows, 2 pairs)
        return noise[:, :size].reshape(self.rows, *shape).to(self.device, non_blocking=True)

    def integers(self, stream: str, high: int) -> Tensor:
        """Sample uniform integers in [0, high), (rows,) int64, on the CPU."""
        return (self.uniform(stream)[:, 0] * high).long()

    def uniform(self, stream: str, columns: int = 1) -> Tensor:
        """Sample uniform numbers in [0, 1), (rows, columns) float64, on the CPU."""
        return self._uniform(stream, columns, "row")

    def categorical(self, stream: str, weights: Tensor, columns: int = 1) -> Tensor:
        """Sample indices by unnormalised `weights` (C,), (rows, columns) int64, on the CPU."""
        edges = weights.double().cumsum(0)
        # a product with a number below 1 stays below the last edge, and `right` skips weights of 0
        return torch.searchsorted(edges, self.uniform(stream, columns) * edges[-1], right=True)

    def for_block(self, stream: str, columns: int = 1) -> Tensor:
        """Sample uniform numbers for each block, (blocks, columns) float64; whole blocks only.

        Raises:
            ValueError: not `whole_blocks`.
        """
        if not self.whole_blocks:
            raise ValueError(f"{self.rows} rows from row {self.first_row} are not whole blocks")
        return self._uniform(stream, columns, "block")

    def for_batch(self, stream: str) -> float:
        """Sample one uniform number in [0, 1), the same on every worker."""
        return self._uniform(stream, 1, "batch").item()

    def _key(self, stream: str) -> int:
        return _digest((self.seed, stream, self.step), 16)

    def _uniform(self, stream: str, columns: int, per: Per) -> Tensor:
        if self.ahead is None:
            return self._make_uniform(stream, columns, per)
        request = stream, columns, per
        made = self.ahead.values.get(request)
        if made is None:
            self.ahead.asked[request] = None
            made = self.ahead.values[request] = self._make_uniform(stream, columns, per)
        return made

    def _make_uniform(self, stream: str, columns: int, per: Per) -> Tensor:
        match per:
            case "row":
                first, rows = self.first_row, self.rows
            case "block":
                first, rows = self.first_row // BLOCK, self.rows // BLOCK
            case "batch":
                first, rows = 0, 1
        words = random_words(self._key(stream), first * columns, rows * columns)
        return torch.from_numpy((words >> np.uint64(11)) * 2.0**-53).reshape(rows, columns)


@cache
def _gpu_noise() -> ModuleType | None:
    """Return the module of kernels, None where there is no Triton, which PyTorch's CUDA builds bring along."""
    try:
        from . import gpu_noise
    except ImportError:
        return None
    return gpu_noise


def _digest(parts: Sequence[int | str], size: int) -> int:
    """Return an integer of `size` bytes that depends on every part and on their order."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=size).digest()
    return int.from_bytes(digest, "little")
