"""S3 clients: address, region, timeouts and retries are the same for all, and set here.

Credentials are never passed on: each client takes them from the usual AWS chain (environment,
profile, instance role) of the machine that it runs on.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ...trainers.s3_filesystem import (
    ATTEMPTS,
    CONNECT_TIMEOUT_S,
    REQUEST_TIMEOUT_S,
    open_s3_filesystem,
)
from .config import StorageConfig

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem  # type: ignore[import-untyped]


def open_filesystem(config: StorageConfig) -> FileSystem:
    """Return a pyarrow filesystem, for files of any size; nothing is contacted yet."""
    return open_s3_filesystem(config.endpoint_url, _region(config))


def open_client(config: StorageConfig, connections: int) -> Any:
    """Return a boto3 client, for single requests; nothing is contacted yet.

    Args:
        connections: requests that may be under way at a time.
    """
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config as Settings  # type: ignore[import-untyped]

    # A session of its own: the default one keeps the first credentials that it finds.
    return boto3.Session().client(
        "s3",
        endpoint_url=config.endpoint_url,
        region_name=_region(config),
        config=Settings(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=REQUEST_TIMEOUT_S,
            retries={"mode": "standard", "max_attempts": ATTEMPTS},
            max_pool_connections=connections,
        ),
    )


def endpoint(config: StorageConfig | None) -> str | None:
    """Return the server's address as the clients find it; None for Amazon S3.

    Args:
        config: None for MLflow's client.
    """
    names = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
    if config is None:
        names.insert(0, "MLFLOW_S3_ENDPOINT_URL")
    in_environment = (os.environ[name] for name in names if os.environ.get(name))
    return (config and config.endpoint_url) or next(in_environment, None)


def environment(config: StorageConfig) -> dict[str, str]:
    """Return variables by which MLflow's own S3 client uses the same endpoint and region."""
    variables: dict[str, str] = {}
    if config.bucket is None:
        return variables
    if url := config.endpoint_url:
        variables |= {"AWS_ENDPOINT_URL_S3": url, "MLFLOW_S3_ENDPOINT_URL": url}
    if region := _region(config):
        variables |= {"AWS_REGION": region, "AWS_DEFAULT_REGION": region}
    return variables


def has_credentials() -> bool:
    """Return whether the usual chain finds a key; a role's metadata service may be asked."""
    import boto3
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

    try:
        return boto3.Session().get_credentials() is not None
    except BotoCoreError:  # such as a profile that does not exist
        return False


def _region(config: StorageConfig) -> str | None:
    # Named whenever it can be: pyarrow's SDK otherwise asks a cloud's metadata service for it.
    default = "us-east-1" if config.endpoint_url else None
    from_environment = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return config.region or from_environment or default
