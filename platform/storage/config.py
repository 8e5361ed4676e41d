"""The `storage:` block of a config."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from ...trainers.config import Config
from ...trainers.errors import UsageProblem
from ..foundation.addresses import check_no_secret
from ..foundation.settings import setting

ADVICE = "give the address alone; keys come from AWS_*"
VARIABLE = "WHIPRAY_STORAGE"
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def default_uri() -> str:
    """Return the store that is used where no option, override or file names one.

    Raises:
        UsageProblem: WHIPRAY_STORAGE, or the `storage` of a settings file, is neither a folder nor a bucket.
    """
    uri, named = os.environ.get(VARIABLE), VARIABLE
    if not uri and (given := setting("storage")):
        uri, named = given.value, f"{given.file}: storage"
    try:
        return check_uri(uri, named) if uri else "./whipray-runs"
    except ValueError as error:
        raise UsageProblem(f"{named}={uri} cannot be used", str(error)) from error


def default_endpoint() -> str | None:
    """Return the `endpoint` of a settings file; None where there is none, or the environment names one."""
    given = setting("endpoint", *ENDPOINT_VARIABLES)
    return given.value if given else None


def check_uri(uri: str, name: str) -> str:
    """Return the address of a store.

    Args:
        uri: what was given.
        name: the key or variable that it was given for.

    Raises:
        UsageProblem: it holds a login, options or a fragment.
        ValueError: neither a folder nor a bucket.
    """
    check_no_secret(uri, name, ADVICE)
    uri = re.sub("^s3:/", "s3:/", uri, flags=re.IGNORECASE)
    if re.match(r"[A-Za-z][A-Za-z0-9]+:/(?!/)", uri):
        raise ValueError("write two slashes, as in s3://bucket/prefix")
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc:
        raise ValueError("use a folder or s3://bucket/prefix")
    return uri.rstrip("/")


class StorageConfig(Config):
    """Where checkpoints, samples and artifacts go. No secret belongs here."""

    uri: str = Field(default_factory=default_uri, min_length=1)
    """A folder (relative ones are resolved where they are first opened) or s3://bucket/prefix.
    Default: WHIPRAY_STORAGE, `storage` in whipray.toml, or ./whipray-runs."""
    endpoint_url: str | None = Field(default_factory=default_endpoint)
    """Address of an S3 server that is not Amazon's, http(s)://host:port. None: Amazon S3, or the
    address in AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL."""
    region: str | None = None
    """Region of the bucket. None: from the environment, and us-east-1 for an `endpoint_url`."""
    retry_timeout_s: float = Field(default=300.0, ge=0)
    """How long operations are retried when a store that has answered before stops answering. A
    store that never answered fails within seconds."""

    @property
    def bucket(self) -> str | None:
        """Name of the bucket, None for a folder."""
        return self.uri.split("/")[2] if self.uri.startswith("s3://") else None

    @field_validator("uri")
    @classmethod
    def _folder_or_bucket(cls, uri: str) -> str:
        return check_uri(uri, "storage.uri")

    @field_validator("endpoint_url")
    @classmethod
    def _plain_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(check_no_secret(url, "storage.endpoint_url", ADVICE))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("use http://host:port or https://host:port")
        return url.rstrip("/")
