"""Storages of a study: a journal file on one machine, a bucket or a database for several."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from ...trainers.errors import Problem
from ..foundation.text import redact
from ..storage.store import Storage
from .study_in_bucket import BucketStorage

StudyLocation = str | Path | Storage
"""URL of a database, path of a journal file, or a sweep's folder in a bucket."""

SQLITE_WAIT_S = 60
"""How long a writer waits for another; with SQLite's default, 5 s, 16 writers lost trials."""


def open_storage(location: StudyLocation) -> BaseStorage:
    """Open a study's storage. In a bucket one process has it at a time, and takes it over by this.

    Raises:
        UsageProblem: another process has the study in the bucket.
        Problem: it cannot be opened; a password in the URL is not shown.
    """
    if isinstance(location, Storage):
        return BucketStorage(location)
    try:
        return (
            _database(location)
            if isinstance(location, str) and "://" in location
            else _journal(location)
        )
    except (OSError, ImportError, SQLAlchemyError, OptunaError) as error:
        raise Problem(
            f"{redact(str(location))}: the study's storage cannot be opened ({type(error).__name__})",
            "check the address and its rights; a database needs its driver installed",
        ) from error


def close_storage(storage: BaseStorage) -> None:
    """Close the connections of a storage, and release a study in a bucket."""
    if isinstance(storage, BucketStorage):
        storage.close()
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


def journal_path(location: StudyLocation) -> Path | None:
    """Return the journal file, or None for another kind of storage."""
    if isinstance(location, Storage) or (isinstance(location, str) and "://" in location):
        return None
    return Path(location)


def _database(url: str) -> RDBStorage:
    if make_url(url).get_backend_name() == "sqlite":
        return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": SQLITE_WAIT_S}})
    return RDBStorage(url)


def _journal(location: str | Path) -> JournalStorage:
    path = Path(location)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _KernelLock(path.with_name(path.name + ".lock"))
    _cut_unfinished_line(path, lock)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


class _KernelLock(BaseJournalFileLock):
    """Excludes other writers.

    The locks of Optuna 5.0 stay for 30 s when their holder is killed; the kernel releases this one at
    once. Their base class has no public name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def acquire(self) -> bool:
        file = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o644)
        fcntl.flock(file, fcntl.LOCK_EX)
        self._file = file
        return True

    def release(self) -> None:
        os.close(self._file)


def _cut_unfinished_line(path: Path, lock: _KernelLock) -> None:
    """Remove what a writer wrote of a line before it died.

    `JournalFileBackend` of Optuna 5.0 would append the next line to it, and could read neither.
    """
    if not path.exists():
        return
    lock.acquire()
    try:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
    finally:
        lock.release()
