"""A packed set as a source: what `whipray data pack` made of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..errors import DataProblem
from .locations import Location, open_files
from .packed_set import open_packed_set, read_description
from .progress import OnPhase, quiet
from .source import SourceConfig, Splits


class Packed(SourceConfig):
    """Decoded images in a folder or a bucket, exactly the two splits of the source that they were packed from."""

    source: Literal["packed"] = "packed"
    path: Location
    """The folder or s3:// address that the set was packed to."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width), as the set says."""
        return read_description(open_files(self.path)).image_shape

    def load(self, cache: Path, on_phase: OnPhase = quiet) -> Splits:
        """Open both splits; see `SourceConfig`.

        Raises:
            DataProblem: also where a tail or a validation split is asked for, which are made by packing.
        """
        if self.validation is not None or self.long_tail.kind != "none":
            raise DataProblem(
                "data.long_tail and data.validation choose among images as they are packed, not of a packed set",
                "pack the source with them, and leave them out here",
            )
        on_phase(f"opening {self.path}")
        return open_packed_set(open_files(self.path), cache)
