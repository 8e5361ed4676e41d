"""What a data set is known by: its settings, and the names, sizes and versions of all its files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...trainers.data import DataConfig, TarShards
from ...trainers.data.bucket_files import SCHEME
from ...trainers.data.encoded_config import EncodedConfig
from ...trainers.data.locations import in_bucket, open_files
from ...trainers.data.parquet_files import find_files
from ...trainers.data.tar_shards import find_archives
from ...trainers.errors import UsageProblem
from ..storage.config import StorageConfig
from ..storage.errors import boto3_problem, raised_by_boto3
from ..storage.s3 import open_client

FORMAT = 1
"""Of keys and pointers: raise it when the same settings and files give other rows."""
LOCATIONS = ("root", "path", "train_list", "reference_list")
"""Keys of a data section that name files, folders or addresses."""
OF_TRAINING = ("class_sampling", "flip")
"""Keys that say how images are trained on, not which they are."""


def is_packable(data: DataConfig) -> bool:
    """Return whether a source has encoded images, which are decoded before they are used."""
    return isinstance(data, EncodedConfig)


def locations(data: DataConfig) -> list[str | Path]:
    """Return the files, folders and addresses that a data section names."""
    found: list[str | Path] = []
    for key in LOCATIONS:
        value = getattr(data, key, None)
        found += value if isinstance(value, tuple) else [value] if value is not None else []
    return found


def of_bucket(data: DataConfig) -> bool:
    """Return whether a source is in a bucket, in whole or in part."""
    return any(map(in_bucket, locations(data)))


def config_key(data: DataConfig) -> str:
    """Return a name for the settings that say which images a source has, 32 hex digits."""
    settings = {k: v for k, v in data.model_dump(mode="json").items() if k not in OF_TRAINING}
    for key in LOCATIONS:
        if isinstance(value := getattr(data, key, None), Path):
            settings[key] = _spelled(value)
    return _hash([FORMAT, settings])


def source_state(data: DataConfig, endpoint: str | None) -> str:
    """Return a name for all that a source's rows depend on, 32 hex digits, without reading an image.

    Of objects, their names, sizes and ETags; of files, their names, sizes, times, inodes and devices.

    Args:
        endpoint: of the S3 server, None for Amazon's.

    Raises:
        Problem: they cannot be listed.
    """
    find = find_archives if isinstance(data, TarShards) else find_files
    listed = [entry for location in locations(data) for entry in _facts(location, endpoint, find)]
    return _hash([config_key(data), listed])


def check_packable(data: DataConfig) -> EncodedConfig:
    """Return a source that can be packed.

    Raises:
        UsageProblem: its images are decoded already.
    """
    if not isinstance(data, EncodedConfig):
        raise UsageProblem(
            f"data.source={data.source} has no encoded images: there is nothing to pack",
            "give a folder, lists, Parquet files or tar archives of images",
        )
    return data


def _facts(
    location: str | Path, endpoint: str | None, find: Callable[[Path], Sequence[Any]]
) -> Iterator[list[Any]]:
    """Yield what is known of all files that a location names; `find` returns those of a local pattern."""
    if isinstance(location, str):
        yield from _of_objects(location, endpoint)
        return
    path = location.expanduser().absolute()
    if path.is_dir():
        for name, facts in open_files(path).list().items():
            yield [_spelled(path), name, facts.bytes, facts.version]
        return
    for file in [path] if path.is_file() else find(path):
        stat = file.stat()
        yield [
            _spelled(file),
            stat.st_size,
            stat.st_mtime_ns,
            stat.st_ctime_ns,
            stat.st_ino,
            stat.st_dev,
        ]


def _of_objects(uri: str, endpoint: str | None) -> Iterator[list[Any]]:
    """Yield address, key, size and ETag of all objects that an address, a folder or a pattern names."""
    config = StorageConfig(uri=SCHEME + uri.removeprefix(SCHEME).partition("/")[0])
    if endpoint:
        config = config.model_copy(update={"endpoint_url": endpoint})
    bucket, _, prefix = uri.removeprefix(SCHEME).partition("/")
    first = next((i for i, c in enumerate(prefix) if c in "*?[{"), len(prefix))
    try:
        pages = open_client(config, 1).get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket, Prefix=prefix[:first]):
            for each in page.get("Contents", ()):
                key = each["Key"]
                if first == len(prefix) and key != prefix and not _is_below(key, prefix):
                    continue
                yield [uri, key, each["Size"], each["ETag"]]
    except Exception as error:
        if not raised_by_boto3(error):
            raise
        raise boto3_problem(error, config, uri) from error


def _spelled(path: Path) -> str:
    """Return the one spelling of a path on every machine, whatever `..` it was typed with."""
    return os.path.normpath(path.expanduser().absolute())


def _is_below(key: str, prefix: str) -> bool:
    return not prefix or key.startswith(f"{prefix.rstrip('/')}/")


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
