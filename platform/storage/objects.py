"""The few S3 requests that a study in a bucket is made of, each one round trip.

`Storage` is made for files. Through pyarrow 25 a small write takes several requests, and it can
neither write a name only if it does not exist (`If-None-Match`) nor return the server's clock, by
which a driver's last sign of life is judged. boto3 does all of this. For large files, in turn,
pyarrow is the better client: it streams in C++, and one interface covers folders and buckets. So both
stay; their settings are in `s3.py`, their errors in `errors.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from ...trainers.slow_connections import cutting_slow_connections, port_of
from .errors import boto3_problem, raised_by_boto3
from .s3 import endpoint, open_client
from .store import Storage

CONNECTIONS = 16
"""Objects of a study that are read at a time."""
ABSENT = ("NoSuchKey", "404")
TAKEN = ("PreconditionFailed", "ConditionalRequestConflict")


class Bucket:
    """Small texts under a store's s3:// address; may be used from several threads at once.

    Every request raises `StorageProblem` when the store fails, within seconds: `StorageOutage` where
    the same request may succeed later.
    """

    def __init__(self, store: Storage) -> None:
        self._store = store
        self._bucket, _, self._prefix = store.path.partition("/")
        with self._translate_errors():
            self._client = open_client(store.config, CONNECTIONS)

    def put(self, name: str, text: str) -> None:
        """Write `name`, replacing what was there."""
        with self._translate_errors(name):
            self._client.put_object(**self._address(name), Body=text.encode())

    def put_once(self, name: str, text: str) -> None:
        """Write `name` unless it exists; read it back to see whose it is.

        Not every server decides between two at once: of OpenStack Swift both may hear that theirs
        was written, and the later one stays.
        """
        with self._translate_errors(name):
            try:
                self._client.put_object(**self._address(name), Body=text.encode(), IfNoneMatch="*")
            except ClientError as error:
                if error.response["Error"]["Code"] not in TAKEN:
                    raise

    def get(self, name: str, first: int | None = None) -> str | None:
        """Return what `name` holds, or its `first` bytes; None where it does not exist."""
        part = {} if first is None else {"Range": f"bytes=0-{first - 1}"}
        with self._translate_errors(name):
            try:
                answer = self._client.get_object(**self._address(name), **part)
                return str(answer["Body"].read(), "utf-8")
            except ClientError as error:
                if error.response["Error"]["Code"] in ABSENT:
                    return None
                raise

    def written(self, name: str) -> tuple[datetime, float] | None:
        """Return when `name` was last written and its age in seconds, by the server's clock."""
        with self._translate_errors(name):
            try:
                answer = self._client.head_object(**self._address(name))
            except ClientError as error:
                if error.response["Error"]["Code"] in ABSENT:
                    return None
                raise
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return answer["LastModified"], (now - answer["LastModified"]).total_seconds()

    def delete(self, name: str) -> None:
        """Delete `name`, if it exists."""
        with self._translate_errors(name):
            self._client.delete_object(**self._address(name))

    def uri_of(self, name: str) -> str:
        """Return the absolute address of `name`, for people."""
        return self._store.uri_of(name)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _address(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}/{name}".lstrip("/")}

    @contextmanager
    def _translate_errors(self, name: str = "") -> Iterator[None]:
        try:
            with cutting_slow_connections((port_of(endpoint(self._store.config)),)):
                yield
        except Exception as error:
            if not raised_by_boto3(error):
                raise
            where = self._store.uri_of(name) if name else self._store.uri
            raise boto3_problem(error, self._store.config, where) from error
