"""Where images are: a path of this machine, or an address in a bucket."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from ..errors import UsageProblem
from .bucket_files import SCHEME, BucketFiles
from .files import Files, LocalFiles


def as_written(value: object) -> object:
    """Return an address that was a `Path` for a moment, and lost a slash by it, as it was written."""
    if isinstance(value, Path) and value.parts[:1] == ("s3:",):
        return SCHEME + "/".join(value.parts[1:])
    if isinstance(value, str) and value.startswith(SCHEME):
        return SCHEME + value[len(SCHEME) :].strip("/")
    return value


Location = Annotated[
    Annotated[str, Field(pattern=rf"^{SCHEME}")] | Path,
    Field(union_mode="left_to_right"),
    BeforeValidator(as_written),
]
"""In a config: an s3:// address, or a path of this machine."""


def in_bucket(location: object) -> bool:
    """Return whether a location of a config is an address in a bucket."""
    return isinstance(location, str) and location.startswith(SCHEME)


def open_files(uri: str | Path) -> Files:
    """Return the files below a folder or below s3://bucket/prefix; nothing is contacted yet.

    The address of a server that is not Amazon's, its region and all credentials are taken from the
    AWS_* variables and files, as by any of Amazon's clients.

    Raises:
        UsageProblem: an address that is neither, or that holds a login.
    """
    text = str(uri)
    if not in_bucket(text):
        if re.match(r"[A-Za-z][A-Za-z0-9+]+://", text):
            scheme = text.partition("://")[0]
            raise UsageProblem(f"{scheme}:// cannot be read", "give a folder or s3://bucket/prefix")
        return LocalFiles(text)
    host = text.removeprefix(SCHEME).partition("/")[0]
    if "@" in host or not host:
        raise UsageProblem(
            "an s3:// address without a bucket, or with a login in it",
            "give s3://bucket/prefix alone; keys come from AWS_*",
        )
    return BucketFiles(text.rstrip("/"))
