"""Temporary directories, of one process or shared, that are cleaned up even after a SIGKILL.

The next process removes the unlocked ones that it finds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

PREFIX = "whipray-scratch-"
UNLOCKED_GRACE_S = 60.0
"""A younger folder may just have been made, and not be locked yet."""


class Scratch(TemporaryDirectory[str]):
    """A `TemporaryDirectory` that is locked as long as its process lives."""

    def __init__(self) -> None:
        """Make the directory, after removing those that ended processes left behind."""
        _clear_once(gettempdir())
        super().__init__(prefix=PREFIX)
        self._lock = os.open(self.name, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks, where `clear` takes all as locked
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def cleanup(self) -> None:
        """Remove the directory; nothing where that was done before."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        super().cleanup()


@contextmanager
def shared_scratch(key: str) -> Iterator[Path]:
    """Yield a directory that this user's processes on this machine share; the last one removes it.

    A process that is killed leaves it to the others, or to the next one of this module. Where locks do not
    work, or another user has the name, it is this process's own.

    Args:
        key: a part of a file name; processes with the same share a directory.
    """
    _clear_once(gettempdir())
    path = Path(gettempdir()) / f"{PREFIX}{os.getuid()}-{key}"
    lock = _join(path)
    if lock is None:
        with Scratch() as own:
            yield Path(own)
        return
    try:
        yield path
    finally:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gives up the shared lock in any case
            shutil.rmtree(path, ignore_errors=True)
        except OSError:  # others are in it
            pass
        finally:
            os.close(lock)


def _join(path: Path) -> int | None:
    """Return a shared lock on a directory, which is made if need be; None where that cannot be."""
    while True:
        path.mkdir(mode=0o700, exist_ok=True)
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            if os.fstat(lock).st_uid != os.getuid():
                os.close(lock)
                return None
        except FileNotFoundError:  # the last of its users has just removed it
            continue
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
        except OSError:
            os.close(lock)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        os.close(lock)  # it was removed while this process waited for the lock


@cache
def _clear_once(parent: str) -> None:
    clear(Path(parent))


def clear(parent: Path) -> None:
    """Remove the scratch directories in `parent` that no process has locked."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:  # gone, or another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(lock).st_mtime > UNLOCKED_GRACE_S:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # locked
            pass
        finally:
            os.close(lock)
