"""Opening of a packed set: its two splits, without waiting for their pixels."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache as cache_once
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...disk import writing
from ...errors import DataProblem
from ...integrity import Altered, load_arrays
from ...scratch import Scratch
from ...whole_files import whole_file
from ..decoding import UNREAD
from ..files import Files
from ..packed import Images, Indices, PackedImages
from ..report import DataReport
from ..source import Splits
from .description import INDEX, PACK_AGAIN, Description, names_of, read_description
from .local_copy import LocalCopy
from .rows import SetReader, SetRows

FOLDER = "sets"
"""Of the cache: a folder for each set, by its rows."""
KEPT_FREE_BYTES = 2 << 30
"""Of a disk, for others: a copy that would leave less is not made."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """A fingerprint that a set says of one of its splits."""

    fingerprint: str

    def get(
        self,
        labels: Indices,  # noqa: ARG002
        class_names: tuple[str, ...],  # noqa: ARG002
        compute: Callable[[], str],  # noqa: ARG002
    ) -> str:
        """Return it."""
        return self.fingerprint


def open_packed_set(files: Files, cache: Path) -> Splits:
    """Return both splits of a packed set, exactly those of the source that it was packed from.

    Pixels are fetched into the cache in the background, once for all processes of the machine, or read row by
    row where the disk is too small. What is asked for before it is there is waited for or read by itself.

    Args:
        files: the folder or prefix of the set.
        cache: folder of local copies; for `UNREAD` no pixel is read, and nothing written.

    Raises:
        DataProblem: no whole packed set, or one that is damaged.
        DiskProblem: a cache that cannot be written.
    """
    description = read_description(files)
    if cache == UNREAD:
        scratch = Scratch()
        index = _index_file(files, description, Path(scratch.name))
        arrays, names = _read_index(index, files), names_of(index)
        scratch.cleanup()
        copy = None
    else:
        folder = cache / FOLDER / description.identity
        index = _index_file(files, description, folder)
        arrays, names = _read_index(index, files), None
        copy = _local_copy(files, description, folder)
    reader = SetReader(files, description, arrays["hashes"], copy)

    def split(rows: tuple[int, int], fingerprint: str) -> PackedImages:
        labels = arrays["labels"][rows[0] : rows[1]]
        images: Images = SetRows(reader, rows[0], rows[1] - rows[0])
        if copy is not None and copy.store.is_whole:
            images = copy.rows[rows[0] : rows[1]]
        return PackedImages(images, labels, description.class_names, Known(fingerprint))

    @cache_once
    def every_name() -> list[
        str
    ]:  # most runs need none, and of a million images they take some memory
        return names_of(index) if names is None else names

    def train_name(i: int) -> str:
        return every_name()[description.train[0] + i]

    return Splits(
        split(description.train, description.train_fingerprint),
        split(description.reference, description.reference_fingerprint),
        DataReport(description.notes),
        available=description.available,
        hold_out=description.hold_out,
        validation=description.validation,
        borrowed=description.borrowed,
        train_name=train_name,
    )


def _local_copy(files: Files, description: Description, folder: Path) -> LocalCopy | None:
    """Return the copy on this machine, which is begun or gone on with; None where it has no room."""
    copy = LocalCopy(files, description, folder)
    there = (folder / "rows.bin").stat().st_blocks * 512
    lacking = description.bytes - there
    free = shutil.disk_usage(folder).free
    if not copy.store.is_whole and lacking + KEPT_FREE_BYTES > free:
        log.warning(
            "%s: %.1f GB of %s do not fit into %.1f GB of free space: rows are read from there as they are needed",
            *(folder, lacking / 1e9, files.uri, free / 1e9),
        )
        return None
    copy.start()
    return copy


def _index_file(files: Files, description: Description, folder: Path) -> Path:
    """Return the set's index in a folder of this machine, fetched when it is not there."""
    file = folder / f"index-{description.index_sha256[:16]}.safetensors"
    with suppress(OSError):
        if hashlib.sha256(file.read_bytes()).hexdigest() == description.index_sha256:
            return file
    for _ in range(2):
        content = files.read(INDEX)
        if hashlib.sha256(content).hexdigest() == description.index_sha256:
            break
    else:
        raise DataProblem(f"{files.uri_of(INDEX)}: damaged", PACK_AGAIN)
    with writing(folder, len(content)), whole_file(file) as stream:
        stream.write(content)
    return file


def _read_index(file: Path, files: Files) -> dict[str, NDArray[Any]]:
    """Return what is needed of an index: labels and hashes."""
    try:
        arrays = load_arrays(file)
    except Altered as error:
        raise DataProblem(f"{files.uri_of(INDEX)}: damaged", PACK_AGAIN) from error
    return {name: arrays[name] for name in ("labels", "hashes")}
