"""Which MLflow server is used, and the settings of MLflow in every process that uses it."""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...trainers.errors import UsageProblem
from ..config.tracking import VARIABLE, TrackingConfig
from ..foundation.settings import setting
from ..foundation.text import redact, without_login
from ..storage import layout
from ..storage.store import Storage


def tracking_uri(config: TrackingConfig, storage: Storage) -> str:
    """Return the address in use: the config's, the environment's, or SQLite beside the runs.

    Raises:
        UsageProblem: runs in a bucket and no server named, so the SQLite file has no folder; or as
            `check_address`.
    """
    if uri := config.uri or named_uri():
        return check_address(uri)
    if not storage.is_folder:
        raise UsageProblem(
            "no MLflow server is named, and the runs are in a bucket",
            "give --tracking http://HOST:5000, or set MLFLOW_TRACKING_URI to it",
        )
    return store_database(storage)


def named_uri() -> str | None:
    """Return the address of the environment or of a settings file; None: SQLite beside the runs."""
    in_environment = os.environ.get(VARIABLE)
    given = setting("tracking", VARIABLE)
    return in_environment or (given.value if given else None)


def sqlite_uri(path: str) -> str:
    """Return the address of an SQLite database.

    The path of a file may hold what ends or escapes that of an address. The rest stays as it is: MLflow
    3.17 makes the folder that the address names literally, see `database_lock`.
    """
    return f"sqlite:///{path.replace('%', '%25').replace('?', '%3F')}"


def check_address(uri: str) -> str:
    """Return the address of an MLflow server or database.

    Raises:
        UsageProblem: it is none, as MLflow would say less clearly.
    """
    what, address = "tracking.uri or MLFLOW_TRACKING_URI", redact(uri)
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        raise UsageProblem(f"{what}: {address} has no scheme", f"write http://{address}")
    if re.match(r"sqlite:/{0,2}[^/]", uri):
        raise UsageProblem(
            f"{what}: {address} has too few slashes",
            "write sqlite:///mlflow.db for a file in this folder, sqlite:////data/mlflow.db for /data",
        )
    if uri.startswith("file:") or ("://" not in uri and not uri.startswith("databricks")):
        folder = Path(uri.removeprefix("file://")).absolute()
        raise UsageProblem(
            f"{what}: {address} is a folder, in which MLflow keeps no runs any more",
            f"give a database such as {sqlite_uri(f'{folder}/{layout.MLFLOW_DATABASE}')}, or "
            "http://HOST:5000 of a server",
        )
    return uri


def make_folder(storage: Storage) -> None:
    """Make the folder of the store, where the database will be.

    Raises:
        UsageProblem: it cannot be made.
    """
    if not storage.is_folder:
        return
    try:
        Path(storage.path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageProblem(
            f"{storage.path}: cannot be made ({error.strerror})", "give another folder"
        ) from error


def store_database(storage: Storage) -> str:
    """Return the address of the SQLite database beside the runs of a folder."""
    return sqlite_uri(f"{storage.path}/{layout.MLFLOW_DATABASE}")


def require_records(uri: str) -> None:
    """Check that runs can have been recorded there, so that reading makes no empty database.

    Raises:
        UsageProblem: an SQLite database that does not exist.
    """
    if not database_exists(uri):
        raise UsageProblem(
            f"nothing is recorded yet: there is no {sqlite_file(uri)}",
            "name the store with --storage or WHIPRAY_STORAGE; `whipray train digits-lt` starts a "
            "first run; if the database was lost, `whipray runs rebuild` makes it again",
        )


def existing_database(config: TrackingConfig, storage: Storage) -> Path | None:
    """Return the SQLite database in use, None for a server.

    Raises:
        UsageProblem: as `tracking_uri`, or there is no database.
    """
    uri = tracking_uri(config, storage)
    own = Path(storage.path) / layout.MLFLOW_DATABASE
    if storage.is_folder and uri == store_database(storage) and own.exists():
        return own  # its address need not be parsed, for which SQLAlchemy is imported
    require_records(uri)
    database = sqlite_file(uri)
    return None if database is None else database.resolve()


def database_exists(uri: str) -> bool:
    """Return False if this is the address of an SQLite database that does not exist."""
    path = sqlite_file(uri)
    return path is None or path.exists()


def move_login_to_environment(uri: str) -> str:
    """Return a server's address without its login, which moves to where MLflow looks for it.

    Otherwise it would be in what MLflow prints and in what Ray is given.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username or "")
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    return without_login(uri)


def configure_mlflow() -> None:
    """Set MLflow's timeouts and silence its output, unless the environment says otherwise."""
    # MLflow retries a server that is down for minutes by default; here a person waits seconds.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # Its lines with a run's address would be in the middle of our own, or of JSON.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # It reports to its makers who imports and calls it, unless a variable forbids it.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    # It logs a traceback of each database error that it raises, such as one that Ctrl-C makes.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


@contextmanager
def database_lock(uri: str) -> Iterator[None]:
    """Keep other processes from opening the same SQLite database meanwhile.

    Who opens it first makes its tables. MLflow 3.17 locks the making alone: a process that opens the file
    then finds some tables, takes the schema for outdated, and fails or migrates it a second time. Nothing
    is locked for a server or another database, nor where the file system has no locks.

    MLflow 3.17 makes the folder of the file without decoding the address: where a name holds an escaped
    character, that is an empty folder beside it, which is removed.
    """
    path = sqlite_file(uri)
    lock = -1
    literal = Path(uri.removeprefix("sqlite:///")).parent
    remove = path is not None and path.parent != literal and not literal.exists()
    if path is not None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(path.with_name(f"{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o666)
            fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if lock >= 0:
            os.close(lock)
        if remove:
            with suppress(OSError):
                literal.rmdir()


def check_file(uri: str) -> None:
    """Check that an SQLite database can be a file there; MLflow tries for minutes.

    Raises:
        UsageProblem: it is a folder, or below a file.
    """
    path = sqlite_file(uri)
    if path is None:
        return
    if path.is_dir():
        raise UsageProblem(
            f"{path}: a folder, where MLflow's database belongs",
            "move it away, or give another folder",
        )
    if not path.parent.is_dir():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageProblem(
                f"{path.parent}: cannot be made ({error.strerror})", "give another folder"
            ) from error


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite database; None for another address, or one in memory."""
    from sqlalchemy.engine import make_url

    if not uri.startswith("sqlite:"):
        return None
    name = make_url(uri).database
    return Path(name) if name and name != ":memory:" else None


def user_name() -> str:
    """Return the name of the user, as MLflow and the list of jobs show it."""
    return os.environ.get("USER") or os.environ.get("LOGNAME") or "unknown"
