"""A balanced set that `whipray balance` wrote: real images, and generated ones where classes lack some."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from ..errors import DataProblem
from ..integrity import Altered, unseal
from .decoding import UNREAD, read_contents
from .encoded import EncodedImages
from .encoded_config import EncodedConfig
from .encoded_splits import EncodedSplits
from .packed import Indices
from .report import listed, shown

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

FORMAT = 1
"""Of the manifest and of what `DESCRIPTION` holds; raise it when a field changes its meaning."""
DESCRIPTION = "balanced.json"
"""Written last: a set is whole when it has this file."""
ROWS = "manifest.parquet"
"""A row for each image, in the order in which images are trained on."""
TRAIN, TEST = "train", "test"
"""Splits of a set."""


class Balanced(EncodedConfig):
    """The set in a folder, in whichever form it was written; its test images are compared with."""

    source: Literal["balanced"] = "balanced"
    path: Path
    """The folder that `whipray balance --out` wrote."""
    image_size: int = Field(default=32, ge=1)
    """Height and width in pixels; a set of another size is resized."""

    def prepare(self, cache: Path) -> EncodedSplits:
        """Return which images are of which split; see `EncodedConfig`.

        Raises:
            DataProblem: also where `validation` is set, which would set generated images apart.
        """
        if self.validation is not None:
            raise DataProblem(
                "data.validation sets images apart to compare with, and those of a balanced set are in part generated",
                "set data.validation=null: a balanced set has its test images",
            )
        stored = StoredSet.read(self.path.expanduser())
        train, test = stored.images(TRAIN), stored.images(TEST)
        if cache != UNREAD:
            for split, images in ((TRAIN, train), (TEST, test)):
                stored.check_unchanged(split, images, cache)
        splits = self.choose(cache, train, test, stored.class_names)
        return replace(splits, borrowed=tuple(stored.about["borrowed"]))


@dataclass(frozen=True, eq=False)
class StoredSet:
    """A whole balanced set in a folder."""

    folder: Path
    about: Mapping[str, Any]
    """Content of `DESCRIPTION`."""

    @staticmethod
    def read(folder: Path) -> StoredSet:
        """Open the set in a folder.

        Raises:
            DataProblem: none, one that is not whole, or one of another format.
        """
        file = folder / DESCRIPTION
        try:
            about = unseal(file.read_text(encoding="utf-8"))
        except (OSError, Altered, UnicodeDecodeError) as error:
            lacking = isinstance(error, FileNotFoundError)
            raise DataProblem(
                f"{shown(file)}: {'missing' if lacking else 'cannot be read'}, so this is no whole balanced set",
                "correct data.path; or give the same `whipray balance --out` again, which completes it",
            ) from error
        if about.get("format") != FORMAT:
            raise DataProblem(
                f"{shown(file)}: format {about.get('format')}, not {FORMAT}",
                "balance again into another folder with this version of Whipray",
            )
        return StoredSet(folder, about)

    @property
    def class_names(self) -> tuple[str, ...]:
        """By class id."""
        return tuple(self.about["class_names"])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images as they were written."""
        channels, height, width = self.about["image_shape"]
        return channels, height, width

    @cached_property
    def rows(self) -> pa.Table:
        """The rows of the images that are in the set.

        Raises:
            DataProblem: a manifest that is missing, or not the one that was written.
        """
        import pyarrow as pa
        from pyarrow import parquet

        file = self.folder / ROWS
        try:
            content = file.read_bytes()
            if hashlib.sha256(content).hexdigest() != self.about["manifest"]:
                raise OSError("its hash does not match")
            table = parquet.read_table(pa.BufferReader(content))
        except (OSError, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DataProblem(
                f"{shown(file)}: cannot be read ({reason})",
                "give the same `whipray balance --out` again, which mends it",
            ) from error
        return table.filter(table["kept"])

    def images(self, split: str) -> EncodedImages:
        """Return the images of a split, in the manifest's order.

        Raises:
            DataProblem: as `rows`, or a shard that is missing.
        """
        import pyarrow.compute as pc  # type: ignore[import-untyped]

        rows = self.rows.filter(pc.equal(self.rows["split"], split))
        files: list[str] = rows["file"].to_pylist()
        labels = rows["class_id"].to_numpy().astype(np.int64)
        if self.about["form"] != "parquet":
            return EncodedImages(
                files, labels, lambda i: shown(self.folder / files[i]), root=self.folder
            )
        shards = {file: _images_in(self.folder / file) for file in dict.fromkeys(files)}
        of_shard = rows["row"].to_pylist()
        items = [shards[file][row] for file, row in zip(files, of_shard, strict=True)]
        return EncodedImages(
            items, labels, lambda i: f"{shown(self.folder / files[i])}, row {of_shard[i]}"
        )

    def check_unchanged(self, split: str, images: EncodedImages, cache: Path) -> None:
        """Check that images hold the bytes that were written.

        Raises:
            DataProblem: naming the ones that do not.
        """
        import pyarrow.compute as pc

        rows = self.rows.filter(pc.equal(self.rows["split"], split))
        written = b"".join(bytes.fromhex(each)[:8] for each in rows["sha256"].to_pylist())
        others = read_contents(images, cache).hashes != np.frombuffer(written, "<u8")
        changed: Indices = np.flatnonzero(others)
        if changed.size:
            raise DataProblem(
                f"not the images that were written: {listed([images.name(int(i)) for i in changed])}",
                "give the same `whipray balance --out` again, which mends them; or read what you made of "
                "them with data.source=folder",
            )


def _images_in(file: Path) -> list[bytes]:
    """Return the encoded images of a shard, by row."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        column = parquet.read_table(file, columns=["image"])["image"]
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DataProblem(
            f"{shown(file)}: cannot be read ({reason})",
            "give the same `whipray balance --out` again, which mends it",
        ) from error
    return [image["bytes"] for image in column.to_pylist()]
