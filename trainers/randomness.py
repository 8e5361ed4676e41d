"""Randomness as a function of (seed, step, row of the global batch), never of the rank.

Every random number belongs to a block of `BLOCK` consecutive rows of the global batch, with a
generator seeded for that block alone. One, two or four workers therefore see the same images, noise and
labels, and a run resumes without saving the state of any generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CPU = torch.device("cpu")
BLOCK = 8
"""Rows of the global batch that share one generator."""


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on their order."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class BatchRandom:
    """The random numbers of some consecutive rows of one step's global batch.

    Args:
        seed: of the experiment.
        step: number of the global batch, or another index that names this set of random numbers.
        first_row: where this worker's rows start in the global batch.
        rows: how many rows this worker has.
        device: where noise is sampled; small samples are made on the CPU, so that
            they are the same on every device.
        portable: sample noise on the CPU too and move it, which is slower: a GPU's generator
            gives other numbers from the same seed.
    """

    seed: int
    step: int
    first_row: int
    rows: int
    device: torch.device
    portable: bool = False

    @property
    def whole_blocks(self) -> bool:
        """Whether these rows start and end on the border of a block."""
        return self.first_row % BLOCK == 0 and self.rows % BLOCK == 0

    def normal(self, stream: str, shape: Sequence[int]) -> Tensor:
        """Sample standard normal noise, (rows, *shape) float32, on the device."""
        where = CPU if self.portable else self.device
        noise = self._by_block(
            stream, where, lambda g: torch.randn((BLOCK, *shape), generator=g, device=where)
        )
        return noise.to(self.device)

    def integers(self, stream: str, high: int) -> Tensor:
        """Sample uniform integers in [0, high), (rows,) int64, on the CPU."""
        return self._by_block(stream, CPU, lambda g: torch.randint(high, (BLOCK,), generator=g))

    def uniform(self, stream: str, columns: int = 1) -> Tensor:
        """Sample uniform numbers in [0, 1), (rows, columns) float64, on the CPU."""
        return self._by_block(
            stream, CPU, lambda g: torch.rand((BLOCK, columns), generator=g, dtype=torch.float64)
        )

    def categorical(self, stream: str, weights: Tensor, columns: int = 1) -> Tensor:
        """Sample indices by unnormalised `weights` (C,), (rows, columns) int64, on the CPU."""
        return self._by_block(
            stream,
            CPU,
            lambda g: torch.multinomial(
                weights, BLOCK * columns, replacement=True, generator=g
            ).reshape(BLOCK, columns),
        )

    def for_block(self, stream: str, columns: int = 1) -> Tensor:
        """Sample uniform numbers for each block, (blocks, columns) float64; whole blocks only.

        Raises:
            ValueError: not `whole_blocks`.
        """
        if not self.whole_blocks:
            raise ValueError(f"{self.rows} rows from row {self.first_row} are not whole blocks")
        return self._by_block(
            stream, CPU, lambda g: torch.rand((1, columns), generator=g, dtype=torch.float64), 1
        )

    def for_batch(self, stream: str) -> float:
        """Sample one uniform number in [0, 1), the same on every worker."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, stream, self.step))
        return torch.rand((), generator=generator, dtype=torch.float64).item()

    def _by_block(
        self,
        stream: str,
        device: torch.device,
        sample: Callable[[torch.Generator], Tensor],
        per_block: int = BLOCK,
    ) -> Tensor:
        first, last = self.first_row // BLOCK, (self.first_row + self.rows - 1) // BLOCK
        generator = torch.Generator(device)
        blocks = []
        for block in range(first, last + 1):
            generator.manual_seed(derive_seed(self.seed, stream, self.step, block))
            blocks.append(sample(generator))
        values = torch.cat(blocks)
        if per_block == 1:
            return values
        offset = self.first_row - first * BLOCK
        return values[offset : offset + self.rows]
