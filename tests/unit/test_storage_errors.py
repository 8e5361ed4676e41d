"""What S3 refuses reads the same, whichever client asked."""

from __future__ import annotations

import pytest
from botocore import exceptions as boto

from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.errors import (
    StorageOutage,
    StorageProblem,
    boto3_problem,
    pyarrow_problem,
)

CONFIG = StorageConfig(uri="s3://bucket/runs", endpoint_url="http://host:9000")


def asked(code: str, status: int) -> boto.ClientError:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return boto.ClientError(answer, "PutObject")


@pytest.mark.parametrize(
    ("pyarrow", "boto3", "outage", "said"),
    [
        ("NETWORK_CONNECTION", boto.EndpointConnectionError(endpoint_url="x"), True, "not answer"),
        ("REQUEST_TIMEOUT", boto.ReadTimeoutError(endpoint_url="x"), True, "does not answer"),
        ("NO_SUCH_BUCKET", asked("NoSuchBucket", 404), False, "bucket bucket does not exist"),
        ("ACCESS_DENIED", asked("AccessDenied", 403), False, "access denied"),
        ("UNKNOWN (HTTP status 403)", asked("403", 403), False, "access denied"),
        ("INVALID_ACCESS_KEY_ID", asked("InvalidAccessKeyId", 403), False, "unknown key or wrong"),
        ("UNKNOWN (HTTP status 507)", asked("507", 507), False, "the store is full"),
        ("SLOW_DOWN", asked("SlowDown", 503), True, "asks to slow down (SLOW_DOWN)"),
        ("SERVICE_UNAVAILABLE", asked("ServiceUnavailable", 503), True, "asks to slow down"),
        ("THROTTLING", asked("Throttling", 400), True, "asks to slow down"),
        ("UNKNOWN (HTTP status 503)", asked("503", 503), True, "failed"),
        ("REQUEST_TIME_TOO_SKEWED", asked("RequestTimeTooSkewed", 403), False, "clocks"),
        ("INTERNAL_FAILURE (HTTP status 500)", asked("InternalFailure", 500), True, "failed"),
    ],
)
def test_both_clients_errors_read_the_same(
    pyarrow: str,
    boto3: Exception,
    outage: bool,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    message = f"When reading object 'x': AWS Error {pyarrow} during PutObject operation"
    problems = [
        pyarrow_problem(OSError(message), CONFIG, "s3://bucket/runs/x"),
        boto3_problem(boto3, CONFIG, "s3://bucket/runs/x"),
    ]
    assert problems[0].what == problems[1].what
    assert problems[0].fix == problems[1].fix
    for problem in problems:
        assert said in problem.what
        assert type(problem) is (StorageOutage if outage else StorageProblem)


@pytest.mark.parametrize(
    "code", ["RequestLimitExceeded", "ThrottlingException", "TooManyRequests", "InternalError"]
)
def test_throttling_is_an_outage_by_its_code_whatever_the_status(code: str) -> None:
    assert type(boto3_problem(asked(code, 400), CONFIG, "x")) is StorageOutage
