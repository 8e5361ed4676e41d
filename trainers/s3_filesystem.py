"""The one way in which a bucket is opened for files of any size: timeouts and retries are the same for all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem  # type: ignore[import-untyped]

CONNECT_TIMEOUT_S = 3.0
REQUEST_TIMEOUT_S = 20.0
ATTEMPTS = 3
"""Together: a server that is down is reported within seconds; a brief hiccup is ridden out."""


def open_s3_filesystem(endpoint: str | None, region: str | None) -> S3FileSystem:
    """Return a pyarrow filesystem; nothing is contacted yet, and credentials come from the usual AWS chain.

    Args:
        endpoint: address of the server, None for Amazon's or that of the environment.
        region: None: the SDK finds it, and may ask a cloud's metadata service.
    """
    from pyarrow import fs  # type: ignore[import-untyped]

    options: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "request_timeout": REQUEST_TIMEOUT_S,
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    }
    if endpoint:
        options["endpoint_override"] = endpoint
    if region:
        options["region"] = region
    return fs.S3FileSystem(**options)


def code_and_status(error: OSError) -> tuple[str, int | None]:
    """Return S3's code and the status of HTTP in pyarrow's text of an error.

    The code is as pyarrow spells it, "UNKNOWN" where it does not know it and the answer was empty, and "" where
    the error is none of S3's.
    """
    match = re.search(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))?", str(error))
    if match is None:
        return "", None
    code, status = match.groups()
    if code == "UNKNOWN":  # to the AWS SDK, which names it all the same unless the answer was empty
        named = re.search(r"Unable to parse ExceptionName: (\w+)", str(error))
        code = as_pyarrow_spells(named[1]) if named else code
    return code, int(status) if status else None


def as_pyarrow_spells(code: str) -> str:
    """Return S3's code as pyarrow spells it: NoSuchBucket is NO_SUCH_BUCKET."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", code).upper()
