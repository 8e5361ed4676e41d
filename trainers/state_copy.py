"""One worker's share of a training's state, in its host's memory, and its way to files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import File, Manifest, describe
from .disk import save_tensors


@dataclass(frozen=True)
class WrittenShare:
    """The files that one worker has written."""

    files: dict[str, File]
    squares: dict[str, float]
    """Kind -> sum of the squares of its numbers in these files, in float64."""


@dataclass(frozen=True)
class StateCopy:
    """This worker's share of a state; the training may go on and change the original."""

    tensors: dict[str, dict[str, Tensor]]
    """File -> `<kind>/<parameter>` -> whole fp32 tensor; empty once it is written."""
    file_of: dict[str, str]
    """`<kind>/<parameter>` -> file, of all workers."""
    copied: torch.Event | None
    """Happens when a GPU has copied the last number; None where that is so already."""

    def write(self, folder: Path) -> WrittenShare:
        """Write the files, and free the memory; on any thread, once.

        Raises:
            DiskProblem: the folder cannot be written.
        """
        if self.copied is not None:
            self.copied.synchronize()
        squares: dict[str, float] = {}
        for file, tensors in self.tensors.items():
            save_tensors(tensors, folder / file)
            for name, tensor in tensors.items():
                kind = name.partition("/")[0]
                squares[kind] = squares.get(kind, 0.0) + sum_of_squares([tensor])
        files = {file: describe(folder / file) for file in self.tensors}
        self.tensors.clear()
        return WrittenShare(files, squares)


@dataclass(frozen=True)
class Snapshot:
    """A state at one moment, of which this worker has its share in memory."""

    state: StateCopy
    described: Manifest
    """Without the files and norms, which are known once all workers have written."""

    def write(self, folder: Path) -> WrittenShare:
        """Write this worker's files; as `StateCopy.write`."""
        return self.state.write(folder)

    def manifest(self, shares: Sequence[WrittenShare]) -> Manifest:
        """Return the manifest of the checkpoint that consists of all workers' shares."""
        kinds = dict.fromkeys(name.partition("/")[0] for name in self.described.tensors)
        norms = {
            kind: math.sqrt(math.fsum(share.squares.get(kind, 0.0) for share in shares))
            for kind in kinds
        }
        files = {name: file for share in shares for name, file in share.files.items()}
        return self.described.model_copy(update={"state_norms": norms, "files": files})


def sum_of_squares(tensors: Iterable[Tensor]) -> float:
    """Return the sum of the squares of all numbers, in float64."""
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]
    return float(torch.stack(norms).square().sum()) if norms else 0.0
