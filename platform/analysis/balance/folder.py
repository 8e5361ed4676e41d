"""The folder of a balanced set: whose it is, whether it can be written, and what a full disk leaves."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ....trainers.data.balanced import DESCRIPTION
from ....trainers.data.report import listed, shown
from ....trainers.disk import DiskProblem, describe_full_disk, disk_problem
from ....trainers.errors import UsageProblem
from ....trainers.integrity import Altered, seal, unseal
from ....trainers.whole_files import PARTIAL, whole_file
from .manifest import SHARDS, Form, SetContent

UNFINISHED = ".balancing.json"
"""Which set a folder is going to hold, while it is written."""
KEPT = "nothing is lost: the same command then writes what is missing"


def check_folder(folder: Path, identity: str | None, form: Form) -> None:
    """Check that a set can go into a folder.

    Args:
        identity: `SetContent.identity`; None before it is known, when any set is let pass.

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
    if identity is None:
        return
    if (known.get("identity"), known.get("form")) != (identity, form):
        raise UsageProblem(
            f"{shown(folder)} holds another balanced set: {shown(known.get('title', 'of unknown origin'))}, "
            f"as {shown(known.get('form'))}",
            f"{another}, or remove that folder",
        )


@contextmanager
def claimed(content: SetContent, folder: Path, form: Form) -> Iterator[None]:
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
        put(folder / UNFINISHED, json.dumps(seal(claim(content, form))).encode())
        yield
        (folder / UNFINISHED).unlink()
        for below in (folder, folder / SHARDS):  # of commands that were killed
            for partial in below.glob(f".*{PARTIAL}"):
                partial.unlink()
    finally:
        os.close(lock)


def _known_set(folder: Path) -> Mapping[str, Any] | None:
    """Return what the set in a folder is known by, whole or not; None where there is none."""
    for name in (DESCRIPTION, UNFINISHED):
        with suppress(OSError, Altered, UnicodeDecodeError):
            return unseal((folder / name).read_text(encoding="utf-8"))
    return None


def claim(content: SetContent, form: Form) -> dict[str, Any]:
    """Return what a set is known by."""
    return {"identity": content.identity, "form": form, "title": content.about["title"]}


def put(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as stream:
        stream.write(data)


@contextmanager
def errors_of(folder: Path, needed: int) -> Iterator[None]:
    """Inside, an error of the disk is one of the folder.

    Args:
        needed: bytes of what is written.

    Raises:
        DiskProblem: with how much room is needed, and that nothing is lost.
    """
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
