"""Files that are read and written by their names in a folder; those of this machine."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from ..disk import disk_problem, writing
from ..errors import DataProblem
from ..whole_files import whole_file
from .report import PATH_SHOWN


@dataclass(frozen=True)
class FileFacts:
    """What is known of a file without reading it.

    Args:
        bytes: its size.
        version: another one says that it was changed.
    """

    bytes: int
    version: str


class Files(ABC):
    """Files below one folder or prefix, by names relative to it, with slashes between their parts.

    May be used by several threads at once, and pickled: whoever gets it opens it anew. Every method raises
    `DataProblem` (a `BucketProblem` or a `DiskProblem` where these failed) in one line.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.uri,)

    @abstractmethod
    def list(self, prefix: str = "") -> dict[str, FileFacts]:
        """Return all files below a folder of it, sorted by name; empty where there is none.

        Args:
            prefix: folder below which; "" for all.
        """

    @abstractmethod
    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of a file, or `length` of them from `start` on; fewer where it ends before.

        Raises:
            MissingFile: there is none of this name.
        """

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """Return a file to be read from anywhere in it; its errors are `OSError`, or of a bucket `BucketProblem`.

        Raises:
            MissingFile: there is none of this name.
        """

    @abstractmethod
    def write(self, name: str, content: bytes | Path) -> None:
        """Write a whole file, which gets its name when it is complete.

        Args:
            content: bytes, or the file that holds them.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, if it exists."""

    def uri_of(self, name: str) -> str:
        """Return the address of a file, for people."""
        return f"{self.uri.rstrip('/')}/{name}" if name else self.uri

    def below(self, folder: str) -> Self:
        """Return the files below a folder of these."""
        return type(self)(self.uri_of(folder))


class MissingFile(DataProblem):
    """There is no file of this name."""


class LocalFiles(Files):
    """Files below a folder of this machine."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.folder = Path(uri).expanduser()

    def list(self, prefix: str = "") -> dict[str, FileFacts]:
        """See `Files`; links to folders are not followed."""
        found = {}
        try:
            for folder, _, names in os.walk(self.folder / prefix):
                for name in names:
                    file = Path(folder, name)
                    stat = file.stat()
                    state = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev)
                    relative = file.relative_to(self.folder).as_posix()
                    found[relative] = FileFacts(stat.st_size, "-".join(map(str, state)))
        except OSError as error:
            raise self._unreadable(error, prefix) from error
        return dict(sorted(found.items()))

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """See `Files`."""
        try:
            with (self.folder / name).open("rb") as stream:
                stream.seek(start)
                return stream.read(-1 if length is None else length)
        except OSError as error:
            raise self._unreadable(error, name) from error

    def open(self, name: str) -> IO[bytes]:
        """See `Files`."""
        try:
            return (self.folder / name).open("rb")
        except OSError as error:
            raise self._unreadable(error, name) from error

    def uri_of(self, name: str) -> str:
        """See `Files`."""
        return str(self.folder / name)

    def write(self, name: str, content: bytes | Path) -> None:
        """See `Files`."""
        file = self.folder / name
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        with writing(file, size), whole_file(file) as stream:
            if isinstance(content, bytes):
                stream.write(content)
            else:
                with content.open("rb") as other:
                    shutil.copyfileobj(other, stream, 1 << 22)

    def delete(self, name: str) -> None:
        """See `Files`."""
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise disk_problem(error, self.folder / name) from error

    def _unreadable(self, error: OSError, name: str) -> DataProblem:
        where = str(self.folder / name)[:PATH_SHOWN]
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return MissingFile(f"{where}: no such file", "put it there, or correct the path")
        reason = error.strerror or type(error).__name__
        return DataProblem(f"{where}: cannot be read ({reason})", "make it readable, and try again")
