"""What is wrong with the database that MLflow's runs are in, in one line each.

MLflow 3.17 passes on what SQLAlchemy and the database say: SQL, with the cause in the middle.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ...trainers.disk import describe_full_disk

LOCKED = "database is locked"
DISK_FULL = "database or disk is full"
DAMAGED = ("file is not a database", "database disk image is malformed")
UNREADABLE = ("unable to open database file", "attempt to write a readonly database")
NOT_MLFLOWS = ("no such table", "no such column")
LOST = (*UNREADABLE, *NOT_MLFLOWS, "disk I/O error")
"""What SQLite says of a file that is no longer there, or of a new one in its place."""


def describe_refusal(
    error: BaseException, file: Path | None, address: str
) -> tuple[str, str] | None:
    """Return what is wrong and what to do where asking again does not help; else None.

    Args:
        error: of MLflow or SQLAlchemy.
        file: of an SQLite database; None for another one.
        address: of the database, without a password.
    """
    said = " ".join(_texts(error))
    if schema := re.search(r"out-of-date database schema \(found version (\w+)", said):
        return _describe_schema(schema[1], address)
    if any(text in said for text in DAMAGED):
        return (
            "is damaged, or was cut short",
            "restore it from a copy; or move it away: a new one is made, and what is in the store stays",
        )
    if file is None:
        return None
    if not file.exists() and any(text in said for text in LOST):
        return (
            "is gone: it was deleted or moved while it was in use",
            "bring it back, or begin anew; leave the store alone while a command uses it",
        )
    if any(text in said for text in NOT_MLFLOWS):
        return (
            "lacks tables of MLflow: it was deleted or replaced while it was in use, or is another's",
            f"move {file} away, or restore it from a copy",
        )
    if any(text in said for text in UNREADABLE):
        return (
            "cannot be opened or written",
            f"make {file} and its folder writable, or give another --storage",
        )
    return None


def describe_wait(error: BaseException, file: Path | None) -> tuple[str, str] | None:
    """Return what is wrong and what to do where the same request may succeed later; else None."""
    said = " ".join(_texts(error))
    if LOCKED in said:
        return (
            "is locked by another program",
            f"end the program that has it open: `fuser {file}` names it",
        )
    if DISK_FULL in said and file is not None:
        return (
            f"cannot grow: {describe_full_disk(file)}",
            "free space there, then give the same command again",
        )
    return None


def _describe_schema(found: str, address: str) -> tuple[str, str]:
    """Return the same for a database that another version of MLflow made."""
    import mlflow
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store/db_migrations"))
    if any(script.revision == found for script in scripts.walk_revisions()):
        return (
            f"was made by an older MLflow than this one ({mlflow.__version__})",
            f"back it up, then type `mlflow db upgrade {address}`",
        )
    return (
        f"was made by a newer MLflow than this one ({mlflow.__version__})",
        "install the MLflow that made it, or name another database or server with --tracking",
    )


def _texts(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__
