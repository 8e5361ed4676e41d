"""Folders for files on their way; those of a process that was killed go with the next one's first."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

PREFIX = "whipray-scratch-"
YOUNG_S = 60.0
"""A folder is not locked in the moment in which it is made."""


class Scratch(TemporaryDirectory[str]):
    """A `TemporaryDirectory` that is locked as long as its process lives."""

    def __init__(self) -> None:
        """Also clears away what processes left that are no more."""
        _clear_once(gettempdir())
        super().__init__(prefix=PREFIX)
        self._lock = os.open(self.name, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks, where `clear` takes all to be held
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def cleanup(self) -> None:
        """Remove it, once."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        super().cleanup()


@cache
def _clear_once(parent: str) -> None:
    clear(Path(parent))


def clear(parent: Path) -> None:
    """Remove the folders that nobody holds."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:  # gone, or another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(lock).st_mtime > YOUNG_S:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # held
            pass
        finally:
            os.close(lock)
