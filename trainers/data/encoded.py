"""Labelled images of one split before they are decoded: files, parts of files, or bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from ..errors import DataProblem
from .files import FileFacts, Files
from .locations import open_files
from .packed import Indices
from .parquet_cells import Cell, CellReader
from .report import LISTED, PATH_SHOWN, Note, raise_together, shown

FileState = tuple[int | str, ...]
"""What says of a file that it is as before: see `EncodedImages.states`."""


class Span(NamedTuple):
    """An image that is a part of a file, such as a member of a tar archive."""

    file: str
    start: int
    length: int


Item = str | bytes | Span | Cell
"""An image: a file's name, its encoded bytes, or a part of a file."""


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Labelled images of one split, as files, parts of files, or bytes.

    Args:
        items: files and parts of files have names relative to `root`.
        labels: (N,) int64.
        name: gives what error messages call the image at an index: its file, line or row.
        root: folder of the names, or files of a bucket.
        notes: what was found beside them.
        facts: of the files of a bucket, as they were listed.
    """

    items: Sequence[Item]
    labels: Indices
    name: Callable[[int], str]
    root: Path | Files = Path()
    notes: tuple[Note, ...] = ()
    facts: Mapping[str, FileFacts] | None = None
    cells: CellReader | None = None
    """Keeps the row groups that were read last; shared by the selections of these images."""

    def select(self, indices: Indices) -> EncodedImages:
        """Return the images at `indices` (M,), in that order, under their own names."""
        return replace(
            self,
            items=[self.items[i] for i in indices],
            labels=self.labels[indices],
            name=lambda i: self.name(int(indices[i])),
            notes=(),
        )

    def detached(self) -> EncodedImages:
        """Return the same images, as they can be sent to another process or machine."""
        names = [self.name(i) for i in range(len(self.items))]
        facts = self.facts and {file: self.facts[file] for file in set(map(file_of, self.items))}
        return replace(self, name=names.__getitem__, facts=facts, cells=CellReader())

    def scattered_in_memory(self) -> EncodedImages:
        """Return the same images; rows of Parquet files in no order as bytes, which are read once.

        A row of such a file cannot be read without its row group, so in no order a group would be read as
        often as it has images.
        """
        if not self.items or not isinstance(self.items[0], Cell):
            return self
        cells = [item for item in self.items if isinstance(item, Cell)]
        order = sorted(range(len(cells)), key=lambda i: cells[i])
        content = {i: self.read(i) for i in order}
        return replace(self, items=[content[i] for i in range(len(cells))])

    @cached_property
    def files(self) -> Files:
        """The files below `root`."""
        return self.root if isinstance(self.root, Files) else open_files(self.root)

    def open(self, index: int) -> Path | io.BytesIO:
        """Return what PIL reads the image at `index` from."""
        item = self.items[index]
        if isinstance(item, str) and isinstance(self.root, Path):
            return self.root / item
        return io.BytesIO(self.read(index))

    def read(self, index: int) -> bytes:
        """Return the encoded bytes of the image at `index`.

        Raises:
            DataProblem: its file is missing or cannot be read.
        """
        match self.items[index]:
            case bytes() as content:
                return content
            case Span() as span:
                return self.files.read(span.file, span.start, span.length)
            case Cell() as cell:
                reader = self.cells or CellReader()
                return reader.read(self.files, cell)
            case str() as file:
                if isinstance(self.root, Files):
                    return self.root.read(file)
                try:
                    return (self.root / file).read_bytes()
                except OSError as error:
                    raise self.missing(index, error) from error

    @property
    def where(self) -> str:
        """Absolute address of `root`."""
        return self.root.uri if isinstance(self.root, Files) else str(self.root.absolute())

    def states(self) -> list[FileState]:
        """Return what says of each image's file that it is as before; empty for images in memory.

        Of a file of this machine size, times, inode and device: the time of the last change of the inode
        cannot be set, unlike that of the content, so a file that was replaced or written in place has
        another one, whatever tar, rsync or cp -p made of the rest. Of an object its size and version.

        Raises:
            DataProblem: naming the files that are missing.
        """
        described: list[FileState] = []
        known: dict[str, FileState] = {}
        problems: list[DataProblem] = []
        more = 0
        for index, item in enumerate(self.items):
            if isinstance(item, bytes):
                continue
            file = file_of(item)
            try:
                if file not in known:
                    known[file] = self._state(index, file)
                described.append(known[file])
            except DataProblem as problem:
                if len(problems) < LISTED:
                    problems.append(problem)
                else:
                    more += 1
        raise_together(problems, more)
        return described

    def _state(self, index: int, file: str) -> FileState:
        if isinstance(self.root, Files):
            facts = self.facts if self.facts is not None else self.root.list()
            if file not in facts:
                raise self.missing(index, FileNotFoundError(2, "no such object"))
            return facts[file].bytes, facts[file].version
        try:
            stat = (self.root / file).stat()
        except (OSError, ValueError) as error:
            raise self.missing(index, error) from error
        if not S_ISREG(stat.st_mode):
            raise DataProblem(
                f"{self.name(index)}: a folder, pipe or device, not a file",
                "put the image there, or correct the path",
            )
        return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev

    def missing(self, index: int, error: OSError | ValueError) -> DataProblem:
        """Return the problem of an image whose file cannot be read."""
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        file = file_of(self.items[index])
        where = self.root.uri_of(file) if isinstance(self.root, Files) else self.root / file
        return DataProblem(
            f"{self.name(index)}: no image at {shown(where)[:PATH_SHOWN]} ({reason})",
            "put the image there, or correct the path",
        )


def file_of(item: Item) -> str:
    """Return the name of the file that an image is in; empty for one in memory."""
    if isinstance(item, bytes):
        return ""
    return item if isinstance(item, str) else item.file
