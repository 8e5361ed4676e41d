"""Rows of a packed set, from its copy on this machine or, where that lacks them, from the set itself."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataProblem
from ..decoded import hash_of
from ..files import Files
from ..packed import Indices, Pixels
from .description import PACK_AGAIN, Description
from .local_copy import LocalCopy, read_shard

AT_ONCE = 24
"""Requests of a process: as many as its client keeps connections for."""
RUN_BYTES = 4 << 20
"""Of rows that follow one another and are asked for in one request, at most."""
WORTH_WAITING_BYTES = 32 << 20
"""Of missing rows, from which on their shards are waited for: they would be fetched twice."""


class SetReader:
    """Reads rows of a packed set by their numbers in it.

    Args:
        files: the packed set.
        hashes: (N,) uint64, of the pixels of each row.
        copy: on this machine; None where there is no room for one.
    """

    def __init__(
        self,
        files: Files,
        description: Description,
        hashes: NDArray[np.uint64],
        copy: LocalCopy | None,
    ) -> None:
        self.files, self.description, self.hashes, self.copy = files, description, hashes, copy
        self._firsts = np.array([shard.first for shard in description.shards])
        self._row_bytes = int(np.prod(description.image_shape))

    def gather(self, rows: Indices, out: Pixels | None = None) -> Pixels:
        """Return rows (B,), as (B, C, H, W), written into `out` if it is given.

        Raises:
            DataProblem: a row that cannot be read, or is not what was packed.
        """
        if out is None:
            out = np.empty((len(rows), *self.description.image_shape), np.uint8)
        missing = np.arange(len(rows))
        if (copy := self.copy) is not None:
            if copy.store.is_whole:
                return np.take(copy.rows, rows, axis=0, out=out, mode="clip")
            copy.check()
            lacking = self._lacking(copy, rows)
            if lacking.any():
                copy.want(rows[lacking])
            if lacking.sum() * self._row_bytes > WORTH_WAITING_BYTES:
                copy.wait_for(rows[lacking])
                lacking = self._lacking(copy, rows)
            present, missing = np.flatnonzero(~lacking), np.flatnonzero(lacking)
            out[present] = copy.rows[rows[present]]
        if len(missing):
            self._read(rows, missing, out)
        return out

    @staticmethod
    def _lacking(copy: LocalCopy, rows: Indices) -> NDArray[np.bool_]:
        return ~copy.store.is_ready(copy.store.pieces_of(rows))

    def _read(self, rows: Indices, which: Indices, out: Pixels) -> None:
        """Read `rows[which]` from the set into `out[which]`, many requests at a time."""

        def read(run: Indices) -> None:
            out[run] = self._run(rows[run])

        runs = list(self._runs(rows, which))
        if len(runs) == 1:
            read(runs[0])
        else:
            list(self._pool.map(read, runs))

    def _runs(self, rows: Indices, which: Indices) -> Iterator[Indices]:
        """Yield `which` in parts whose rows follow one another in one shard."""
        order = which[np.argsort(rows[which], kind="stable")]
        of_shard = np.searchsorted(self._firsts, rows[order], side="right")
        most = max(1, RUN_BYTES // self._row_bytes)
        follows = (np.diff(rows[order]) == 1) & (np.diff(of_shard) == 0)
        for run in np.split(order, np.flatnonzero(~follows) + 1):
            yield from (run[i : i + most] for i in range(0, len(run), most))

    def _run(self, rows: Indices) -> Pixels:
        """Return rows that follow one another in a shard, from the set."""
        shard = self.description.shards[
            int(np.searchsorted(self._firsts, rows[0], side="right")) - 1
        ]
        start = (int(rows[0]) - shard.first) * self._row_bytes
        for _ in range(2):  # a second time where the first answer was damaged on its way
            content = read_shard(self.files, shard, start, len(rows) * self._row_bytes)
            if len(content) == len(rows) * self._row_bytes:
                pixels = np.frombuffer(content, np.uint8).reshape(len(rows), -1)
                hashes = np.frombuffer(b"".join(map(hash_of, pixels)), np.uint64)
                if (hashes == self.hashes[rows]).all():
                    return pixels.reshape(len(rows), *self.description.image_shape)
        raise DataProblem(
            f"{self.files.uri_of(shard.file)}: damaged, a row is not what was packed", PACK_AGAIN
        )

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(AT_ONCE, "rows")


@dataclass(frozen=True, eq=False)
class SetRows:
    """A block of a set's rows, used as an array (N, C, H, W) of which every part is read when it is asked for.

    Args:
        reader: of the set.
        first: row of the set.
        count: of rows.
    """

    reader: SetReader
    first: int
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return self.count, *self.reader.description.image_shape

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """uint8."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        """Return N."""
        return self.count

    def __getitem__(self, key: Any) -> Any:
        """Return the images of an index, a slice, an array of indices (B,) or a mask (N,), as an array."""
        chosen = np.arange(self.count)[key]
        if chosen.ndim == 0:
            return self.gather(chosen[None])[0]
        return self.gather(chosen)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all images in memory, for what needs an array."""
        return self.gather(np.arange(self.count)).astype(dtype or np.uint8, copy=False)

    def gather(self, indices: Indices, out: Pixels | None = None) -> Pixels:
        """Return the images at `indices` (B,), written into `out` if it is given."""
        if len(indices) and not -self.count <= indices.min() <= indices.max() < self.count:
            raise IndexError(f"an index outside of {self.count} images")
        return self.reader.gather(self.first + indices % self.count, out)
