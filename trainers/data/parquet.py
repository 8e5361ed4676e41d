"""A Parquet file with a column of encoded images, one of labels and one of splits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from ..errors import DataProblem
from .decoding import EncodedConfig, EncodedImages
from .source import Splits

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]


class Parquet(EncodedConfig):
    """Rows of one Parquet file.

    Class names are the schema's metadata `class_names`, joined by commas, or the labels' numbers.
    """

    source: Literal["parquet"] = "parquet"
    path: Path
    """The file."""
    image_size: int = Field(default=32, ge=1)
    """Height and width in pixels; 32 is CIFAR's. Other images are cropped and resized."""
    image_column: str = "image"
    """Column of encoded images (PNG, JPEG, WebP, ...), binary."""
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

        names = (table.schema.metadata or {}).get(b"class_names")
        return self.pack(
            cache,
            read(self.train_split),
            read(self.reference_split),
            names.decode().split(",") if names else None,
        )

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
            schema = parquet.read_schema(path)
            missing = [column for column in types if column not in schema.names]
            if missing:
                raise DataProblem(
                    f"{path}: no column {missing[0]}", f"it has {', '.join(schema.names)}"
                )
            table = parquet.read_table(path, columns=list(types))
        except (pa.ArrowException, OSError) as error:
            raise DataProblem(
                f"{path}: not a Parquet file that can be read ({type(error).__name__})",
                "correct data.path, or write the file again",
            ) from error
        for column, (wanted, what) in types.items():
            position = table.schema.names.index(column)
            try:
                cast = table[column].cast(wanted)
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
