"""Local files that appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO
from uuid import uuid4

PARTIAL = ".partial"
"""How the name of a file ends that is still being written; a store never lists it."""
UNLOCKED_GRACE_S = 60.0
"""A younger file may just have been made, and not be locked yet."""


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a local file so that it appears at `path` whole, on disk, or not at all.

    What killed processes left half-written in its folder is removed.

    Raises:
        OSError: as from `open` and `write`; what was at `path` before is then untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_once(path.parent)
    # Beside its target, so on the same disk, where renaming is one step.
    partial = path.with_name(f".{path.name}.{uuid4().hex}{PARTIAL}")
    try:
        with partial.open("wb") as stream:
            with suppress(OSError):  # a file system without locks, where `clear` removes nothing
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@cache
def _clear_once(folder: Path) -> None:
    clear(folder)


def clear(folder: Path) -> None:
    """Remove the half-written files in a folder that no process has locked."""
    for partial in folder.glob(f".*{PARTIAL}"):
        with suppress(OSError), partial.open("r+b") as stream:  # gone, or another user's
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(stream.fileno()).st_mtime > UNLOCKED_GRACE_S:
                partial.unlink()
