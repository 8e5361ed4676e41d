"""What can go wrong with a store, in one line each and without secrets."""

from __future__ import annotations

import errno
import os
import re

from ...trainers.errors import Problem
from ..foundation.retry import Outage
from ..foundation.text import redact
from .config import StorageConfig
from .s3 import has_credentials

UNREACHABLE = ("NETWORK_CONNECTION", "REQUEST_TIMEOUT", "ENDPOINT_RESOLUTION_FAILURE")
OVERLOADED = frozenset(
    {
        "SLOW_DOWN",
        "SERVICE_UNAVAILABLE",
        "THROTTLING",
        "THROTTLING_EXCEPTION",
        "THROTTLED",
        "THROTTLED_EXCEPTION",
        "REQUEST_THROTTLED",
        "REQUEST_THROTTLED_EXCEPTION",
        "REQUEST_LIMIT_EXCEEDED",
        "TOO_MANY_REQUESTS",
        "TOO_MANY_REQUESTS_EXCEPTION",
        "BANDWIDTH_LIMIT_EXCEEDED",
        "PRIOR_REQUEST_NOT_COMPLETE",
        "BUSY",
    }
)
"""S3's throttling, as AWS and servers like it spell it. Known by its code: pyarrow 25 names the status
of an answer only where it does not know the code, so a 503 SlowDown of a PUT or LIST has none."""
FAILED_BY_ITSELF = frozenset({"INTERNAL_FAILURE", "INTERNAL_ERROR", "INTERNAL_SERVER_ERROR"})
WRONG_CREDENTIALS = (
    "SIGNATURE_DOES_NOT_MATCH",
    "INVALID_ACCESS_KEY_ID",
    "INVALID_CLIENT_TOKEN_ID",
)


class StorageProblem(Problem):
    """The store refused, failed or could not be reached."""


class MissingObject(StorageProblem):
    """The store answers, and has nothing under this name."""


class StorageOutage(StorageProblem, Outage):
    """The store does not answer, or fails by itself."""


def local_problem(error: OSError, where: str) -> StorageProblem:
    """Return the problem for an error of a local disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageProblem(
            f"{where}: the disk is full",
            "free space, or point storage.uri elsewhere; what was saved before is intact",
        )
    if isinstance(error, FileNotFoundError):
        return MissingObject(f"{where}: not found", "check the name and storage.uri")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return StorageProblem(
            f"{where}: permission denied", "make the folder writable, or choose another storage.uri"
        )
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return StorageProblem(f"{where}: {reason}", "check storage.uri")


def pyarrow_problem(error: OSError, config: StorageConfig, where: str) -> StorageProblem:
    """Return the problem for pyarrow's error of an S3 request."""
    # Of pyarrow's text only the code and the status are shown: the rest may name the request.
    match = re.search(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))?", str(error))
    code, status = match.groups() if match else ("", None)
    code = "" if code == "UNKNOWN" else code
    return _s3_problem(code, int(status) if status else None, config, where)


def boto3_problem(error: Exception, config: StorageConfig, where: str) -> StorageProblem:
    """Return the problem for a `ClientError` or `BotoCoreError` of an S3 request."""
    from botocore import exceptions as boto  # type: ignore[import-untyped]

    if isinstance(error, boto.ClientError):
        code = str(error.response["Error"]["Code"])
        status = int(error.response["ResponseMetadata"]["HTTPStatusCode"])
        # As pyarrow spells it: NoSuchBucket is NO_SUCH_BUCKET. An answer without a body has none.
        snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", code).upper()
        return _s3_problem("" if code == str(status) else snake, status, config, where)
    if isinstance(error, boto.ConnectionError | boto.HTTPClientError | boto.IncompleteReadError):
        return _s3_problem("NETWORK_CONNECTION", None, config, where)
    if not has_credentials():
        return _s3_problem("", None, config, where)
    return StorageOutage(
        f"{where}: the store failed ({type(error).__name__})",
        "try again; if it stays, look into the store's own log",
    )


def _s3_problem(code: str, status: int | None, config: StorageConfig, where: str) -> StorageProblem:
    """Return the problem for an S3 error.

    Args:
        code: as pyarrow spells it, empty where it is not known.
        status: of HTTP, None where it is not known or there was no answer.
        where: what was asked for.
    """
    endpoint = redact(
        config.endpoint_url
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or "Amazon S3"
    )
    if code in UNREACHABLE:
        return StorageOutage(
            f"{where}: the store at {endpoint} does not answer",
            "check storage.endpoint_url, the network and that the server runs, then try again",
        )
    if code == "NO_SUCH_BUCKET":
        return StorageProblem(
            f"{where}: the bucket {config.bucket} does not exist at {endpoint}",
            "create the bucket, or correct storage.uri or storage.endpoint_url",
        )
    if code == "REQUEST_TIME_TOO_SKEWED":
        return StorageProblem(
            f"{where}: the clocks of this machine and of the store differ by more than 15 minutes",
            "set this machine's clock, or let it be set by NTP",
        )
    if status == 507:
        return StorageProblem(f"{where}: the store is full", "free space there, then try again")
    if code in OVERLOADED or status == 429:
        return StorageOutage(
            f"{where}: the store is overloaded and asks to slow down ({code or 'HTTP status 429'})",
            "try again later, or with fewer runs at a time; a longer storage.retry_timeout_s waits longer",
        )
    if code in FAILED_BY_ITSELF or (status and status >= 500):
        return StorageOutage(
            f"{where}: the store failed ({_reason(code, status)})",
            "try again; if it stays, look into the store's own log",
        )
    if not has_credentials():
        return StorageProblem(
            f"{where}: no credentials for the store",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    if code in WRONG_CREDENTIALS:
        return StorageProblem(
            f"{where}: the store refuses the credentials (unknown key or wrong secret)",
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    if code == "ACCESS_DENIED" or status in (401, 403):
        return StorageProblem(
            f"{where}: access denied: wrong credentials, or a key without this right",
            "check the credentials, and that the key may list, read, write and delete here",
        )
    return StorageProblem(
        f"{where}: the store failed ({_reason(code, status)})",
        "try again; if it stays, look into the store's own log",
    )


def _reason(code: str, status: int | None) -> str:
    return f"{code or 'unknown error'}{f', HTTP status {status}' if status else ''}"
