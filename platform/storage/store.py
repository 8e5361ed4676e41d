"""Where runs are kept: a folder or an S3 bucket, behind one small interface.

One `storage:` block feeds Ray (a pyarrow filesystem and a path), MLflow and boto3 (environment
variables) and the laptop alike. It holds no secret: keys come from the usual AWS chain
(environment, profile, instance role) on each machine that opens it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import SplitResult, urlsplit
from uuid import uuid4

from pydantic import Field, field_validator

from ...trainers.config import Config
from ...trainers.errors import Problem, UsageProblem
from ..foundation.retry import Outage, retry_during_outage
from ..foundation.text import redact

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem  # type: ignore[import-untyped]

T = TypeVar("T")
P = ParamSpec("P")

CONNECT_TIMEOUT_S = 3.0
REQUEST_TIMEOUT_S = 20.0
ATTEMPTS = 3
"""Together: a store that is down is reported within seconds; a brief hiccup is ridden out."""

COPY_BYTES = 8 << 20
PARTIAL = ".partial"
"""How the name of a file that is still being written to a folder ends; never listed."""


class StorageConfig(Config):
    """Where checkpoints, samples and artifacts go. No secret belongs here."""

    uri: str = Field(default="./whipray-runs", min_length=1)
    """A folder (relative ones are resolved where they are first opened) or s3://bucket/prefix."""
    endpoint_url: str | None = None
    """Address of an S3 server that is not Amazon's, http(s)://host:port. None: the usual one, or
    what AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL says."""
    region: str | None = None
    """Region of the bucket. None: from the environment, and us-east-1 for an `endpoint_url`."""
    retry_timeout_s: float = Field(default=300.0, ge=0)
    """How long a server is waited for that has answered before and does so no more; one that never
    has fails within seconds."""

    @field_validator("uri")
    @classmethod
    def _folder_or_bucket(cls, uri: str) -> str:
        if re.match(r"[a-z][a-z0-9]+:/(?!/)", uri):
            raise ValueError("write two slashes, as in s3://bucket/prefix")
        if "://" not in uri:
            return uri
        parts = _parts(uri, "storage.uri")
        if parts.scheme != "s3" or not parts.netloc or parts.fragment:
            raise ValueError("use a folder or s3://bucket/prefix")
        return uri.rstrip("/")

    @field_validator("endpoint_url")
    @classmethod
    def _plain_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = _parts(url, "storage.endpoint_url")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("use http://host:port or https://host:port")
        return url.rstrip("/")


class StorageProblem(Problem):
    """The store refused, failed or could not be reached."""


class MissingObject(StorageProblem):
    """The store answers, and has nothing under this name."""


class StorageOutage(StorageProblem, Outage):
    """The store does not answer, or fails by itself."""


def _patient(
    operation: Callable[Concatenate[Storage, P], T],
) -> Callable[Concatenate[Storage, P], T]:
    """An operation that is tried again, whole, while a store that has answered before does not."""

    @wraps(operation)
    def tried(self: Storage, /, *args: P.args, **kwargs: P.kwargs) -> T:
        retry_s = self.config.retry_timeout_s if self._shared.answered else 0.0
        result = retry_during_outage(lambda: operation(self, *args, **kwargs), retry_s)
        self._shared.answered = True
        return result

    return tried


@dataclass
class _SharedState:
    """What the storages of one store know of it together."""

    answered: bool = False


class Storage:
    """A store opened at `config.uri`, or at a folder below it.

    Names are relative, with forward slashes. It pickles as its config, so a worker opens the same
    place with its own credentials. Nothing is contacted before the first operation.

    Every operation raises `StorageProblem` (one line, no secret) when the store fails, and
    `MissingObject` when what is asked for is not there. A store that has answered before is given
    `config.retry_timeout_s` to come back; what it refuses is not asked again.
    """

    def __init__(self, config: StorageConfig, base: str = "") -> None:
        self.is_folder = not config.uri.startswith("s3://")
        if self.is_folder:
            root = str(Path(config.uri).expanduser().resolve())
            config = config.model_copy(update={"uri": root})
        self.config = config
        self.base = base
        """Folder below `config.uri`, "" for the top."""
        self._shared = _SharedState()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "filesystem"}

    @property
    def uri(self) -> str:
        """Absolute folder, or s3://bucket/prefix."""
        return f"{self.config.uri}/{self.base}".rstrip("/")

    @property
    def path(self) -> str:
        """This place inside `filesystem`: what Ray calls `storage_path`."""
        return self.uri.removeprefix("s3://")

    @cached_property
    def filesystem(self) -> FileSystem:
        """The pyarrow filesystem: what Ray calls `storage_filesystem`."""
        from pyarrow import fs  # type: ignore[import-untyped]

        if self.is_folder:
            return fs.LocalFileSystem()
        options: dict[str, Any] = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "request_timeout": REQUEST_TIMEOUT_S,
            "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        }
        if self.config.endpoint_url:
            options["endpoint_override"] = self.config.endpoint_url
        if region := self._region():
            options["region"] = region
        with self._translate_errors(""):
            return fs.S3FileSystem(**options)

    def child(self, name: str) -> Storage:
        """The folder `name` below this one."""
        child = Storage(self.config, "/".join(filter(None, (self.base, _checked(name)))))
        child._shared = self._shared
        return child

    def uri_of(self, name: str) -> str:
        """The absolute address of `name`, for people and for MLflow."""
        return f"{self.uri}/{_checked(name)}"

    @_patient
    def put_file(self, local: Path, name: str) -> None:
        """Copy a local file to `name`, replacing what was there; it appears whole or not at all.

        On S3 a replacement that is interrupted (Ctrl-C, a signal) leaves nothing under the name.
        """
        with local.open("rb") as source, self._writer(name) as target:
            shutil.copyfileobj(source, target, COPY_BYTES)

    @_patient
    def get_file(self, name: str, local: Path) -> None:
        """Copy `name` to a local file, which appears whole or not at all."""
        with self._translate_errors(name), self._open(name) as source:
            try:
                with whole_file(local) as copy:
                    shutil.copyfileobj(source, copy, COPY_BYTES)
            except OSError as error:
                if error.errno is None:  # not this machine's disk, but the store
                    raise
                raise _local_problem(error, str(local)) from error

    @_patient
    def write_text(self, name: str, text: str) -> None:
        """Write UTF-8 text to `name`, replacing what was there; whole or not at all."""
        with self._writer(name) as target:
            target.write(text.encode())

    def try_write(self) -> None:
        """Write something and delete it: a store that refuses is better known at the beginning."""
        name = f"probe-{uuid4().hex[:12]}"
        self.write_text(name, "")
        self.delete(name)

    @_patient
    def read_text(self, name: str) -> str:
        """Read UTF-8 text; bytes that are not become U+FFFD."""
        with self._translate_errors(name), self._open(name) as source:
            return bytes(source.read()).decode(errors="replace")

    @_patient
    def size_of(self, name: str) -> int | None:
        """Bytes of the file `name`, None without it. A missing bucket is a problem, not a None."""
        from pyarrow.fs import FileType

        with self._translate_errors(name):
            found = self.filesystem.get_file_info(self._path_of(name))
            if found.type == FileType.NotFound:
                self._require_bucket()
        return int(found.size) if found.is_file else None

    def exists(self, name: str) -> bool:
        """Whether there is a file `name`."""
        return self.size_of(name) is not None

    @_patient
    def list(self, prefix: str = "") -> dict[str, int]:
        """Every file below the folder `prefix`: name relative to this place -> bytes, sorted.

        Empty when there is no such folder. A missing bucket is a problem, not an empty listing.
        """
        from pyarrow.fs import FileSelector

        folder = self._path_of(prefix) if prefix else self.path
        with self._translate_errors(prefix):
            selector = FileSelector(folder, recursive=True, allow_not_found=True)
            infos = self.filesystem.get_file_info(selector)
            if not infos:
                self._require_bucket()
        start = len(self.path) + 1
        return {
            info.path[start:]: info.size
            for info in sorted(infos, key=lambda info: info.path)
            if info.is_file and not info.base_name.endswith(PARTIAL)
        }

    @_patient
    def delete(self, prefix: str) -> None:
        """Delete the file `prefix`, or everything below that folder; nothing there is fine."""
        from pyarrow.fs import FileType

        target = self._path_of(prefix)
        with self._translate_errors(prefix), suppress(FileNotFoundError):
            kind = self.filesystem.get_file_info(target).type
            if kind == FileType.File:
                self.filesystem.delete_file(target)
            elif kind == FileType.Directory:
                self.filesystem.delete_dir(target)

    def export_environment(self) -> dict[str, str]:
        """Variables that make boto3, MLflow and Ray use the same endpoint and region. No secret."""
        variables: dict[str, str] = {}
        if self.is_folder:
            return variables
        if url := self.config.endpoint_url:
            variables |= {"AWS_ENDPOINT_URL_S3": url, "MLFLOW_S3_ENDPOINT_URL": url}
        if region := self._region():
            variables |= {"AWS_REGION": region, "AWS_DEFAULT_REGION": region}
        return variables

    def _region(self) -> str | None:
        # Named whenever it can be: the SDK otherwise asks a cloud's metadata service for it.
        default = "us-east-1" if self.config.endpoint_url else None
        from_environment = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return self.config.region or from_environment or default

    def _path_of(self, name: str) -> str:
        return f"{self.path}/{_checked(name)}"

    def _open(self, name: str) -> IO[bytes]:
        try:
            stream: IO[bytes] = self.filesystem.open_input_stream(self._path_of(name))
        except FileNotFoundError:
            self._require_bucket()
            raise
        return stream

    @contextmanager
    def _writer(self, name: str) -> Iterator[IO[bytes]]:
        target = self._path_of(name)
        with self._translate_errors(name):
            if self.is_folder:
                with whole_file(Path(target)) as stream:
                    yield stream
                return
            # Not pyarrow.fs.copy_files: it returns normally when the server dies during an upload.
            stream = self.filesystem.open_output_stream(target)
            try:
                yield stream
            except BaseException:
                # An upload cannot be given up, only ended: that publishes what has been sent.
                with suppress(OSError):
                    stream.close()
                    self.filesystem.delete_file(target)
                raise
            stream.close()  # the object appears here

    def _require_bucket(self) -> None:
        """S3 answers "not found" alike for an object and for its bucket; tell them apart."""
        from pyarrow.fs import FileType

        if self.is_folder:
            return
        bucket = self.path.split("/", 1)[0]
        if self.filesystem.get_file_info(bucket).type == FileType.NotFound:
            raise OSError(f"AWS Error NO_SUCH_BUCKET: {bucket}")

    @contextmanager
    def _translate_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f"{self.uri}/{name}".rstrip("/")
            if self.is_folder or error.errno is not None:
                raise _local_problem(error, where) from error
            raise self._s3_problem(str(error), where) from error

    def _s3_problem(self, text: str, where: str) -> StorageProblem:
        """One line for what pyarrow says of an S3 failure; its own text may name the request."""
        found = re.search(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))?", text)
        code, status = found.groups() if found else ("", None)
        endpoint = self.config.endpoint_url or (
            os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
            or "Amazon S3"
        )
        if code in ("NETWORK_CONNECTION", "REQUEST_TIMEOUT", "ENDPOINT_RESOLUTION_FAILURE"):
            return StorageOutage(
                f"{where}: the store at {redact(endpoint)} does not answer",
                "check storage.endpoint_url, the network and that the server runs, then try again",
            )
        if code == "NO_SUCH_BUCKET":
            bucket = self.path.split("/", 1)[0]
            return StorageProblem(
                f"{where}: the bucket {bucket} does not exist at {redact(endpoint)}",
                "create the bucket, or correct storage.uri or storage.endpoint_url",
            )
        if status == "507":
            return StorageProblem(f"{where}: the store is full", "free space there, then try again")
        if status and status.startswith("5"):
            return StorageOutage(
                f"{where}: the store failed ({code}, HTTP status {status})",
                "try again; if it stays, look into the store's own log",
            )
        if not _has_credentials():
            return StorageProblem(
                f"{where}: no credentials for the store",
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            )
        if code in ("SIGNATURE_DOES_NOT_MATCH", "INVALID_ACCESS_KEY_ID", "INVALID_CLIENT_TOKEN_ID"):
            return StorageProblem(
                f"{where}: the store refuses the credentials (unknown key or wrong secret)",
                "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            )
        if code == "ACCESS_DENIED" or status in ("401", "403"):
            return StorageProblem(
                f"{where}: access denied: wrong credentials, or a key without this right",
                "check the credentials, and that the key may list, read, write and delete here",
            )
        reason = f"{code or 'unknown error'}{f', HTTP status {status}' if status else ''}"
        return StorageProblem(
            f"{where}: the store failed ({reason})",
            "try again; if it stays, look into the store's own log",
        )


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


def _checked(name: str) -> str:
    """A name that stays below its folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name:
        raise UsageProblem(
            f"'{name}' is not a name inside the store", "use relative names with forward slashes"
        )
    return "/".join(parts)


def _parts(address: str, key: str) -> SplitResult:
    parts = urlsplit(address)
    if "@" in parts.netloc or parts.query:
        # Not a ValueError: pydantic would show the value, and with it the secret.
        raise UsageProblem(
            f"{key} holds a login or options", "give the address alone; keys come from AWS_*"
        )
    return parts


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _local_problem(error: OSError, where: str) -> StorageProblem:
    if _is_full(error):
        return StorageProblem(
            f"{where}: the disk is full",
            "free space, or point storage.uri elsewhere; what was saved before is intact",
        )
    if isinstance(error, FileNotFoundError):
        return MissingObject(f"{where}: not there", "check the name and storage.uri")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return StorageProblem(
            f"{where}: permission denied", "make the folder writable, or choose another storage.uri"
        )
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return StorageProblem(f"{where}: {reason}", "check storage.uri")


def _has_credentials() -> bool:
    """Whether the usual chain finds a key; a role's metadata service may be asked."""
    import boto3  # type: ignore[import-untyped]
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

    try:
        return boto3.Session().get_credentials() is not None
    except BotoCoreError:  # such as a profile that does not exist
        return False
