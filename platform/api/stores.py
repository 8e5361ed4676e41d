"""The store that a caller names."""

from __future__ import annotations

from ..config.layers import Layer, resolve
from ..storage.config import StorageConfig
from ..storage.store import Storage


def open_store(storage: Storage | str | None) -> Storage:
    """Return the store of an address: a folder or s3://bucket/prefix; None: the default one.

    Raises:
        UsageProblem: neither a folder nor a bucket.
    """
    if isinstance(storage, Storage):
        return storage
    given = {} if storage is None else {"uri": storage}
    return Storage(resolve(StorageConfig, [Layer("storage", given)]).value)
