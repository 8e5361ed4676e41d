"""The folder of a Ray that starts on this machine: its sockets, logs and spilled objects."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree

import psutil  # type: ignore[import-untyped]

from ...trainers.errors import Problem

SOCKET_BYTES = 107
"""The longest path of a Unix socket on Linux."""
OWN = "ray-12345678/r"
BELOW = len(f"/{OWN}/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1")
"""Bytes that our folder and Ray 2.60 add to the temporary folder."""
BELOW_TEMPORARY = len("/pymp-12345678/listener-12345678")
"""Bytes that Python's `multiprocessing` adds to it, which Ray's dashboard uses."""
FORKSERVER = "/pymp-"
"""In the path of its socket."""
SHORT = "/tmp"


@contextmanager
def ray_folder() -> Iterator[Path]:
    """Yield a new folder that only this user can reach; it is removed unless the block fails.

    After a failure Ray's logs in it may say why.

    Raises:
        Problem: no folder has a path short enough for Ray's sockets.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=_parent()))
    try:
        yield folder / "r"  # which Ray 2.60 makes, open to everybody
    except Exception:
        raise
    except BaseException:  # an interrupt
        rmtree(folder, ignore_errors=True)
        raise
    else:
        rmtree(folder, ignore_errors=True)


def _parent() -> str:
    """Return RAY_TMPDIR, or the temporary folder if its path is short, or /tmp."""
    if wanted := os.environ.get("RAY_TMPDIR"):
        if not _fits(wanted):
            raise _too_long("RAY_TMPDIR", wanted)
        os.makedirs(wanted, exist_ok=True)
        return wanted
    usual = tempfile.gettempdir()
    if _fits(usual):
        return usual
    if not os.access(SHORT, os.W_OK):
        raise _too_long("TMPDIR", usual)
    return SHORT


@contextmanager
def removing_forkserver_folders() -> Iterator[None]:
    """Remove what Ray's dashboard leaves in the temporary folder when the block ends it.

    Its `multiprocessing` makes a folder for a socket, and would remove it if it were not killed. That of
    this process's own `multiprocessing` is a child's, and stays.
    """
    folders = set()
    for child in psutil.Process().children():
        if not _forkserver_folders(child):
            for process in child.children(recursive=True):
                folders |= _forkserver_folders(process)
    yield
    for folder in folders:
        rmtree(folder, ignore_errors=True)


def _forkserver_folders(process: psutil.Process) -> set[Path]:
    with suppress(psutil.Error):  # it has ended
        addresses = (str(c.laddr) for c in process.net_connections("unix"))
        return {Path(address).parent for address in addresses if FORKSERVER in address}
    return set()


def own_temporary_folder() -> str | None:
    """Return the temporary folder of this process if its path is too long for Ray's processes."""
    usual = tempfile.gettempdir()
    return None if _fits(usual, BELOW_TEMPORARY) else usual


def _fits(folder: str, below: int = BELOW) -> bool:
    return len(os.fsencode(folder)) + below <= SOCKET_BYTES


def _too_long(variable: str, folder: str) -> Problem:
    length, most = len(os.fsencode(folder)), SOCKET_BYTES - BELOW
    return Problem(
        f"{variable}={folder} is too long for Ray's sockets: {length} bytes, at most {most}",
        "set RAY_TMPDIR to a folder with a shorter path",
    )
