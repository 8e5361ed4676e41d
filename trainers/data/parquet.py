"""A Parquet file with a column of encoded images, one of labels and one of splits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from ..errors import DataProblem
from .decoding import PATH_SHOWN, EncodedImages
from .encoded_config import EncodedConfig
from .report import listed, shown
from .source import Splits

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]


class Parquet(EncodedConfig):
    """Rows of one Parquet file.

    Class names are the schema's metadata `class_names`, joined by commas or as a JSON list, those of
    Hugging Face's `ClassLabel`, or the labels' numbers.
    """

    source: Literal["parquet"] = "parquet"
    path: Path
    """The file."""
    image_size: int = Field(default=32, ge=1)
    """Height and width in pixels; 32 is CIFAR's. Other images are cropped and resized."""
    image_column: str = "image"
    """Column of encoded images (PNG, JPEG, WebP, ...), binary, or as Hugging Face's {bytes, path}."""
    label_column: str = "label"
    """Column of class numbers from 0, integer."""
    split_column: str = "split"
    """Column with the split of each row, text."""
    train_split: str = "train"
    """Value of `split_column` for training images."""
    reference_split: str = "test"
    """Value of `split_column` for the balanced images to compare with."""

    def load(self, cache: Path) -> Splits:
        """Read both splits; see `SourceConfig`."""
        path = self.path.expanduser()
        table = self._table(path)
        labels = table[self.label_column].to_numpy().astype(np.int64)
        splits = table[self.split_column].to_numpy()
        images = table[self.image_column]

        def read(split: str) -> EncodedImages:
            rows = np.flatnonzero(splits == split)
            if not rows.size:
                raise DataProblem(
                    f"{path}: no row has `{split}` in column {self.split_column}",
                    f"choose one of: {', '.join(sorted(set(splits))[:5])}",
                )
            return EncodedImages(
                [images[int(row)].as_py() for row in rows],
                labels[rows],
                lambda i: f"{path}, row {rows[i]}",
            )

        names = read_class_names(path, table.schema.metadata or {}, self.label_column)
        if names is not None and (count := len(np.unique(labels))) < len(names):
            raise DataProblem(
                f"{path}: its metadata have {len(names)} class names for {count} classes with images",
                "write class_names as a JSON list if a name holds a comma, else without the classes "
                "that have no image",
            )
        return self.pack(cache, read(self.train_split), read(self.reference_split), names)

    def _table(self, path: Path) -> pa.Table:
        """Return the three columns, without nulls, the splits as text."""
        import pyarrow as pa
        from pyarrow import parquet

        types = {
            self.image_column: (pa.large_binary(), "bytes"),
            self.label_column: (pa.int64(), "whole numbers"),
            self.split_column: (pa.string(), "text"),
        }
        try:
            if not path.is_file():  # reading a pipe or a device may never end
                what = "a folder" if path.is_dir() else "no such file"
                raise DataProblem(f"{shown(path)}: {what}, not a Parquet file", "correct data.path")
            schema = parquet.read_schema(path)
            self._check_columns(path, schema.names, types)
            table = parquet.read_table(path, columns=list(types))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataProblem(
                f"{shown(path)[:PATH_SHOWN]}: not a Parquet file that can be read "
                f"({type(error).__name__})",
                "correct data.path, or write the file again",
            ) from error
        for column, (wanted, what) in types.items():
            position = table.schema.names.index(column)
            values = table[column]
            if column == self.image_column and pa.types.is_struct(values.type):
                values = _bytes_of(path, column, values)
            try:
                cast = values.cast(wanted)
            except pa.ArrowException as error:
                raise DataProblem(
                    f"{path}: column {column} is {table[column].type}, not {what}",
                    f"write it as {what}, or name another column",
                ) from error
            if cast.null_count:
                row = int(np.flatnonzero(cast.is_null().to_numpy())[0])
                raise DataProblem(
                    f"{path}, row {row}: nothing in column {column}",
                    "fill it in, or remove the row",
                )
            table = table.set_column(position, column, cast)
        return table

    def _check_columns(self, path: Path, present: Sequence[str], wanted: Iterable[str]) -> None:
        missing = [column for column in wanted if column not in present]
        if missing == [self.split_column]:
            raise DataProblem(
                f"{path}: no column {self.split_column}, which says of each row whether it is "
                f"`{self.train_split}` or `{self.reference_split}`",
                "where each split is a file of its own, write one file of all with that column: "
                "pyarrow.concat_tables, Table.append_column",
            )
        if missing:
            raise DataProblem(
                f"{path}: no column {listed(missing)}",
                f"it has {listed(present)}; name them in data.image_column, data.label_column and "
                "data.split_column",
            )


def _bytes_of(path: Path, column: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the bytes of images as Hugging Face writes them, {bytes, path}."""
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
    path: Path, metadata: Mapping[bytes, bytes], label_column: str
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
