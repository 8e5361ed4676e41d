"""An SQLite database that was moved or copied together with its store.

MLflow keeps the absolute paths of artifacts. A copy would read and write those of the original, and a
moved store would make its old folder again. So each experiment holds the folder of the database in which
it was made, and whoever opens the database elsewhere changes the paths below that folder first.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from ..storage import layout
from .errors import TrackingProblem

LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow 3 that hold absolute paths of artifacts."""
TAGS = (layout.Tag.STORE, layout.Tag.EVALUATION)
"""Of runs, with addresses in the store."""
WAIT_S = 60.0
"""For another process that writes."""

log = logging.getLogger(__name__)


def artifact_address(folder: str) -> str:
    """Return the address of a folder for MLflow.

    MLflow takes %25 in a path for a %, but not in an address.
    """
    return Path(folder).as_uri() if "%" in folder else folder


def follow_move(database: Path) -> None:
    """Change the paths in a database that was moved or copied, in one transaction.

    Nothing happens where it is what it was, is only reached by another name, or is no database; what is
    wrong with it is MLflow's to say. Its lock is held (`server.database_lock`).

    Raises:
        TrackingProblem: the database was moved, and cannot be written.
    """
    folder = str(database.parent)
    earlier = [place for place in _made_in(database) if place != folder]
    for before in earlier:
        try:
            if (Path(before) / database.name).samefile(database):
                continue
        except OSError:  # the usual case: it is gone, or cannot be read
            pass
        try:
            _rewrite(database, before, folder)
        except sqlite3.DatabaseError as error:
            if "no such table" in str(error):
                return
            raise TrackingProblem(
                f"{database} was moved from {before}, and its paths cannot be changed ({error})",
                "give this user the right to write it, or move it back",
            ) from error
        log.warning("%s was at %s before: MLflow's paths of artifacts are changed", folder, before)


def _made_in(database: Path) -> list[str]:
    """Return the folders in which the database's experiments were made."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", WAIT_S, uri=True)) as opened:
            rows = opened.execute(
                "SELECT DISTINCT value FROM experiment_tags WHERE key = ?", (layout.FOLDER_TAG,)
            )
            return [str(value) for (value,) in rows]
    except sqlite3.Error:  # no such file or table, or no database
        return []


def _rewrite(database: Path, before: str, now: str) -> None:
    with closing(sqlite3.connect(database, WAIT_S)) as opened, opened:
        opened.execute("BEGIN IMMEDIATE")
        for table, column in LOCATIONS:
            for below in (f"{before}/", f"{Path(before).as_uri()}/"):
                opened.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                    f" WHERE substr({column}, 1, ?) = ?",
                    (f"{artifact_address(now)}/", len(below) + 1, len(below), below),
                )
        below = f"{before}/"
        for tag in TAGS:
            opened.execute(
                "UPDATE tags SET value = ? || substr(value, ?)"
                " WHERE key = ? AND substr(value, 1, ?) = ?",
                (f"{now}/", len(below) + 1, tag, len(below), below),
            )
        for end in (
            "/",
            "\n",
            "'\n",
        ):  # what follows the folder in a note: a path, or the command's end
            opened.execute(
                "UPDATE tags SET value = replace(value, ?, ?) WHERE key = ?",
                (f"{before}{end}", f"{now}{end}", layout.NOTE_TAG),
            )
        opened.execute(
            "UPDATE experiment_tags SET value = ? WHERE key = ? AND value = ?",
            (now, layout.FOLDER_TAG, before),
        )
