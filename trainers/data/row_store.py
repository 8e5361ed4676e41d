"""Rows of one size in a file of this machine, filled piece by piece by any of its processes.

The file is sparse and as long as all rows from the start, so that every process maps the same one. Beside it
lie a map, one byte for each piece, and a file of locks. A piece is marked in the map when its rows are on
the disk; the lock of a piece goes with its process, so what a killed one had begun is begun again.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from .packed import Indices, Pixels

MISSING, DONE, UNCHECKED = 0, 1, 2
"""Of a piece: not there; there, and known to be what was written; there, and to be checked first."""
ROWS, MAP, LOCKS = "rows.bin", "map", "locks"
SEEN_BYTES = 64
"""After the pieces, in the map: when the rows were last seen whole, as `_stamp` has it."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

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
    return store


class RowStore:
    """The rows in one folder; open it by `open_rows`."""

    def __init__(self, folder: Path, firsts: Indices, row_bytes: int) -> None:
        self.folder, self.firsts, self.row_bytes = folder, firsts, row_bytes
        self.pieces, self.rows = len(firsts) - 1, int(firsts[-1])
        self._held: set[int] = set()
        self._held_lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._locks = _File(folder / LOCKS)
        self._data = _File(folder / ROWS)
        self._map = _File(folder / MAP)
        with self._lock(self.pieces):
            self._begin()
        self._marks = np.frombuffer(_mapped(self._map.fd, self.pieces), np.uint8)

    def _begin(self) -> None:
        """Make the files, or decide what of those that are there is to be checked."""
        size = self.rows * self.row_bytes
        whole = os.fstat(self._data.fd).st_size == size
        marks = os.pread(self._map.fd, self.pieces + SEEN_BYTES, 0)
        if len(marks) != self.pieces + SEEN_BYTES or not whole:
            os.ftruncate(self._map.fd, 0)
            os.ftruncate(self._data.fd, size)
            os.pwrite(self._map.fd, bytes(self.pieces) + self._stamp(), 0)
            return
        states, seen = marks[: self.pieces], marks[self.pieces :]
        now = self._stamp()
        other_boot = seen[: SEEN_BYTES // 2] != now[: SEEN_BYTES // 2]
        if other_boot or (seen != now and DONE in states and MISSING not in states):
            os.pwrite(self._map.fd, states.replace(bytes([DONE]), bytes([UNCHECKED])) + now, 0)

    def _stamp(self) -> bytes:
        """Return this start of the machine and the time of the last change of the rows, in bytes."""
        boot = ""
        with suppress(OSError):
            boot = BOOT_ID.read_text().strip()[: SEEN_BYTES // 2]
        changed = str(os.fstat(self._data.fd).st_mtime_ns)
        return (boot.ljust(SEEN_BYTES // 2) + changed.ljust(SEEN_BYTES // 2)).encode()

    def is_in_folder(self) -> bool:
        """Return whether the folder still has these files: it may have been removed and made again."""
        with suppress(OSError):
            return os.fstat(self._data.fd).st_ino == (self.folder / ROWS).stat().st_ino
        return False

    @property
    def marks(self) -> NDArray[np.uint8]:
        """(pieces,) state of each piece as it is now, whoever changes it; read-only."""
        return self._marks

    @property
    def is_whole(self) -> bool:
        """Whether every piece is there and checked."""
        return bool((self._marks == DONE).all())

    def pieces_of(self, rows: Indices) -> Indices:
        """Return the piece of each row, (B,)."""
        return np.searchsorted(self.firsts, rows, side="right") - 1

    def rows_of(self, piece: int) -> slice:
        """Return the rows of a piece."""
        return slice(int(self.firsts[piece]), int(self.firsts[piece + 1]))

    def array(self, image_shape: tuple[int, int, int]) -> Pixels:
        """Return all rows, (N, C, H, W), as a read-only map of the file."""
        raw = np.frombuffer(_mapped(self._data.fd, self.rows * self.row_bytes), np.uint8)
        return raw.reshape(self.rows, *image_shape)

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
            with self._lock(piece, wait=False) as got:
                yield got
        finally:
            with self._held_lock:
                self._held.discard(piece)

    def write(self, row: int, content: bytes | memoryview, offset: int = 0) -> None:
        """Write bytes from a row on; `mark` says when a piece is whole.

        Args:
            offset: in bytes, from the row's first.
        """
        position, view = row * self.row_bytes + offset, memoryview(content)
        while view:
            written = os.pwrite(self._data.fd, view, position)
            position, view = position + written, view[written:]

    def read(self, rows: slice) -> bytes:
        """Return the bytes of a block of rows."""
        count = (rows.stop - rows.start) * self.row_bytes
        return os.pread(self._data.fd, count, rows.start * self.row_bytes)

    def mark(self, piece: int, state: int = DONE) -> None:
        """Say of a piece that it is written, once it is on the disk."""
        os.fdatasync(self._data.fd)
        os.pwrite(self._map.fd, bytes([state]), piece)
        if self.is_whole:
            os.pwrite(self._map.fd, self._stamp(), self.pieces)
            os.fsync(self._map.fd)

    def forget(self) -> None:
        """Say of all pieces that they are missing."""
        os.pwrite(self._map.fd, bytes(self.pieces), 0)

    @contextmanager
    def _lock(self, byte: int, wait: bool = True) -> Iterator[bool]:
        """Inside, a byte of the locks' file is locked against other processes; False where it was not free."""
        try:
            fcntl.lockf(self._locks.fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
        except (BlockingIOError, PermissionError):  # both are what a lock of another gives
            yield False
            return
        except OSError:  # a file system without locks: work done twice is the same work
            yield True
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._locks.fd, fcntl.LOCK_UN, 1, byte)


class _File:
    """An open file descriptor, closed with its object."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def __del__(self) -> None:
        os.close(self.fd)


def _mapped(fd: int, size: int) -> mmap.mmap:
    return mmap.mmap(fd, size, prot=mmap.PROT_READ)
