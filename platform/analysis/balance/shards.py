"""Parquet files of a balanced set, as Hugging Face's `datasets` writes images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ....trainers.whole_files import whole_file
from .manifest import Chunk


def write_shard(
    path: Path, chunk: Chunk, names: Sequence[str], images: Sequence[bytes], classes: Sequence[str]
) -> None:
    """Write the images of a chunk, whole or not at all: struct {bytes, path}, label, split and generated.

    Args:
        names: (n,) of the images.
        images: (n,) encoded.
        classes: names of all classes, by id.
    """
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pairs = zip(images, names, strict=True)
    table = pa.table(
        {
            "image": pa.array([{"bytes": image, "path": name} for image, name in pairs], struct),
            "label": pa.array(chunk.labels),
            "split": pa.repeat(pa.scalar(chunk.split), len(names)),
            "generated": pa.array(chunk.is_generated),
        }
    )
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(classes), "_type": "ClassLabel"},
        "split": {"dtype": "string", "_type": "Value"},
        "generated": {"dtype": "bool", "_type": "Value"},
    }
    table = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    with whole_file(path) as stream:
        parquet.write_table(table, stream, row_group_size=1000)


def read_shard(path: Path, names: Sequence[str]) -> list[bytes] | None:
    """Return the encoded images of a file with just these names; None where there is no such file."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        images = parquet.read_table(path, columns=["image"], partitioning=None)["image"].to_pylist()
    except (OSError, pa.ArrowException):
        return None
    if [image["path"] for image in images] != list(names):
        return None
    return [image["bytes"] for image in images]
