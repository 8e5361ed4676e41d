"""The few S3 requests that a study in a bucket is made of, each one round trip.

`Storage` is made for files: through it a small write takes several requests, and it cannot ask for
a name to be taken once only, nor how old something is by the server's clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

from .store import (
    ATTEMPTS,
    CONNECT_TIMEOUT_S,
    REQUEST_TIMEOUT_S,
    Storage,
    StorageOutage,
    StorageProblem,
)

CONNECTIONS = 16
ABSENT = ("NoSuchKey", "404")
TAKEN = ("PreconditionFailed", "ConditionalRequestConflict")


class Bucket:
    """Small texts under a store's s3:// address; from several threads at once.

    Every request raises `StorageProblem` when the store fails, within seconds: `StorageOutage` where
    the same request may succeed later.
    """

    def __init__(self, store: Storage) -> None:
        self._store = store
        self._bucket, _, self._prefix = store.path.partition("/")
        # a session of its own: the common one keeps the first credentials that it finds
        self._client = boto3.Session().client(
            "s3",
            endpoint_url=store.config.endpoint_url,
            region_name=store.export_environment().get("AWS_REGION"),
            config=Config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=REQUEST_TIMEOUT_S,
                retries={"mode": "standard", "max_attempts": ATTEMPTS},
                max_pool_connections=CONNECTIONS,
            ),
        )

    def put(self, name: str, text: str) -> None:
        """Write `name`, replacing what was there."""
        with self._translate_errors(name):
            self._client.put_object(**self._at(name), Body=text.encode())

    def put_once(self, name: str, text: str) -> None:
        """Write `name` unless there is one; read it back to see whose it is.

        Not every server decides between two at once: of OpenStack Swift both may hear that theirs
        was written, and the later one stays.
        """
        with self._translate_errors(name):
            try:
                self._client.put_object(**self._at(name), Body=text.encode(), IfNoneMatch="*")
            except ClientError as error:
                if error.response["Error"]["Code"] not in TAKEN:
                    raise

    def get(self, name: str, first: int | None = None) -> str | None:
        """What `name` holds, or its `first` bytes; None without it."""
        part = {} if first is None else {"Range": f"bytes=0-{first - 1}"}
        with self._translate_errors(name):
            try:
                answer = self._client.get_object(**self._at(name), **part)
                return str(answer["Body"].read(), "utf-8")
            except ClientError as error:
                if error.response["Error"]["Code"] in ABSENT:
                    return None
                raise

    def written(self, name: str) -> tuple[datetime, float] | None:
        """When `name` was last written and how many seconds ago, by the server's clock alone."""
        with self._translate_errors(name):
            try:
                answer = self._client.head_object(**self._at(name))
            except ClientError as error:
                if error.response["Error"]["Code"] in ABSENT:
                    return None
                raise
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return answer["LastModified"], (now - answer["LastModified"]).total_seconds()

    def delete(self, name: str) -> None:
        """Delete `name`; nothing there is fine."""
        with self._translate_errors(name):
            self._client.delete_object(**self._at(name))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}/{name}".lstrip("/")}

    @contextmanager
    def _translate_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            # What fails in the store's own way too is told in its words; one just made is impatient.
            Storage(self._store.config, self._store.base).try_write()
            kind: type[StorageProblem] = StorageOutage
            code = type(error).__name__
            if isinstance(error, ClientError):
                code = error.response["Error"]["Code"]
                if error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                    kind = StorageProblem
            raise kind(
                f"{self._store.uri_of(name)}: the store failed ({code})",
                "try again; if it stays, look into the store's own log",
            ) from error
