"""Parquet files: which there are, their columns, and the class names that they hold."""

from __future__ import annotations

import fnmatch
import glob
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataProblem
from .bucket_files import BucketFile
from .report import PATH_SHOWN, listed, shown

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet as pq

ParquetPath = Path | BucketFile
"""A Parquet file of this machine, or of a bucket."""


def find_files(paths: str | Path | Iterable[str | Path]) -> list[ParquetPath]:
    """Return the files that a path, or several, name: a file, a folder of Parquet files, or a pattern.

    Raises:
        DataProblem: a path that names none.
    """
    files: list[ParquetPath] = []
    for given in [paths] if isinstance(paths, str | Path) else paths:
        if isinstance(given, str):
            files += [file for file in find_in_bucket(given, (".parquet",)) if file not in files]
            continue
        path = given.expanduser()
        try:
            if path.is_dir():
                inside = sorted(path.rglob("*.parquet"))
                matching = [file for file in inside if not file.name.startswith(".")]
                what = "a folder without a .parquet file"
            elif path.is_file():
                matching = [path]
            else:
                matching = sorted(Path(file) for file in glob.glob(str(path), recursive=True))
                what = "no file of this pattern" if glob.has_magic(str(path)) else "no such file"
                if path.exists():  # reading a pipe or a device may never end
                    matching, what = [], "not a file"
        except (OSError, ValueError) as error:
            raise unreadable(path, error) from error
        if not matching:
            raise DataProblem(
                f"{shown(path)[:PATH_SHOWN]}: {what}, not a Parquet file", "correct data.path"
            )
        files += [file for file in matching if file not in files]
    return files


def find_in_bucket(uri: str, suffixes: tuple[str, ...]) -> list[BucketFile]:
    """Return the objects that an s3:// address names: one, all of these suffixes below it, or a pattern.

    Raises:
        DataProblem: there is none.
    """
    file = BucketFile.at(uri)
    bucket, name = file.files, file.name_in_bucket
    folder = name
    if glob.has_magic(name):
        first = next(i for i, c in enumerate(name) if c in "*?[")
        folder = name[:first].rpartition("/")[0]
    listed_facts = bucket.list(folder)
    if not listed_facts:  # an object by itself, which is in no folder of its name
        above = name.rpartition("/")[0]
        listed_facts = {key: facts for key, facts in bucket.list(above).items() if key == name}
    elif glob.has_magic(name):
        listed_facts = {k: v for k, v in listed_facts.items() if fnmatch.fnmatchcase(k, name)}
    else:
        listed_facts = {
            key: facts
            for key, facts in listed_facts.items()
            if key.endswith(suffixes) and not key.rpartition("/")[2].startswith(".")
        }
    if not listed_facts:
        raise DataProblem(
            f"{shown(uri)[:PATH_SHOWN]}: no file, and none of {listed(suffixes)} below it",
            "correct data.path",
        )
    return [BucketFile(bucket, key, facts) for key, facts in listed_facts.items()]


def open_parquet_file(path: ParquetPath) -> pq.ParquetFile:
    """Return a Parquet file of which the schema and the row groups' places are read.

    Raises:
        DataProblem: no Parquet file that can be read.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path if isinstance(path, Path) else path.open(), pre_buffer=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(path, error) from error


def read_schema(path: ParquetPath) -> pa.Schema:
    """Return the columns of a file.

    Raises:
        DataProblem: no Parquet file that can be read.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_schema(path if isinstance(path, Path) else path.open())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(path, error) from error


def unreadable(path: object, error: Exception) -> DataProblem:
    """Return what is said of a file that Arrow cannot read."""
    return DataProblem(
        f"{shown(path)[:PATH_SHOWN]}: not a Parquet file that can be read ({type(error).__name__})",
        "correct data.path, or write the file again",
    )


def holds_text(kind: pa.DataType) -> bool:
    """Return whether a column of this type has text, also where each text is stored once."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def bytes_of(path: object, column: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the bytes of images as Hugging Face writes them, {bytes, path}.

    Raises:
        DataProblem: no bytes in the column, or rows without them.
    """
    import pyarrow as pa
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    fields = [values.type.field(i).name for i in range(values.type.num_fields)]
    if "bytes" not in fields:
        raise DataProblem(
            f"{path}: column {column} has {listed(fields)}, but no bytes",
            "write the images themselves into the file, as `bytes`",
        )
    inside = pc.struct_field(values, "bytes")
    if pa.types.is_null(inside.type) or inside.null_count:
        raise DataProblem(
            f"{path}: column {column} has rows without bytes, only with the path of an image",
            "write the images themselves into the file, as `bytes`",
        )
    return inside


def read_class_names(
    path: object, metadata: Mapping[bytes, bytes], label_column: str
) -> list[str] | None:
    """Return the names of classes in a schema's metadata; None where there are none.

    Raises:
        DataProblem: names that are not text.
    """
    try:
        if text := metadata.get(b"class_names", b"").decode():
            names = json.loads(text) if text.startswith("[") else text.split(",")
        else:
            features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
            names = features[label_column]["names"]
    except (ValueError, RecursionError) as error:
        raise DataProblem(
            f"{path}: class names in its metadata that cannot be read ({type(error).__name__})",
            "write class_names in UTF-8, joined by commas or as a JSON list",
        ) from error
    except (KeyError, TypeError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataProblem(
            f"{path}: class names in its metadata that are not a list of texts",
            "write class_names in UTF-8, joined by commas or as a JSON list",
        )
    return names
