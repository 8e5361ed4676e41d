"""What S3 refuses reads the same, whichever client asked."""

from __future__ import annotations

import socket

import pytest
from botocore import exceptions as boto
from support.proxy import MOVED, Proxy

from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.errors import (
    StorageOutage,
    StorageProblem,
    boto3_problem,
    pyarrow_problem,
)
from whipray.platform.storage.objects import Bucket
from whipray.platform.storage.store import Storage

CONFIG = StorageConfig(uri="s3://bucket/runs", endpoint_url="http://host:9000")


def asked(code: str, status: int) -> boto.ClientError:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return boto.ClientError(answer, "PutObject")


def named(code: str, status: int) -> str:
    return (
        f"UNKNOWN (HTTP status {status}): Unable to parse ExceptionName: {code} Message: A detail"
    )


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
        (named("ExpiredToken", 400), asked("ExpiredToken", 400), False, "token has expired"),
        (
            named("InvalidToken", 403),
            asked("InvalidToken", 403),
            False,
            "refuses the session token",
        ),
        ("UNKNOWN (HTTP status 301)", asked("301", 301), False, "in another region"),
        (named("PermanentRedirect", 301), asked("PermanentRedirect", 301), False, "another region"),
        (
            named("AuthorizationHeaderMalformed", 400),
            asked("AuthorizationHeaderMalformed", 400),
            False,
            "the bucket is in another region",
        ),
        (named("QuotaExceeded", 403), asked("QuotaExceeded", 403), False, "quota is used up"),
        (
            named("XMinioAdminBucketQuotaExceeded", 400),
            asked("XMinioAdminBucketQuotaExceeded", 400),
            False,
            "quota is used up",
        ),
        ("UNKNOWN (HTTP status 400)", asked("400", 400), False, "gives no reason"),
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
    status, _, rest = pyarrow.partition(": ")
    message = f"When reading object 'x': AWS Error {status} during PutObject operation: {rest}"
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


def test_a_region_that_the_store_names_is_named() -> None:
    text = (
        "When getting information for key 'x' in bucket 'b': AWS Error UNKNOWN (HTTP status 301) during "
        "HeadObject operation: No response body. Looks like the configured region is 'us-east-1' while "
        "the bucket is located in 'eu-west-1'."
    )
    answer = asked("301", 301)
    answer.response["ResponseMetadata"]["HTTPHeaders"] = {"x-amz-bucket-region": "eu-west-1"}
    problems = [pyarrow_problem(OSError(text), CONFIG, "x"), boto3_problem(answer, CONFIG, "x")]
    assert {problem.fix for problem in problems} == {"set AWS_REGION=eu-west-1"}


def test_a_redirect_without_a_region_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore asks for the region until Python's stack is full."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Proxy(server.getsockname()[1]) as proxy,
    ):
        proxy.refusal, proxy.requests_to_refuse = MOVED, 10**6
        store = Storage(StorageConfig(uri="s3://bucket/runs", endpoint_url=proxy.endpoint))
        with pytest.raises(StorageProblem, match=r"points elsewhere.*AWS_REGION"):
            Bucket(store).get("study")
