"""Files below s3://bucket/prefix."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from ..errors import DataProblem
from ..retry import Outage, retry_during_outage
from ..s3_filesystem import code_and_status, open_s3_filesystem
from ..slow_connections import cutting_slow_connections, port_of
from .files import FileFacts, Files, MissingFile
from .report import PATH_SHOWN

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from pyarrow import NativeFile  # type: ignore[import-untyped]
    from pyarrow.fs import S3FileSystem  # type: ignore[import-untyped]

SCHEME = "s3://"
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
KEPT_OPEN = 4096
"""Files of a bucket of which a range was read; each is a few hundred bytes in memory, and no connection."""
PATIENCE_S = 300.0
"""For how long requests to a bucket that has answered before are sent again: a bucket that asks to slow
down, or a network that is gone for a moment."""
PASSING = re.compile(
    "NETWORK_CONNECTION|REQUEST_TIMEOUT|SLOW_?DOWN|SERVICE_UNAVAILABLE|THROTTL|TOO_MANY_REQUESTS|LIMIT_EXCEEDED|"
    "BUSY|INTERNAL_|HTTP status (429|5\\d\\d)"
)
"""In pyarrow's text of an error: such as the same request may not have the next time."""

BUFFER_BYTES = 1 << 18
"""Of a file that is read piece by piece."""

Result = TypeVar("Result")


class BucketProblem(DataProblem):
    """A bucket refused, failed or could not be reached."""


class BucketOutage(BucketProblem, Outage):
    """A bucket does not answer, or asks to slow down."""


class BucketFiles(Files):
    """Files below an s3:// prefix; credentials come from the usual AWS chain of the machine."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.path = uri.removeprefix(SCHEME)
        self._answered = False
        self._kept: dict[str, NativeFile] = {}

    def list(self, prefix: str = "") -> dict[str, FileFacts]:
        """See `Files`."""
        from pyarrow import fs

        below = "/".join(filter(None, (self.path, prefix.strip("/"))))
        selector = fs.FileSelector(below, allow_not_found=True, recursive=True)
        entries = self._ask(lambda: self._client.get_file_info(selector), prefix)
        if not entries:
            bucket = self.path.partition("/")[0]
            found = self._ask(lambda: self._client.get_file_info(bucket), prefix)
            if found.type == fs.FileType.NotFound:
                raise self._no_bucket(self.uri_of(prefix))
        files = [entry for entry in entries if entry.type == fs.FileType.File]
        facts = {
            entry.path.removeprefix(f"{self.path}/"): FileFacts(entry.size, str(entry.mtime_ns))
            for entry in files
        }
        return dict(sorted(facts.items()))

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """See `Files`."""

        def ask() -> bytes:
            if start == 0 and length is None:
                # not a stream: pyarrow 25 would read it in many small requests
                with self._client.open_input_file(self._path_of(name)) as whole:
                    return bytes(whole.read())
            file = self._opened(name)
            return bytes(file.read_at(file.size() - start if length is None else length, start))

        return self._ask(ask, name)

    def open(self, name: str) -> IO[bytes]:
        """See `Files`."""
        size = self._ask(lambda: int(self._opened(name).size()), name)
        return io.BufferedReader(_Stream(self, name, size), BUFFER_BYTES)

    def write(self, name: str, content: bytes | Path) -> None:
        """See `Files`."""
        self._kept.pop(name, None)

        def send() -> None:
            whole = content if isinstance(content, bytes) else content.read_bytes()
            with self._client.open_output_stream(self._path_of(name)) as stream:
                stream.write(whole)

        self._ask(send, name)

    def delete(self, name: str) -> None:
        """See `Files`."""
        with suppress(MissingFile):
            self._ask(lambda: self._client.delete_file(self._path_of(name)), name)

    def _opened(self, name: str) -> NativeFile:
        """Return an open file, kept for the next range: opening asks the bucket for its size each time."""
        file = self._kept.get(name)
        if file is None:
            file = self._client.open_input_file(self._path_of(name))
            if len(self._kept) >= KEPT_OPEN:
                self._kept.clear()
            self._kept[name] = file
        return file

    def _path_of(self, name: str) -> str:
        return f"{self.path}/{name}"

    @cached_property
    def _client(self) -> S3FileSystem:
        endpoint = _variable(ENDPOINT_VARIABLES)
        # Named whenever it can be: the SDK otherwise asks a cloud's metadata service for it.
        region = _variable(REGION_VARIABLES) or ("us-east-1" if endpoint else None)
        return open_s3_filesystem(endpoint, region)

    def _ask(self, request: Callable[[], Result], name: str) -> Result:
        """Return a request's result; one that fails for a moment is sent again, up to `PATIENCE_S`."""

        def once() -> Result:
            try:
                with cutting_slow_connections((port_of(_variable(ENDPOINT_VARIABLES)),)):
                    return request()
            except OSError as error:
                raise self._problem(error, name) from None  # its text may name the request

        result = retry_during_outage(once, PATIENCE_S if self._answered else 0.0)
        self._answered = True
        return result

    def _problem(self, error: OSError, name: str) -> DataProblem:
        """Return what is said of an error; of pyarrow's text only its code is shown."""
        where, code = self.uri_of(name)[:PATH_SHOWN], _code(error)
        server = _server()
        if "NO_SUCH_BUCKET" in code:
            return self._no_bucket(where)
        if isinstance(error, FileNotFoundError) or "NO_SUCH_KEY" in code or "NOT_FOUND" in code:
            return MissingFile(f"{where}: no such file", "put it there, or correct the address")
        if re.search("ACCESS_DENIED|SIGNATURE|ACCESS_KEY|TOKEN|CREDENTIAL|status 40[13]", code):
            return BucketProblem(
                f"{where}: access denied ({code})",
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, of a key that may read here",
            )
        if PASSING.search(str(error)):
            return BucketOutage(
                f"{where}: the bucket at {server} does not answer, or asks to slow down ({code})",
                "check the address and the network, or try again later: what is done is kept",
            )
        return BucketProblem(
            f"{where}: the bucket at {server} failed ({code})",
            "try again; if it stays, look into the server's log",
        )

    def _no_bucket(self, where: str) -> BucketProblem:
        return BucketProblem(
            f"{where}: the bucket does not exist at {_server()}",
            "correct the address, or name the server by --endpoint or AWS_ENDPOINT_URL_S3",
        )


class _Stream(io.RawIOBase):
    """A file of a bucket to be read from anywhere in it; each part is asked for as any other request."""

    def __init__(self, files: Files, name: str, size: int) -> None:
        self._files, self._name, self._size, self._at = files, name, size, 0

    def readable(self) -> bool:
        """See `io.IOBase`."""
        return True

    def seekable(self) -> bool:
        """See `io.IOBase`."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `io.IOBase`."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """See `io.IOBase`."""
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """See `io.RawIOBase`."""
        into = memoryview(buffer).cast("B")
        length = min(len(into), self._size - self._at)
        if length <= 0:
            return 0
        content = self._files.read(self._name, self._at, length)
        into[: len(content)] = content
        self._at += len(content)
        return len(content)


@dataclass(frozen=True)
class BucketFile:
    """One file of a bucket, in the place of a `Path`.

    Args:
        files: of the bucket.
        name: in it.
        facts: as it was listed; None where it was not.
    """

    files: Files
    name_in_bucket: str
    facts: FileFacts | None = None

    @property
    def name(self) -> str:
        """Last part of its name."""
        return self.name_in_bucket.rpartition("/")[2]

    @property
    def parent(self) -> BucketFile:
        """The folder that it is in."""
        return BucketFile(self.files, self.name_in_bucket.rpartition("/")[0])

    def __str__(self) -> str:
        """Return its address."""
        return self.files.uri_of(self.name_in_bucket)

    @staticmethod
    def at(uri: str) -> BucketFile:
        """Return the file of an address."""
        bucket, _, name = uri.removeprefix(SCHEME).partition("/")
        return BucketFile(BucketFiles(SCHEME + bucket), name)

    def open(self) -> IO[bytes]:
        """Return a file to be read from anywhere in it."""
        return self.files.open(self.name_in_bucket)

    def read(self) -> bytes:
        """Return its bytes."""
        return self.files.read(self.name_in_bucket)


def _variable(names: tuple[str, ...]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _server() -> str:
    """Return the name of the server, without a login."""
    parts = urlsplit(_variable(ENDPOINT_VARIABLES) or "")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "Amazon S3"


def _code(error: OSError) -> str:
    """Return S3's code and status in pyarrow's text, or the name of the exception."""
    code, status = code_and_status(error)
    if not code:
        return "no credentials" if "redential" in str(error) else type(error).__name__
    return f"{code} (HTTP status {status})" if status else code
