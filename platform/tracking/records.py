"""What commands show of MLflow's records, read from an SQLite database without MLflow.

MLflow takes two seconds of CPU to import, and its tables milliseconds to read. Nothing is written, and
whoever needs files asks `registry.py`.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from ...trainers.errors import UsageProblem
from ..config.tracking import TrackingConfig
from ..foundation.names import is_name
from ..storage.layout import Tag
from ..storage.store import Storage
from .server import existing_database, named_uri
from .versions import Version

WAIT_S = 10.0
"""For another process that writes."""
VERSIONS = """
SELECT v.name, v.version, v.run_id,
    (SELECT json_group_array(alias) FROM registered_model_aliases a
        WHERE a.name = v.name AND a.version = v.version),
    (SELECT json_group_object(key, value) FROM model_version_tags t
        WHERE t.name = v.name AND t.version = v.version)
FROM model_versions v WHERE v.current_stage != 'Deleted_Internal'
ORDER BY v.name, v.version DESC
"""
"""Of the tables of MLflow 3, as all here."""
HAS_RUNS = "SELECT EXISTS (SELECT 1 FROM tags WHERE key = ?)"


def registered_versions(config: TrackingConfig, storage: Storage) -> list[Version]:
    """Return all registered versions, by name, the newest of each first; by MLflow if need be.

    Args:
        config: names MLflow.
        storage: the store's top.

    Raises:
        UsageProblem: nothing is recorded yet.
        TrackingProblem: MLflow does not answer, or refuses.
    """
    database = existing_database(config, storage)
    if database is not None and (versions := read_versions(database)) is not None:
        return versions
    from . import registry
    from .tracker import open_existing_tracker

    tracker = open_existing_tracker(config, storage)
    return [v for name in registry.names(tracker) for v in registry.versions(tracker, name)]


def known_versions(config: TrackingConfig, storage: Storage) -> list[Version] | None:
    """Return the same; None where nothing is recorded and no MLflow is named, so that it is not known."""
    try:
        existing_database(config, storage)
    except UsageProblem:
        if config.uri or named_uri():
            raise
        return None
    return registered_versions(config, storage)


def read_versions(database: Path) -> list[Version] | None:
    """Return the versions of all models, by name, the newest of each first.

    Returns:
        None where the database cannot be read, or has other tables: MLflow says what is wrong.
    """
    if (rows := _query(database, VERSIONS)) is None:
        return None
    return [
        Version(name, str(number), tuple(sorted(json.loads(aliases))), run_id, json.loads(tags))
        for name, number, run_id, aliases, tags in rows
        if is_name(name)
    ]


def has_runs(database: Path) -> bool | None:
    """Return whether there is any run of Whipray's; None as `read_versions`."""
    rows = _query(database, HAS_RUNS, Tag.KIND)
    return None if rows is None else bool(rows[0][0])


def _query(database: Path, query: str, *values: str) -> list[tuple[Any, ...]] | None:
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", WAIT_S, uri=True)) as opened:
            return opened.execute(query, values).fetchall()
    except sqlite3.Error:
        return None
