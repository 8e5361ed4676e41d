"""This machine's disks: full ones and such as cannot be written, in one line that names the folder."""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import TYPE_CHECKING

from .errors import Problem
from .scratch import Scratch

if TYPE_CHECKING:
    from torch import Tensor

CACHE_VARIABLE = "WHIPRAY_CACHE"
FULL = (errno.ENOSPC, errno.EDQUOT)
OF_A_DISK = (*FULL, errno.EROFS, errno.EIO)
"""Errors that are a disk's, whatever was done to it."""
LITTLE = 1 << 20
"""Free bytes of a disk that is as good as full."""

log = logging.getLogger(__name__)


class DiskProblem(Problem):
    """A folder of this machine cannot be written."""


def cache_folder() -> Path:
    """Return the folder of decoded images and feature networks; WHIPRAY_CACHE overrides it.

    Where the home folder cannot be written it is a temporary one, with a warning.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    return _writable_or_temporary(Path("~/.cache/whipray").expanduser())


def check_cache() -> None:
    """Write a file into the cache, so that one that cannot be written is known before the work.

    Raises:
        DiskProblem: it cannot be.
    """
    folder = cache_folder()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as probe:
            probe.write(b"x")


@functools.cache
def _writable_or_temporary(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        if error.errno in FULL:  # then the problem of whoever writes, with the size
            return folder
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        log.warning(
            "%s: cannot be written (%s); the cache is a temporary folder until this process ends, "
            "set %s to keep it",
            *(folder, reason, CACHE_VARIABLE),
        )
        return Path(_scratch().name)


@functools.cache
def _scratch() -> Scratch:
    return Scratch()  # removed when the process ends


def disk_problem(error: OSError, path: Path | str, needed: int | None = None) -> DiskProblem:
    """Return the problem of an error while writing.

    Args:
        path: that was to be written.
        needed: its bytes, where they are known.
    """
    setting = _setting(Path(path))
    if error.errno in FULL:
        return DiskProblem(
            f"{path}: {describe_full_disk(Path(path), needed)}",
            f"free space there, or {setting or 'choose another folder'}; then give the same command again",
        )
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return DiskProblem(
        f"{path}: cannot be written ({reason})",
        f"make the folder writable, or {setting or 'choose another'}",
    )


def unexpected_disk_problem(error: BaseException) -> DiskProblem | None:
    """Return the problem of an exception that a disk has caused, whoever raised it; else None."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.errno in OF_A_DISK:
            if inner.filename:
                return disk_problem(inner, os.fsdecode(inner.filename))
            folders = (Path(gettempdir()), cache_folder(), Path.cwd())
            full = (f for f in folders if shutil.disk_usage(_mount(f)).free < LITTLE)
            if inner.errno in FULL and (folder := next(full, None)):
                return disk_problem(inner, folder)
            return DiskProblem(
                f"a disk of this machine, or what the output goes to, failed ({inner.strerror})",
                "look at the free space with `df -h`, then give the same command again",
            )
        inner = inner.__cause__ or inner.__context__
    return None


def describe_full_disk(path: Path, needed: int | None = None) -> str:
    """Return which disk is full, with its free space and the bytes that are needed there."""
    mount = _mount(path)
    sizes = f"{_in_words(shutil.disk_usage(mount).free)} free"
    if needed is not None:
        sizes = f"{_in_words(needed)} needed, {sizes}"
    return f"the disk at {mount} is full ({sizes})"


@contextmanager
def writing(path: Path, needed: int | None = None) -> Iterator[None]:
    """Inside, an error of the disk is one of `path`.

    Args:
        path: of the file or folder that is written.
        needed: its bytes, where they are known.

    Raises:
        DiskProblem: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise disk_problem(error, path, needed) from error


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a file of safetensors.

    Raises:
        DiskProblem: it cannot be written.
    """
    from safetensors.torch import save_file

    with writing(path, sum(tensor.nbytes for tensor in tensors.values())), safetensors_file(path):
        save_file(tensors, path)


@contextmanager
def safetensors_file(path: Path) -> Iterator[None]:
    """Inside, safetensors writes a file as any other is written.

    What it raises for an error of the system is an `OSError`, and the file has the rights that the umask
    leaves: safetensors 0.8 makes its own for this user alone.
    """
    path.touch()
    rights = stat.S_IMODE(path.stat().st_mode)
    try:
        with _os_errors():
            yield
    except BaseException:
        if path.stat().st_size == 0:  # nothing was there before
            path.unlink()
        raise
    path.chmod(rights)


@contextmanager
def _os_errors() -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:  # which has the number in its text alone
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _setting(path: Path) -> str:
    """Return how to move the folder that a path is in, empty where a setting does not decide it."""
    for folder, what in ((cache_folder(), "cache"), (Path(gettempdir()), "temporary files")):
        if path.absolute().is_relative_to(folder.absolute()):
            name = CACHE_VARIABLE if what == "cache" else "TMPDIR"
            return f"set {name} to another folder for {what}"
    return ""


def _mount(path: Path) -> Path:
    return next(p for p in (path.absolute(), *path.absolute().parents) if os.path.ismount(p))


def _in_words(size: int) -> str:
    """Return bytes as KiB, MiB or GiB, rounded up."""
    for shift, unit in ((30, "GiB"), (20, "MiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.1f} {unit}"
    return f"{-(-size // 1024)} KiB"
