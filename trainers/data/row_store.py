"""Rows of one size in a file of this machine, filled piece by piece by any of its processes.

The file is sparse and as long as all rows from the start, so that every process maps the same one. Beside it
lie two maps of one byte a piece, of what was written and of what was checked since the machine was started, and
a file of locks. The lock of a piece goes with its process, so what a killed one had begun is begun again.
Nothing is synced: what a machine that lost its power had not written yet is found by the check.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from .packed import Indices, Pixels

ROWS, WRITTEN, CHECKED, LOCKS = "rows.bin", "written", "checked", "locks"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
CHECKS_KEPT_S = 30 * 24 * 3600.0
"""Of earlier starts of a machine, or of others that share the folder."""
OF_MEMORY = 0.25
"""Share of this machine's memory, above which rows are not expected to stay in it once they were read."""

_opened: WeakValueDictionary[tuple[int, Path], RowStore] = WeakValueDictionary()
_opening = threading.Lock()


def open_rows(folder: Path, firsts: Indices, row_bytes: int) -> RowStore:
    """Return the rows in a folder, which is created when needed; the same object where it is open already.

    Each process must have the locks' file open once: closing it anywhere would end all of its locks.

    Args:
        firsts: (pieces + 1,), the first row of each piece, and the number of rows.

    Raises:
        OSError: the folder cannot be written.
    """
    key = os.getpid(), folder.absolute()
    with _opening:
        store = _opened.get(key)
        if store is None or not store.is_in_folder():
            store = _opened[key] = RowStore(folder, firsts, row_bytes)
        else:
            store.begin()
    return store


class RowStore:
    """The rows in one folder; open it by `open_rows`."""

    def __init__(self, folder: Path, firsts: Indices, row_bytes: int) -> None:
        self.folder, self.firsts, self.row_bytes = folder, firsts, row_bytes
        self.pieces, self.rows = len(firsts) - 1, int(firsts[-1])
        self._held: set[int] = set()
        self._held_lock = threading.Lock()
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
        self._locks, self._data = _File(folder / LOCKS), _File(folder / ROWS)
        self._written = _File(folder / WRITTEN)
        boot = ""
        with suppress(OSError):
            boot = BOOT_ID.read_text().strip()
        self._checked = _File(folder / f"{CHECKED}-{boot}", may_be_private=True)
        self.begin()
        self._ready = np.frombuffer(_mapped(self._checked.fd, self.pieces), np.uint8)

    def begin(self) -> None:
        """Make the files, and see to it that what was changed since it was written is checked again.

        Raises:
            OSError: they cannot be written.
        """
        with self._lock(self.pieces):
            rows, size = os.fstat(self._data.fd), self.rows * self.row_bytes
            if rows.st_size != size or os.fstat(self._written.fd).st_size != self.pieces:
                for file in (self._written, self._checked):
                    self._clear(file)
                os.ftruncate(self._data.fd, size)
            checked = os.fstat(self._checked.fd)
            is_written = os.pread(self._written.fd, self.pieces, 0) == b"\1" * self.pieces
            newest = max(file.stat().st_mtime_ns for file in self.folder.glob("*.bin"))
            was_changed = is_written and newest > checked.st_mtime_ns
            if checked.st_size != self.pieces or was_changed:
                self._clear(self._checked)
                for other in self.folder.glob(f"{CHECKED}-*"):
                    with suppress(OSError):
                        if time.time() - other.stat().st_mtime > CHECKS_KEPT_S:
                            other.unlink()

    def _clear(self, file: _File) -> None:
        """Say of all pieces that they are missing; never shorter, as another process may have it mapped."""
        os.ftruncate(file.fd, self.pieces)
        os.pwrite(file.fd, bytes(self.pieces), 0)

    def is_in_folder(self) -> bool:
        """Return whether the folder still has these files: it may have been removed and made again."""
        with suppress(OSError):
            return os.fstat(self._data.fd).st_ino == (self.folder / ROWS).stat().st_ino
        return False

    def is_ready(self, pieces: Indices) -> NDArray[np.bool_]:
        """Return of which pieces (B,) the rows are there and are what was to be written."""
        ready: NDArray[np.bool_] = self._ready[pieces] == 1
        return ready

    @property
    def is_whole(self) -> bool:
        """Whether every piece is ready."""
        return bool((self._ready == 1).all())

    @property
    def rows_ready(self) -> int:
        """Number of rows of pieces that are ready."""
        return int(np.diff(self.firsts)[self._ready == 1].sum())

    def is_written(self, piece: int) -> bool:
        """Return whether somebody has written a piece, of which it may not be known that it is still right."""
        return os.pread(self._written.fd, 1, piece) == b"\1"

    def pieces_of(self, rows: Indices) -> Indices:
        """Return the piece of each row, (B,)."""
        return np.searchsorted(self.firsts, rows, side="right") - 1

    def rows_of(self, piece: int) -> slice:
        """Return the rows of a piece."""
        return slice(int(self.firsts[piece]), int(self.firsts[piece + 1]))

    def array(self, image_shape: tuple[int, int, int]) -> Pixels:
        """Return all rows, (N, C, H, W), as a read-only map of the file."""
        size = self.rows * self.row_bytes
        mapped = _mapped(self._data.fd, size)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if size > OF_MEMORY * memory:
            mapped.madvise(mmap.MADV_RANDOM)  # else each row would bring in its neighbours too
        return np.frombuffer(mapped, np.uint8).reshape(self.rows, *image_shape)

    @contextmanager
    def claim(self, piece: int) -> Iterator[bool]:
        """Inside, this thread alone works on a piece, of all threads and processes; False where another does."""
        with self._held_lock:
            is_free = piece not in self._held
            if is_free:
                self._held.add(piece)
        if not is_free:
            yield False
            return
        try:
            with self._lock(piece, wait=False) as is_ours:
                yield is_ours
        finally:
            with self._held_lock:
                self._held.discard(piece)

    def write(self, row: int, content: bytes | memoryview, offset: int = 0) -> None:
        """Write bytes from a row on; `mark` says when a piece is whole.

        Args:
            offset: in bytes, from the row's first.

        Raises:
            OSError: they cannot be written.
        """
        position, view = row * self.row_bytes + offset, memoryview(content)
        while view:
            written = os.pwrite(self._data.fd, view, position)
            position, view = position + written, view[written:]

    def read(self, rows: slice) -> bytes:
        """Return the bytes of a block of rows."""
        count = (rows.stop - rows.start) * self.row_bytes
        return os.pread(self._data.fd, count, rows.start * self.row_bytes)

    def mark(self, piece: int) -> None:
        """Say of a piece that it is written and right."""
        if not self.is_written(piece):
            os.pwrite(self._written.fd, b"\1", piece)
        os.pwrite(self._checked.fd, b"\1", piece)

    def forget(self) -> None:
        """Say of all pieces that they are missing."""
        for file in (self._written, self._checked):
            self._clear(file)

    @contextmanager
    def _lock(self, byte: int, wait: bool = True) -> Iterator[bool]:
        """Inside, a byte of the locks' file is locked against other processes; False where it was not free."""
        try:
            fcntl.lockf(self._locks.fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
        except (BlockingIOError, PermissionError):  # both are what a lock of another gives
            yield False
            return
        except (
            OSError
        ):  # a file system without locks, or read-only: work done twice is the same work
            yield True
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._locks.fd, fcntl.LOCK_UN, 1, byte)


class _File:
    """An open file descriptor, closed with its object; read-only where the disk is.

    Args:
        may_be_private: make one in memory, of this process alone, where none can be made.
    """

    def __init__(self, path: Path, may_be_private: bool = False) -> None:
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
            if may_be_private:
                self.fd = os.memfd_create(path.name)
            else:
                self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


def _mapped(fd: int, size: int) -> mmap.mmap:
    return mmap.mmap(fd, size, prot=mmap.PROT_READ)
