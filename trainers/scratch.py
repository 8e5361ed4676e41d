"""Temporary directories that are cleaned up even after a SIGKILL.

The next process removes the unlocked ones that it finds.
"""

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
