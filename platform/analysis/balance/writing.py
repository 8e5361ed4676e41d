"""Write a balanced set into a folder: whole files, none twice, the description last."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....trainers.data.balanced import DESCRIPTION, FORMAT, ROWS, TEST, TRAIN, StoredSet
from ....trainers.data.decoding import UNREAD
from ....trainers.data.packed import Pixels
from ....trainers.errors import DataProblem
from ....trainers.integrity import seal
from ....trainers.whole_files import PARTIAL
from .folder import check_folder, claim, claimed, errors_of, put
from .manifest import Chunk, Form, SetContent, folders_of, manifest
from .pictures import encode, is_image
from .shards import read_shard, write_shard

PAGE = "datasheet.html"
PROBED = 64
"""Images, evenly spaced, whose sizes tell how much room the set takes."""
REPORTED = 500
"""Files after which a line says how many are written."""
BLOCK = 4096
"""Bytes that a small file takes on disk."""


@dataclass(frozen=True)
class WrittenSet:
    """A whole set in a folder."""

    folder: Path
    form: Form
    images: int
    written: int
    """Images that did not exist before; 0 where the set was whole."""


def write_set(
    content: SetContent,
    folder: Path,
    form: Form,
    page: Callable[[], str],
    on_phase: Callable[[str], None] = lambda _line: None,
) -> WrittenSet:
    """Write a set; images that are in the folder as they should be are not written again.

    Args:
        page: returns the datasheet, which is written beside the images.

    Raises:
        UsageProblem: the folder holds something else, or another command is writing it.
        DiskProblem: no room, or the folder cannot be written.
    """
    from pyarrow import parquet  # type: ignore[import-untyped]

    check_folder(folder, content.identity, form)
    if _is_whole(folder):
        return WrittenSet(folder, form, content.images, 0)
    needed = bytes_needed(content, folder, form)
    with errors_of(folder, needed), claimed(content, folder, form):
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        writer = _Writer(
            content,
            folder,
            form,
            lambda n: on_phase(f"writing images: {n:,} of {content.images:,}"),
        )
        for chunk in content.chunks():
            writer.add(chunk)
        table = io.BytesIO()
        rows = writer.rows if form == "parquet" else None
        parquet.write_table(manifest(content, writer.files, rows, writer.hashes), table)
        os.sync()  # images are renamed without a sync of each: the description must not outlive them
        put(folder / ROWS, table.getvalue())
        put(folder / PAGE, page().encode())
        about = {
            **claim(content, form),
            "format": FORMAT,
            "class_names": list(content.splits.train.class_names),
            "image_shape": list(content.splits.train.image_shape),
            "borrowed": list(content.splits.borrowed),
            "manifest": hashlib.sha256(table.getvalue()).hexdigest(),
            **content.about,
        }
        put(folder / DESCRIPTION, json.dumps(seal(about), indent=1).encode())
    return WrittenSet(folder, form, content.images, writer.written)


def bytes_needed(content: SetContent, folder: Path, form: Form) -> int:
    """Return about how many bytes the images take that are not in the folder yet."""
    chunks = [chunk for chunk in content.chunks() if not _exists(chunk, folder, form)]
    missing = sum(len(chunk.rows) for chunk in chunks)
    if not missing:
        return 0
    train = content.splits.train.images
    some = np.unique(np.linspace(0, len(train) - 1, PROBED).round().astype(np.int64))
    sizes = [len(encode(train[i])) for i in some]
    if form != "parquet":
        sizes = [-(-size // BLOCK) * BLOCK for size in sizes]
    return int(missing * sum(sizes) / len(sizes))


class _Writer:
    """Writes the chunks of a set one after the other."""

    def __init__(
        self, content: SetContent, folder: Path, form: Form, on_images: Callable[[int], None]
    ) -> None:
        self.folder, self.form, self.on_images = folder, form, on_images
        self.class_names = content.splits.train.class_names
        self.folders = folders_of(form, self.class_names)
        self.files: list[str] = []
        self.rows: list[int] = []
        self.hashes: list[str] = []
        self.written = 0

    def add(self, chunk: Chunk) -> None:
        """Write the images of a chunk that are not in the folder."""
        self.on_images(len(self.hashes))
        pixels = chunk.pixels()
        names = [
            f"{self.folders[label]}/{name}"
            for label, name in zip(chunk.labels.tolist(), chunk.names, strict=True)
        ]
        if self.form == "parquet":
            self._add_shard(chunk, names, pixels)
            return
        files = [f"{chunk.split}/{name}" for name in names]
        for folder in {file.rpartition("/")[0] for file in files}:
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor() as pool:  # Pillow releases the interpreter's lock
            for digest, is_new in pool.map(self._write_image, files, pixels):
                self.hashes.append(digest)
                self.written += is_new
                if len(self.hashes) % REPORTED == 0:
                    self.on_images(len(self.hashes))
        self.files += files

    def _write_image(self, file: str, pixels: Pixels) -> tuple[str, bool]:
        """Return the hash of an image's file, and whether it is new."""
        path = self.folder / file
        with suppress(FileNotFoundError):
            data = path.read_bytes()
            if is_image(data, pixels):
                return hashlib.sha256(data).hexdigest(), False
        data = encode(pixels)
        partial = path.with_name(f".{path.name}{PARTIAL}")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        return hashlib.sha256(data).hexdigest(), True

    def _add_shard(self, chunk: Chunk, names: Sequence[str], pixels: Pixels) -> None:
        path = self.folder / chunk.file
        with ThreadPoolExecutor() as pool:
            images = read_shard(path, names)
            if images is None or not all(pool.map(is_image, images, pixels)):
                images = list(pool.map(encode, pixels))
                write_shard(path, chunk, names, images, self.class_names)
                self.written += len(images)
        self.files += [chunk.file] * len(names)
        self.rows += range(len(names))
        self.hashes += [hashlib.sha256(image).hexdigest() for image in images]


def _exists(chunk: Chunk, folder: Path, form: Form) -> bool:
    """Return whether a chunk's files are in the folder, whatever they hold."""
    if form == "parquet":
        return (folder / chunk.file).exists()
    folders = folders_of(form, chunk.content.splits.train.class_names)
    pairs = zip(chunk.labels.tolist(), chunk.names, strict=True)
    return all((folder / chunk.split / folders[c] / name).exists() for c, name in pairs)


def _is_whole(folder: Path) -> bool:
    """Return whether a folder has every image of the set that it describes, each as it was written."""
    try:
        stored = StoredSet.read(folder)
        for split in (TRAIN, TEST):
            stored.check_unchanged(split, stored.images(split), UNREAD)
    except DataProblem:
        return False
    return (folder / PAGE).exists()
