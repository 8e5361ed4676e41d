"""What may be shown: no login, no secret option, one line of an exception."""

from __future__ import annotations

import pytest

from whipray.platform.foundation.text import (
    describe_exception,
    last_line,
    redact,
    without_login,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:s3cr3t@host:5000", "http://***@host:5000"),
        ("https://s3cr3t@host", "https://***@host"),
        ("postgresql://ann:s3cr3t/with@both@host/db", "postgresql://***@host/db"),
        ("mysql+pymysql://:s3cr3t@host/db", "mysql+pymysql://***@host/db"),
        (
            "postgresql://host/db?user=ann&password=s3cr3t&a=b",
            "postgresql://host/db?user=ann&password=***&a=b",
        ),
        ("http://s/o?X-Amz-Signature=s3cr3t", "http://s/o?X-Amz-Signature=***"),
        (
            "no route to http://ann:s3cr3t@a, nor to http://b",
            "no route to http://***@a, nor to http://b",
        ),
    ],
)
def test_no_secret_of_an_address_is_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/path",
        "s3://bucket/run@2",
        "models:/digits@champion",
        "sqlite:////a/b@c.db",
        "ann@host",
    ],
)
def test_what_holds_no_secret_is_shown_as_it_is(text: str) -> None:
    assert redact(text) == without_login(text) == text


def test_an_address_without_its_login_can_be_used() -> None:
    assert without_login("http://ann:s3cr3t@host:5000/x") == "http://host:5000/x"


def test_an_exception_is_one_short_line_without_secrets() -> None:
    error = ValueError("\nno answer from http://ann:s3cr3t@host\nmore\n")
    assert describe_exception(error) == "ValueError: no answer from http://***@host"
    assert last_line(error) == "more"
    assert describe_exception(KeyError()) == last_line(KeyError()) == "KeyError"
    assert len(describe_exception(ValueError("x" * 1000))) == 300
