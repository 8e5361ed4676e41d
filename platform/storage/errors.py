"""What can go wrong with a store, in one line each and without secrets."""

from __future__ import annotations

import errno
import os
import re
import traceback
from pathlib import Path

from ...trainers.disk import FULL, describe_full_disk
from ...trainers.errors import Problem
from ...trainers.retry import Outage
from ...trainers.s3_filesystem import as_pyarrow_spells, code_and_status
from ..foundation.text import redact
from .config import StorageConfig
from .s3 import endpoint, has_credentials

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
EXPIRED = ("the session token has expired", "get new credentials, then give the same command again")
REFUSED = {
    "REQUEST_TIME_TOO_SKEWED": (
        "the clocks of this machine and of the store differ by more than 15 minutes",
        "set this machine's clock, or let it be set by NTP",
    ),
    "EXPIRED_TOKEN": EXPIRED,
    "EXPIRED_TOKEN_EXCEPTION": EXPIRED,
    "REQUEST_EXPIRED": EXPIRED,
    "TOKEN_REFRESH_REQUIRED": EXPIRED,
    "INVALID_TOKEN": (
        "the store refuses the session token: it has expired or belongs to another key",
        "get new credentials, or unset AWS_SESSION_TOKEN for a key that has none",
    ),
    "INVALID_OBJECT_STATE": (
        "the object is archived (Glacier or the like)",
        "restore it in the store, and exempt these files from the lifecycle rule that archives",
    ),
    "ENTITY_TOO_LARGE": (
        "the object is larger than the store takes, or than its quota leaves",
        "free space there, or have the limit raised",
    ),
}
"""What S3 refuses for a reason of its own: code -> (what, fix)."""
WRONG_CREDENTIALS = (
    "SIGNATURE_DOES_NOT_MATCH",
    "INVALID_ACCESS_KEY_ID",
    "INVALID_CLIENT_TOKEN_ID",
)
OTHER_PLACE = (
    "PERMANENT_REDIRECT",
    "TEMPORARY_REDIRECT",
    "AUTHORIZATION_HEADER_MALFORMED",
    "ILLEGAL_LOCATION_CONSTRAINT_EXCEPTION",
)
REDIRECTED = (301, 302, 307, 308)


class StorageProblem(Problem):
    """The store refused, failed or could not be reached."""


class MissingObject(StorageProblem):
    """The store answers, and has nothing under this name."""


class StorageOutage(StorageProblem, Outage):
    """The store does not answer, or fails by itself."""


def local_problem(error: OSError, where: str, needed: int | None = None) -> StorageProblem:
    """Return the problem for an error of the disk that a store is on.

    Args:
        where: path in the store.
        needed: bytes that were to be written, where they are known.
    """
    if error.errno in FULL:
        return StorageProblem(
            f"{where}: {describe_full_disk(Path(where), needed)}",
            "free space there, then give the same command again: what was saved before is intact",
        )
    if isinstance(error, FileNotFoundError):
        return MissingObject(f"{where}: not found", "check the name and --storage")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return StorageProblem(
            f"{where}: permission denied", "make the folder writable, or choose another --storage"
        )
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return StorageProblem(f"{where}: {reason}", "check --storage")


def pyarrow_problem(error: OSError, config: StorageConfig, where: str) -> StorageProblem:
    """Return the problem for pyarrow's error of an S3 request."""
    # Of pyarrow's text only codes, status and region are shown: the rest may name the request.
    code, status = code_and_status(error)
    region = re.search(r"the bucket is located in '([\w-]+)'", str(error))
    return _s3_problem(
        "" if code == "UNKNOWN" else code, status, config, where, region[1] if region else ""
    )


def raised_by_boto3(error: Exception) -> bool:
    """Return whether boto3 raised this because a request failed."""
    from boto3.exceptions import Boto3Error  # type: ignore[import-untyped]
    from botocore import exceptions as boto  # type: ignore[import-untyped]

    if isinstance(error, RecursionError):  # of botocore 1.44, by a redirect that names no region
        frames = traceback.extract_tb(error.__traceback__)
        return any("botocore" in frame.filename for frame in frames)
    return isinstance(error, Boto3Error | boto.BotoCoreError | boto.ClientError)


def boto3_problem(error: Exception, config: StorageConfig | None, where: str) -> StorageProblem:
    """Return the problem for an error that boto3 raised.

    Args:
        config: None for MLflow's client, whose settings are in the environment.
        where: what was asked for.
    """
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as boto

    if isinstance(error, Boto3Error):  # around the error of one request of several
        inner = getattr(error, "last_exception", None) or error.__cause__ or error.__context__
        if isinstance(inner, Exception):
            return boto3_problem(inner, config, where)
    if isinstance(error, RecursionError):
        return _s3_problem("", REDIRECTED[0], config, where)
    if isinstance(error, boto.ClientError):
        code = str(error.response["Error"]["Code"])
        answer = error.response["ResponseMetadata"]
        status = int(answer["HTTPStatusCode"])
        region = str(answer.get("HTTPHeaders", {}).get("x-amz-bucket-region", ""))
        # An answer without a body has no code of its own.
        code = "" if code == str(status) else as_pyarrow_spells(code)
        return _s3_problem(code, status, config, where, region)
    if isinstance(error, boto.ConnectionError | boto.HTTPClientError | boto.IncompleteReadError):
        return _s3_problem("NETWORK_CONNECTION", None, config, where)
    if isinstance(error, boto.UnauthorizedSSOTokenError | boto.TokenRetrievalError):
        return _s3_problem("EXPIRED_TOKEN", None, config, where)
    if not has_credentials():
        return _s3_problem("", None, config, where)
    return StorageOutage(
        f"{where}: the store failed ({type(error).__name__})",
        "try again; if it stays, look into the store's own log",
    )


def _s3_problem(
    code: str, status: int | None, config: StorageConfig | None, where: str, region: str = ""
) -> StorageProblem:
    """Return the problem for an S3 error.

    Args:
        code: as pyarrow spells it, empty where it is not known.
        status: of HTTP, None where it is not known or there was no answer.
        config: None for MLflow's client.
        where: what was asked for.
        region: that the store says the bucket is in, empty where it does not say.
    """
    server = redact(endpoint(config) or "Amazon S3")
    place = "storage.region" if config and config.region else "AWS_REGION"
    setting = "--endpoint" if config else "--endpoint, MLFLOW_S3_ENDPOINT_URL"
    if code in UNREACHABLE:
        return StorageOutage(
            f"{where}: the store at {server} does not answer",
            f"check {setting}, the network and that the server runs, then try again",
        )
    if code == "NO_SUCH_BUCKET":
        bucket = f"the bucket {config.bucket}" if config else "its bucket"
        return StorageProblem(
            f"{where}: {bucket} does not exist at {server}",
            f"create the bucket, or correct {'--storage or ' if config else ''}{setting}",
        )
    if code in REFUSED:
        what, fix = REFUSED[code]
        return StorageProblem(f"{where}: {what}", fix)
    if region or code in OTHER_PLACE or status in REDIRECTED:
        return StorageProblem(
            f"{where}: the store at {server} points elsewhere: the bucket is in "
            f"{f'region {region}' if region else 'another region, or the server at another address'}",
            f"set {place}{f'={region}' if region else f', or check {setting}'}",
        )
    if status == 507 or code == "XMINIO_STORAGE_FULL":
        return StorageProblem(f"{where}: the store is full", "free space there, then try again")
    if "QUOTA" in code:
        return StorageProblem(
            f"{where}: the store's quota is used up ({code})",
            "free space there or have the quota raised, then give the same command again",
        )
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
            "check the credentials, that the key may list, read, write and delete here, and this "
            "machine's clock",
        )
    if status == 400 and not code:  # how S3 answers a HEAD, which has no room for a reason
        return StorageProblem(
            f"{where}: the store refuses and gives no reason (HTTP status 400)",
            f"an expired session token or another region ({place}) does this: check both",
        )
    return StorageProblem(
        f"{where}: the store failed ({_reason(code, status)})",
        "try again; if it stays, look into the store's own log",
    )


def _reason(code: str, status: int | None) -> str:
    return f"{code or 'unknown error'}{f', HTTP status {status}' if status else ''}"
