"""Local files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

PARTIAL = ".partial"
"""How the name of a file ends that is still being written; a store never lists it."""


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a local file so that it appears at `path` whole, on disk, or not at all.

    Raises:
        OSError: as from `open` and `write`; what was at `path` before is then untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside its target, so on the same disk, where renaming is one step.
    partial = path.with_name(f".{path.name}.{uuid4().hex}{PARTIAL}")
    try:
        with partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
