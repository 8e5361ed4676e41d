"""Storages of a study: a journal file on one machine, a bucket or a database for several."""

from __future__ import annotations

from pathlib import Path

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from ...trainers.errors import Problem
from ..foundation.text import redact
from ..storage.store import Storage
from .study_in_bucket import BucketStorage
from .study_in_file import FileJournal

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
    return JournalStorage(FileJournal(path))
