"""Write a balanced set into a folder: whole files, none twice, the description last."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....trainers.data.balanced import DESCRIPTION, FORMAT, ROWS, TEST, TRAIN, StoredSet
from ....trainers.data.decoding import UNREAD
from ....trainers.data.packed import Pixels as OnePixels
from ....trainers.data.report import listed, shown
from ....trainers.disk import DiskProblem, describe_full_disk, disk_problem
from ....trainers.errors import DataProblem, UsageProblem
from ....trainers.integrity import Altered, seal, unseal
from ...storage.local_files import PARTIAL, whole_file
from .manifest import SHARDS, Chunk, Form, SetContent, folders_of, manifest
from .shards import read_shard, write_shard

UNFINISHED = ".balancing.json"
"""Which set a folder is going to hold, while it is written."""
PAGE = "datasheet.html"
PROBED = 64
"""Images, evenly spaced, whose sizes tell how much room the set takes."""
PNG_END = b"IEND\xaeB`\x82"
BLOCK = 4096
"""Bytes that a small file takes on disk."""
KEPT = "nothing is lost: the same command then writes what is missing"


@dataclass(frozen=True)
class WrittenSet:
    """A whole set in a folder."""

    folder: Path
    form: Form
    images: int
    written: int
    """Images that were not there before; 0 where the set was whole."""


def check_folder(folder: Path, content_identity: str | None, form: Form) -> None:
    """Check that a set can go into a folder.

    Args:
        content_identity: `SetContent.identity`; None before it is known, when a set of any is let pass.

    Raises:
        UsageProblem: the folder holds something else.
        DiskProblem: it cannot be written.
    """
    another = "give another --out"
    try:
        if folder.exists() and not folder.is_dir():
            raise UsageProblem(f"{shown(folder)} is a file", another)
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        above = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "Permission denied", str(above))
    except (OSError, ValueError) as error:
        raise _not_written(folder, error) from error
    if not names:
        return
    known = _known_set(folder)
    if known is None:
        raise UsageProblem(
            f"{shown(folder)} already holds {listed([shown(name) for name in names[:3]])}"
            + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
            f"{another}, or remove what is in it",
        )
    if content_identity is not None and (known.get("identity"), known.get("form")) != (
        content_identity,
        form,
    ):
        raise UsageProblem(
            f"{shown(folder)} holds another balanced set: {shown(known.get('title', 'of unknown origin'))}, "
            f"as {shown(known.get('form'))}",
            f"{another}, or remove that folder",
        )


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
    with _errors_of(folder, needed), _claimed(content, folder, form):
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        writer = _Writer(content, folder, form)
        for chunk in content.chunks():
            writer.add(chunk)
            on_phase(f"writing images: {len(writer.files):,} of {content.images:,}")
        rows = io.BytesIO()
        places = writer.places if form == "parquet" else None
        parquet.write_table(manifest(content, writer.files, places, writer.hashes), rows)
        os.sync()  # images are renamed without a sync of each: the description must not outlive them
        _put(folder / ROWS, rows.getvalue())
        _put(folder / PAGE, page().encode())
        about = {
            **_claim(content, form),
            "format": FORMAT,
            "class_names": list(content.splits.train.class_names),
            "image_shape": list(content.splits.train.image_shape),
            "borrowed": list(content.splits.borrowed),
            "manifest": hashlib.sha256(rows.getvalue()).hexdigest(),
            **content.about,
        }
        _put(folder / DESCRIPTION, json.dumps(seal(about), indent=1).encode())
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


def encode(pixels: OnePixels) -> bytes:
    """Return an image (C, H, W) as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(_as_picture(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def _as_picture(pixels: OnePixels) -> OnePixels:
    return pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))


def is_image(data: bytes, pixels: OnePixels) -> bool:
    """Return whether bytes are an image of just these pixels (C, H, W)."""
    from PIL import Image

    if not data.endswith(PNG_END):  # Pillow reads a file without it
        return False
    # a damaged file makes Pillow raise almost anything
    with suppress(Exception), Image.open(io.BytesIO(data)) as image:
        return np.array_equal(np.asarray(image), _as_picture(pixels))
    return False


class _Writer:
    """Writes the chunks of a set one after the other."""

    def __init__(self, content: SetContent, folder: Path, form: Form) -> None:
        self.folder, self.form = folder, form
        self.class_names = content.splits.train.class_names
        self.folders = folders_of(form, self.class_names)
        self.files: list[str] = []
        self.places: list[int] = []
        self.hashes: list[str] = []
        self.written = 0

    def add(self, chunk: Chunk) -> None:
        """Write the images of a chunk that are not in the folder."""
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
        self.files += files

    def _write_image(self, file: str, pixels: OnePixels) -> tuple[str, bool]:
        """Return the hash of an image's file, and whether it was not there."""
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

    def _add_shard(self, chunk: Chunk, names: Sequence[str], pixels: OnePixels) -> None:
        path = self.folder / chunk.file
        with ThreadPoolExecutor() as pool:
            images = read_shard(path, names)
            if images is None or not all(pool.map(is_image, images, pixels)):
                images = list(pool.map(encode, pixels))
                write_shard(path, chunk, names, images, self.class_names)
                self.written += len(images)
        self.files += [chunk.file] * len(names)
        self.places += range(len(names))
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


def _known_set(folder: Path) -> Mapping[str, Any] | None:
    """Return what the set in a folder is known by, whole or not; None where there is none."""
    for name in (DESCRIPTION, UNFINISHED):
        with suppress(OSError, Altered, UnicodeDecodeError):
            return unseal((folder / name).read_text(encoding="utf-8"))
    return None


def _claim(content: SetContent, form: Form) -> dict[str, Any]:
    """Return what a set is known by."""
    return {"identity": content.identity, "form": form, "title": content.about["title"]}


@contextmanager
def _claimed(content: SetContent, folder: Path, form: Form) -> Iterator[None]:
    """Inside, the folder says which set it is going to hold, and no other command writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                what = f"{shown(folder)}: another command is writing this set"
                raise UsageProblem(what, "wait for its end") from error
        _put(folder / UNFINISHED, json.dumps(seal(_claim(content, form))).encode())
        yield
        (folder / UNFINISHED).unlink()
        for below in (folder, folder / SHARDS):  # of commands that were killed
            for partial in below.glob(f".*{PARTIAL}"):
                partial.unlink()
    finally:
        os.close(lock)


def _put(path: Path, data: bytes) -> None:
    with whole_file(path) as stream:
        stream.write(data)


@contextmanager
def _errors_of(folder: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _not_written(folder, error, needed) from error


def _not_written(folder: Path, error: OSError | ValueError, needed: int | None = None) -> Exception:
    if not isinstance(error, OSError):
        return UsageProblem(f"{shown(folder)}: cannot be a folder ({error})", "give another --out")
    problem = disk_problem(error, folder, needed)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = f"{shown(folder)}: {describe_full_disk(folder, needed)}"
        return DiskProblem(what, f"free space there, or give another --out; {KEPT}")
    return DiskProblem(problem.what, f"make it writable, or give another --out; {KEPT}")
