"""The images of Parquet files, read by their row groups: never a whole file at once."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...trainers.data.label_texts import number_labels
from ...trainers.data.packed import Indices
from ...trainers.data.parquet import Parquet
from ...trainers.data.parquet_files import (
    ParquetPath,
    find_files,
    holds_text,
    open_parquet_file,
    read_class_names,
    unreadable,
)
from ...trainers.data.report import counted, listed, shown
from ...trainers.errors import DataProblem
from .facts import Finding
from .labels import name_classes
from .listing import Encoded, Listing

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet as pq

BATCH = 128
"""Images that are in memory at once."""


def list_parquet(config: Parquet) -> Listing:
    """Return the images of Parquet files.

    Raises:
        DataProblem: a file that cannot be read, or that lacks a column.
    """
    paths = find_files(config.path)
    files = [open_parquet(path) for path in paths]
    for path, file in zip(paths, files, strict=True):
        columns = file.schema_arrow.names
        if lacking := [c for c in (config.image_column, config.label_column) if c not in columns]:
            raise DataProblem(
                f"{shown(path)}: no column {listed(lacking)}",
                f"it has {listed(columns)}; name them in data.image_column and data.label_column",
            )
    starts = np.cumsum([0, *(file.metadata.num_rows for file in files)])

    def where(row: int) -> str:
        of = int(np.searchsorted(starts, row, side="right")) - 1
        return f"{shown(paths[of].name)}, row {row - starts[of]}"

    column = _label_column(files, config)
    usable = ~column.is_null().to_numpy()
    findings = list(_without_label(usable, where))
    labels = _labels(column, paths[0], config)
    chosen = config.choose_rows(_splits(files, paths, config), labels, shown(paths[0].name))
    findings += [
        Finding(
            "left out" if note.kind == "other splits" else note.kind, "info", note.count, note.text
        )
        for note in chosen.notes
    ]
    rows = np.flatnonzero(usable & chosen.used)

    def name(i: int) -> str:
        return where(int(rows[i]))

    names = read_class_names(paths[0], files[0].schema_arrow.metadata or {}, config.label_column)
    if labels.dtype.kind == "O":
        ids, names = number_labels(labels[rows].tolist(), names, name)
    else:
        ids = labels[rows]
    named, ids, more = name_classes(ids, names, name)

    def read(indices: Indices) -> Iterator[tuple[int, Encoded]]:
        wanted = dict(zip(rows[indices].tolist(), indices.tolist(), strict=True))
        for start, file in zip(starts[:-1].tolist(), files, strict=True):
            for row, content in _images(file, start, config, wanted.keys()):
                yield wanted[row], io.BytesIO(content)

    reference = np.zeros(len(labels), bool) if chosen.reference is None else chosen.reference
    return Listing(named, ids, reference[rows], name, read, (*findings, *more))


def open_parquet(path: ParquetPath) -> pq.ParquetFile:
    """Return a Parquet file of which the schema is read.

    Raises:
        DataProblem: no Parquet file that can be read.
    """
    import pyarrow as pa
    from pyarrow import parquet as pq

    try:
        if not isinstance(path, Path):
            return open_parquet_file(path)
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no such file"
            raise DataProblem(f"{shown(path)}: {what}, not a Parquet file", "correct the path")
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(path, error) from error


def _label_column(files: list[pq.ParquetFile], config: Parquet) -> pa.ChunkedArray:
    """Return the labels of all files as they are stored, numbers or text."""
    import pyarrow as pa

    columns = [file.read(columns=[config.label_column])[config.label_column] for file in files]
    if all(holds_text(column.type) for column in columns):
        columns = [column.cast(pa.string()) for column in columns]
    try:
        return pa.chunked_array(
            [chunk for column in columns for chunk in column.chunks], columns[0].type
        )
    except (pa.ArrowException, TypeError) as error:
        kinds = listed(sorted({str(column.type) for column in columns}))
        raise DataProblem(
            f"column {config.label_column} is of several types: {kinds}",
            "write it alike in all files",
        ) from error


def _labels(column: pa.ChunkedArray, path: object, config: Parquet) -> NDArray[Any]:
    """Return the label of each row, int64 or text; 0 or nothing where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    if holds_text(column.type):
        texts: NDArray[Any] = pc.fill_null(column, "").to_numpy()
        return texts
    try:
        numbers: NDArray[Any] = pc.fill_null(column.cast(pa.int64()), 0).to_numpy().astype(np.int64)
    except pa.ArrowException as error:
        raise DataProblem(
            f"{shown(path)}: column {config.label_column} is {column.type}, not whole numbers or text",
            "write it as either, or name another column in data.label_column",
        ) from error
    return numbers


def _without_label(usable: NDArray[np.bool_], where: Callable[[int], str]) -> Iterator[Finding]:
    if nulls := int(np.count_nonzero(~usable)):
        example = where(int(np.flatnonzero(~usable)[0]))
        text = f"{counted(nulls, 'rows')} without a label ({example})"
        fix = "fill them in, or remove the rows"
        yield Finding("labels", "error", nulls, text, fix, (example,))


def _splits(files: list[pq.ParquetFile], paths: list[ParquetPath], config: Parquet) -> NDArray[Any]:
    """Return the split of each row: its column's, else that of its file's name."""
    if config.split_column not in files[0].schema_arrow.names:
        return np.repeat(config.splits_by_name(paths), [file.metadata.num_rows for file in files])
    splits = [
        str(split)
        for file in files
        for split in file.read(columns=[config.split_column])[config.split_column].to_pylist()
    ]
    return np.array(splits, object)


def _images(
    file: pq.ParquetFile, start: int, config: Parquet, rows: object
) -> Iterator[tuple[int, bytes]]:
    """Yield (row, bytes) of some rows, in their order; b"" where there is nothing.

    Args:
        start: number of the file's first row.
    """
    wanted = set(rows)  # type: ignore[call-overload]
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        if any(row in wanted for row in range(start, end)):
            row = start
            for batch in file.iter_batches(
                BATCH, row_groups=[group], columns=[config.image_column]
            ):
                column = batch.column(0)
                for k in range(len(column)):
                    if row in wanted:
                        value = column[k].as_py()
                        content = value.get("bytes") if isinstance(value, dict) else value
                        yield row, content or b""
                    row += 1
        start = end
