"""Where runs are kept: a folder or an S3 bucket, behind one small interface.

Why pyarrow, and not fsspec or boto3 alone: `docs/design/storage.md`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from uuid import uuid4

from ...trainers.disk import disk_problem
from ...trainers.errors import UsageProblem
from ...trainers.retry import retry_during_outage
from ...trainers.slow_connections import cutting_slow_connections, port_of
from ...trainers.whole_files import PARTIAL, whole_file
from .config import StorageConfig
from .errors import local_problem, pyarrow_problem
from .s3 import endpoint, open_filesystem

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem  # type: ignore[import-untyped]

T = TypeVar("T")
P = ParamSpec("P")

COPY_BYTES = 8 << 20
"""Read and written at a time: more than the 5 MiB that S3 asks of a part of an upload."""
RANGES = 8
"""Parts of an object that are downloaded at a time. pyarrow 25 uploads as many at a time."""
FLUSH_BYTES = 160 << 20
"""An upload waits for its parts after so much, or pyarrow 25 would keep all of a large file in memory: it
sends parts of 10 MiB, as many at a time as it has threads (8), and takes what it is given at once."""


def _retried(
    operation: Callable[Concatenate[Storage, P], T],
) -> Callable[Concatenate[Storage, P], T]:
    """Retry the whole operation during an outage of a store that has answered before."""

    @wraps(operation)
    def retried(self: Storage, /, *args: P.args, **kwargs: P.kwargs) -> T:
        timeout_s = self.config.retry_timeout_s if self._shared.answered else 0.0

        def once() -> T:
            with nullcontext() if self.is_folder else cutting_slow_connections(self._ports):
                return operation(self, *args, **kwargs)

        result = retry_during_outage(once, timeout_s)
        self._shared.answered = True
        return result

    return retried


@dataclass
class _SharedState:
    """State that a `Storage` shares with its children."""

    answered: bool = False
    """True once any of them had an answer."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a store."""

    bytes: int
    written: float
    """When, in seconds since the epoch, by the store's clock; 0 where that is not known."""


class Storage:
    """A store opened at `config.uri`, or at a folder below it.

    Names are relative, with forward slashes. It pickles as its config, so a worker opens the same
    folder with its own credentials. Nothing is contacted before the first operation.

    Every operation raises `StorageProblem` (one line, no secret) when the store fails, and
    `MissingObject` when the file does not exist. An outage of a store that has answered before is
    retried for `config.retry_timeout_s`; a refusal is raised at once.
    """

    def __init__(self, config: StorageConfig, base: str = "") -> None:
        self.is_folder = config.bucket is None
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
        """This folder inside of `filesystem`."""
        return self.uri.removeprefix("s3://")

    @cached_property
    def filesystem(self) -> FileSystem:
        """The pyarrow filesystem."""
        from pyarrow.fs import LocalFileSystem

        if self.is_folder:
            return LocalFileSystem()
        with self._translate_errors(""):
            return open_filesystem(self.config)

    @property
    def _ports(self) -> tuple[int]:
        return (port_of(endpoint(self.config)),)

    @property
    def root(self) -> Storage:
        """The store's top."""
        root = Storage(self.config)
        root._shared = self._shared
        return root

    def child(self, name: str) -> Storage:
        """Return the folder `name` below this one."""
        child = Storage(self.config, "/".join(filter(None, (self.base, _checked(name)))))
        child._shared = self._shared
        return child

    def uri_of(self, name: str) -> str:
        """Return the absolute address of `name`, for people and for MLflow."""
        return f"{self.uri}/{_checked(name)}"

    @_retried
    def put_file(self, local: Path, name: str) -> None:
        """Copy a local file to `name`, replacing what was there; it appears whole or not at all.

        On S3 a replacement that is interrupted (Ctrl-C, a signal) leaves nothing under the name.
        """
        size = local.stat().st_size
        with local.open("rb") as source, self._writer(name, size) as target:
            written = 0
            while chunk := source.read(COPY_BYTES):
                target.write(chunk)
                written += len(chunk)
                if written % FLUSH_BYTES == 0:
                    target.flush()

    @_retried
    def get_file(self, name: str, local: Path) -> None:
        """Copy `name` to a local file, which appears whole or not at all.

        From a bucket several parts come at a time.
        """
        with self._translate_errors(name), self._open(name) as source:
            try:
                with whole_file(local) as copy:
                    if self.is_folder:
                        shutil.copyfileobj(source, copy, COPY_BYTES)
                    else:
                        _copy_in_parts(source, copy)
            except OSError as error:
                if error.errno is None:  # not this machine's disk, but the store
                    raise
                raise disk_problem(error, local) from error

    @_retried
    def write_text(self, name: str, text: str) -> None:
        """Write UTF-8 text to `name`, replacing what was there; whole or not at all."""
        content = text.encode()
        with self._writer(name, len(content)) as target:
            target.write(content)

    def try_write(self) -> None:
        """Write and delete an empty file, so that a store that refuses is known before the work."""
        name = f"probe-{uuid4().hex}"
        self.write_text(name, "")
        self.delete(name)

    @_retried
    def read_text(self, name: str) -> str:
        """Read UTF-8 text; bytes that are not become U+FFFD."""
        with self._translate_errors(name), self._open(name) as source:
            return bytes(source.read()).decode(errors="replace")

    @_retried
    def sha256_of(self, name: str) -> str:
        """Return the hash of the file `name`, which is read and not copied."""
        digest = hashlib.sha256()
        with self._translate_errors(name), self._open(name) as source:
            while chunk := source.read(COPY_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    @_retried
    def size_of(self, name: str) -> int | None:
        """Return the bytes of the file `name`, None where it does not exist.

        A missing bucket is a problem, not a None.
        """
        from pyarrow.fs import FileType

        with self._translate_errors(name):
            info = self.filesystem.get_file_info(self._path_of(name))
            if info.type == FileType.NotFound:
                self._require_bucket()
        return int(info.size) if info.is_file else None

    def exists(self, name: str) -> bool:
        """Return whether there is a file `name`."""
        return self.size_of(name) is not None

    def list(self, prefix: str = "") -> dict[str, int]:
        """Return all files below the folder `prefix`: name -> bytes, sorted by name.

        Names are relative to this store's folder. Empty where there is no such folder. A missing
        bucket is a problem, not an empty listing.
        """
        return {name: file.bytes for name, file in self.details(prefix).items()}

    @_retried
    def details(self, prefix: str = "") -> dict[str, StoredFile]:
        """Return all files below the folder `prefix`, as `list`, with the time of their writing."""
        from pyarrow.fs import FileSelector

        folder = self._path_of(prefix) if prefix else self.path
        with self._translate_errors(prefix):
            selector = FileSelector(folder, recursive=True, allow_not_found=True)
            infos = self.filesystem.get_file_info(selector)
            if not infos:
                self._require_bucket()
        start = len(self.path) + 1
        return {
            info.path[start:]: StoredFile(info.size, (info.mtime_ns or 0) / 1e9)
            for info in sorted(infos, key=lambda info: info.path)
            if info.is_file and not info.base_name.endswith(PARTIAL)
        }

    @_retried
    def copy(self, name: str, to: str) -> None:
        """Copy a file inside of this folder, replacing what was there."""
        with self._translate_errors(name):
            self.filesystem.copy_file(self._path_of(name), self._path_of(to))

    @_retried
    def delete(self, prefix: str) -> None:
        """Delete the file `prefix`, or everything below that folder, if it exists."""
        from pyarrow.fs import FileType

        target = self._path_of(prefix)
        with self._translate_errors(prefix), suppress(FileNotFoundError):
            kind = self.filesystem.get_file_info(target).type
            if kind == FileType.File:
                self.filesystem.delete_file(target)
            elif kind == FileType.Directory:
                self.filesystem.delete_dir(target)

    def _path_of(self, name: str) -> str:
        return f"{self.path}/{_checked(name)}"

    def _open(self, name: str) -> Any:
        """Open a file to be read.

        Not as a stream, which pyarrow 25 reads in many small requests where no size is given.
        """
        try:
            return self.filesystem.open_input_file(self._path_of(name))
        except FileNotFoundError:
            self._require_bucket()
            raise

    @contextmanager
    def _writer(self, name: str, size: int) -> Iterator[IO[bytes]]:
        target = self._path_of(name)
        with self._translate_errors(name, size):
            if self.is_folder:
                with whole_file(Path(target)) as stream:
                    yield stream
                return
            # Not pyarrow.fs.copy_files: in pyarrow 25 it returns normally when the server dies during
            # an upload.
            stream = self.filesystem.open_output_stream(target)
            try:
                yield stream
            except BaseException:
                # pyarrow 25 cannot abort an upload, only end it: that publishes what has been sent.
                with suppress(OSError):
                    stream.close()
                    self.filesystem.delete_file(target)
                raise
            stream.close()  # the object appears here

    def _require_bucket(self) -> None:
        """Raise if the bucket is missing: S3 says "not found" of an object and of its bucket alike."""
        from pyarrow.fs import FileType

        if self.is_folder:
            return
        bucket = self.config.bucket
        if self.filesystem.get_file_info(bucket).type == FileType.NotFound:
            raise OSError(f"AWS Error NO_SUCH_BUCKET: {bucket}")

    @contextmanager
    def _translate_errors(self, name: str, size: int | None = None) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f"{self.uri}/{name}".rstrip("/")
            if self.is_folder or error.errno is not None:
                raise local_problem(error, where, size) from error
            raise pyarrow_problem(error, self.config, where) from error


def _copy_in_parts(source: Any, copy: IO[bytes]) -> None:
    """Copy a file of pyarrow, several parts at a time."""
    size = source.size()

    def copy_part(start: int) -> None:
        content = memoryview(source.read_at(min(COPY_BYTES, size - start), start))
        if len(content) < min(COPY_BYTES, size - start):
            raise OSError("AWS Error NETWORK_CONNECTION: the answer is too short")
        while content:
            written = os.pwrite(copy.fileno(), content, start)
            content, start = content[written:], start + written

    copy.truncate(size)
    with ThreadPoolExecutor(min(RANGES, size // COPY_BYTES + 1)) as pool:
        for _ in pool.map(copy_part, range(0, size, COPY_BYTES)):
            pass


def _checked(name: str) -> str:
    """Return a name that stays below its folder.

    Raises:
        UsageProblem: it does not.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name:
        raise UsageProblem(
            f"'{name}' is not a name inside the store", "use relative names with forward slashes"
        )
    return "/".join(parts)
