"""The S3 server and region of a store, for data in buckets, too."""

from __future__ import annotations

import os

from ..storage.config import ENDPOINT_VARIABLES, StorageConfig

REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")


def use_endpoint(storage: StorageConfig) -> None:
    """Have this process, and those that it starts, reach buckets of data at the store's server.

    Variables that name another one hold; keys come from the usual AWS chain, and are not touched.
    """
    if storage.endpoint_url:
        os.environ["AWS_ENDPOINT_URL_S3"] = storage.endpoint_url
    if storage.region and not any(map(os.environ.get, REGIONS)):
        os.environ["AWS_REGION"] = storage.region


def environment_of(storage: StorageConfig) -> dict[str, str]:
    """Return the variables by which other machines reach the same server; none of them is a key."""
    names = (*ENDPOINT_VARIABLES, *REGIONS)
    variables = {name: os.environ[name] for name in names if os.environ.get(name)}
    if storage.endpoint_url:
        variables["AWS_ENDPOINT_URL_S3"] = storage.endpoint_url
    if storage.region:
        variables.setdefault("AWS_REGION", storage.region)
    return variables
