"""Parquet files with a column of encoded images and one of labels, as Hugging Face has them too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..errors import DataProblem
from .encoded import EncodedImages
from .encoded_config import EncodedConfig
from .encoded_splits import EncodedSplits
from .files import Files
from .label_texts import number_labels
from .locations import Location
from .packed import Indices
from .parquet_cells import Cell, CellReader
from .parquet_files import (
    ParquetPath,
    bytes_of,
    find_files,
    holds_text,
    open_parquet_file,
    read_class_names,
    unreadable,
)
from .report import Note, counted, listed, shown
from .split_names import REFERENCE, TRAIN, split_of

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet as pq


class Parquet(EncodedConfig):
    """Rows of one Parquet file or of several.

    Class names are the schema's metadata `class_names`, joined by commas or as a JSON list, those of
    Hugging Face's `ClassLabel`, the labels themselves where they are text, or the labels' numbers.
    """

    source: Literal["parquet"] = "parquet"
    path: Location | tuple[Location, ...]
    """The file, several of them, a folder of such files, or a pattern such as `photos/train-*.parquet`; of
    this machine or s3:// addresses of one bucket."""
    image_size: int = Field(default=32, ge=1)
    """Height and width in pixels; 32 is CIFAR's. Other images are cropped and resized."""
    image_column: str = "image"
    """Column of encoded images (PNG, JPEG, WebP, ...), binary, or as Hugging Face's {bytes, path}."""
    label_column: str = "label"
    """Column of class numbers from 0, or of class names."""
    split_column: str = "split"
    """Column with the split of each row, text. Files without it say their split by their name
    (`train-00000-of-00002.parquet`) or their folder's; else all rows are to train on."""
    train_split: str = "train"
    """Value of `split_column` for training images, or word in the names of their files."""
    reference_split: str | None = None
    """Likewise, of the images to compare with. None: `reference`, `test`, `val`, `valid`, `validation` or
    `dev`, whichever there is first; else images are held out."""

    def prepare(self, cache: Path) -> EncodedSplits:
        """Return which images are of which split; see `EncodedConfig`.

        Of the files the columns of labels and splits are read; the images when they are decoded, a row
        group at a time.
        """
        paths = find_files(self.path)
        files = [open_parquet_file(path) for path in paths]
        for path, file in zip(paths, files, strict=True):
            self._check_columns(path, file.schema_arrow)
        by_column = self.split_column in files[0].schema_arrow.names
        tables = [
            self._table(path, file, by_column) for path, file in zip(paths, files, strict=True)
        ]
        counts = [len(table) for table in tables]
        starts = np.cumsum([0, *counts])

        def where(row: int) -> str:
            of = int(np.searchsorted(starts, row, side="right")) - 1
            return f"{shown(paths[of])}, row {row - starts[of]}"

        if by_column:
            splits = np.concatenate([table[self.split_column].to_numpy() for table in tables])
        else:
            splits = np.repeat(self.splits_by_name(paths), counts)
        labels = np.concatenate([table[self.label_column].to_numpy() for table in tables])
        chosen = self.choose_rows(splits, labels, listed([shown(path) for path in paths[:2]]))
        metadata = files[0].schema_arrow.metadata or {}
        names = read_class_names(paths[0], metadata, self.label_column)
        if labels.dtype.kind == "O":
            used = np.flatnonzero(chosen.used)
            ids, names = number_labels(labels[used].tolist(), names, lambda i: where(used[i]))
            labels = np.full(len(labels), -1, np.int64)
            labels[used] = ids
        _check_names_used(paths[0], names, labels)
        items = self._cells(paths, files)
        of_bucket = [path for path in paths if not isinstance(path, Path)]
        root: Path | Files = of_bucket[0].files if of_bucket else Path()
        facts = {file.name_in_bucket: file.facts for file in of_bucket if file.facts is not None}
        reader = CellReader()

        def read(rows: Indices, notes: tuple[Note, ...] = ()) -> EncodedImages:
            return EncodedImages(
                [items[row] for row in rows],
                labels[rows],
                lambda i: where(int(rows[i])),
                root,
                notes,
                facts if of_bucket else None,
                reader,
            )

        train = read(np.flatnonzero(chosen.train), chosen.notes)
        if chosen.reference is None:
            return self.choose(cache, train, None, names)
        return self.choose(cache, train, read(np.flatnonzero(chosen.reference)), names)

    def _cells(self, paths: Sequence[ParquetPath], files: Sequence[pq.ParquetFile]) -> list[Cell]:
        """Return where each row is."""
        cells = []
        for path, file in zip(paths, files, strict=True):
            name = str(path) if isinstance(path, Path) else path.name_in_bucket
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                cells += [Cell(name, group, row, first, self.image_column) for row in range(rows)]
                first += rows
        return cells

    def splits_by_name(self, files: Sequence[ParquetPath]) -> list[str]:
        """Return the split of each file by its name, empty where it says none."""
        own = [word for word in (self.train_split, self.reference_split) if word]
        return [split_of(file, own) or "" for file in files]

    def choose_rows(self, splits: NDArray[Any], labels: NDArray[Any], where: str) -> ChosenRows:
        """Return which rows are of which split.

        Args:
            splits: (N,) text, the split of each row; empty where it is not known.
            labels: (N,) int64 or text.
            where: what messages call the file.

        Raises:
            DataProblem: no row to train on, or none of a `reference_split` that was given.
        """
        present = sorted(set(splits.tolist()))
        if len(present) < 2 and self.reference_split is None:
            return ChosenRows(np.ones(len(splits), bool), None)
        train_words = [self.train_split, *(TRAIN if self.train_split in TRAIN else ())]
        train = next((word for word in train_words if word in present), None)
        if train is None:
            raise self._no_row(where, self.train_split, present)
        if self.reference_split is not None and self.reference_split not in present:
            raise self._no_row(where, self.reference_split, present)
        wanted = REFERENCE if self.reference_split is None else (self.reference_split,)
        candidates = [word for word in wanted if word in present and word != train]
        unlabelled = [
            word
            for word in candidates
            if labels.dtype.kind == "i" and labels[splits == word].max() < 0
        ]
        reference = next((word for word in candidates if word not in unlabelled), None)
        notes = []
        if reference not in (None, self.reference_split, *REFERENCE[:2]):
            text = f"compared with: {reference} (data.reference_split)"
            notes.append(Note("reference split", 1, text))
        if others := [word for word in present if word not in (train, reference)]:
            count = int(np.isin(splits, others).sum())
            said = [
                f"{shown(word) or 'no split'}{', without labels' if word in unlabelled else ''}"
                for word in others
            ]
            text = f"not read: {counted(count, 'rows')} of {listed(said)}"
            notes.append(Note("other splits", count, text))
        return ChosenRows(
            splits == train, None if reference is None else splits == reference, tuple(notes)
        )

    def _no_row(self, where: str, split: str, present: Sequence[str]) -> DataProblem:
        return DataProblem(
            f"{where}: no row has `{split}` in column {self.split_column}, and no file in its name",
            f"choose one of: {listed([shown(word) or 'no split' for word in present])}",
        )

    def _table(self, path: ParquetPath, file: pq.ParquetFile, by_column: bool) -> pa.Table:
        """Return labels and splits of one file, without nulls, labels as numbers or text, splits as text."""
        import pyarrow as pa

        columns = [self.label_column, *([self.split_column] if by_column else [])]
        try:
            table = file.read(columns=columns)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise unreadable(path, error) from error
        types = {
            self.label_column: (pa.int64(), "whole numbers or text"),
            self.split_column: (pa.string(), "text"),
        }
        for column in columns:
            position = table.schema.names.index(column)
            values = table[column]
            wanted, what = types[column]
            if column == self.label_column and holds_text(values.type):
                wanted = pa.string()
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

    def _check_columns(self, path: ParquetPath, schema: pa.Schema) -> None:
        """Check that the columns are there, and that the images' has images.

        Raises:
            DataProblem: a column is missing, or holds something else.
        """
        import pyarrow as pa

        wanted = [self.image_column, self.label_column]
        if missing := [column for column in wanted if column not in schema.names]:
            raise DataProblem(
                f"{path}: no column {listed(missing)}",
                f"it has {listed(schema.names)}; name them in data.image_column, data.label_column and "
                "data.split_column",
            )
        values = pa.chunked_array([], schema.field(self.image_column).type)
        if pa.types.is_struct(values.type):
            values = bytes_of(path, self.image_column, values)
        try:
            values.cast(pa.large_binary())
        except pa.ArrowException as error:
            raise DataProblem(
                f"{path}: column {self.image_column} is {values.type}, not bytes",
                "write it as bytes, or name another column",
            ) from error


@dataclass(frozen=True, eq=False)
class ChosenRows:
    """Which rows are of which split.

    Args:
        train: (N,) bool.
        reference: (N,) bool; None where there are none to compare with.
        notes: what is to be said of the choice.
    """

    train: NDArray[np.bool_]
    reference: NDArray[np.bool_] | None
    notes: tuple[Note, ...] = ()

    @property
    def used(self) -> NDArray[np.bool_]:
        """(N,) bool, the rows of both splits."""
        return self.train if self.reference is None else self.train | self.reference


def _check_names_used(path: object, names: Sequence[str] | None, labels: Indices) -> None:
    if names is not None and (count := len(np.unique(labels[labels >= 0]))) < len(names):
        raise DataProblem(
            f"{path}: its metadata have {len(names)} class names for {count} classes with images",
            "write class_names as a JSON list if a name holds a comma, else without the classes "
            "that have no image",
        )
