"""The images of a Parquet file, read by its row groups: never the whole file at once."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...trainers.data.packed import Indices
from ...trainers.data.parquet import Parquet, read_class_names
from ...trainers.data.report import counted, listed, shown
from ...trainers.errors import DataProblem
from .facts import Finding
from .labels import name_classes
from .listing import Encoded, Listing

if TYPE_CHECKING:
    from pyarrow import parquet as pq  # type: ignore[import-untyped]

BATCH = 128
"""Images that are in memory at once."""


def list_parquet(config: Parquet) -> Listing:
    """Return the images of a Parquet file.

    Raises:
        DataProblem: a file that cannot be read, or that lacks a column.
    """
    file = open_parquet(config.path.expanduser())
    path = config.path
    columns = file.schema_arrow.names
    lacking = [c for c in (config.image_column, config.label_column) if c not in columns]
    if lacking:
        raise DataProblem(
            f"{shown(path)}: no column {listed(lacking)}",
            f"it has {listed(columns)}; name them in data.image_column and data.label_column",
        )
    labels, names, usable, findings = _labels(file, config)
    reference = np.zeros(len(labels), bool)
    if config.split_column in columns:
        splits = file.read(columns=[config.split_column])[config.split_column].to_pylist()
        reference = np.array([split == config.reference_split for split in splits], bool)
        train = np.array([split == config.train_split for split in splits], bool)
        findings += _of_splits(splits, train | reference, config)
        usable &= train | reference
    rows = np.flatnonzero(usable)

    def name(i: int) -> str:
        return f"{shown(path.name)}, row {rows[i]}"

    named, ids, more = name_classes(labels[rows], names, name)

    def read(indices: Indices) -> Iterator[tuple[int, Encoded]]:
        wanted = dict(zip(rows[indices].tolist(), indices.tolist(), strict=True))
        for row, content in _images(config, wanted.keys()):
            yield wanted[row], io.BytesIO(content)

    return Listing(named, ids, reference[rows], name, read, (*findings, *more))


def open_parquet(path: Path) -> pq.ParquetFile:
    """Return a Parquet file of which the schema is read.

    Raises:
        DataProblem: no Parquet file that can be read.
    """
    import pyarrow as pa
    from pyarrow import parquet as pq

    try:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no such file"
            raise DataProblem(f"{shown(path)}: {what}, not a Parquet file", "correct the path")
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataProblem(
            f"{shown(path)}: not a Parquet file that can be read ({type(error).__name__})",
            "correct the path, or write the file again",
        ) from error


def _labels(
    file: pq.ParquetFile, config: Parquet
) -> tuple[Indices, list[str] | None, NDArray[np.bool_], list[Finding]]:
    """Return label of each row, class names, which rows have one, and what is wrong."""
    import pyarrow as pa
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    column = file.read(columns=[config.label_column])[config.label_column]
    names = read_class_names(config.path, file.schema_arrow.metadata or {}, config.label_column)
    usable = ~column.is_null().to_numpy()
    findings = []
    if nulls := int(np.count_nonzero(~usable)):
        row = int(np.flatnonzero(~usable)[0])
        example = f"{shown(config.path.name)}, row {row}"
        text = f"{counted(nulls, 'rows')} without a label ({example})"
        findings.append(
            Finding("labels", "error", nulls, text, "fill them in, or remove the rows", (example,))
        )
    try:
        labels = pc.fill_null(column.cast(pa.int64()), 0).to_numpy().astype(np.int64)
    except pa.ArrowException as error:
        raise DataProblem(
            f"{shown(config.path)}: column {config.label_column} is {column.type}, not whole numbers",
            "write it as whole numbers, or name another column in data.label_column",
        ) from error
    return labels, names, usable, findings


def _of_splits(splits: list[str], used: NDArray[np.bool_], config: Parquet) -> list[Finding]:
    others = sorted({str(split) for split, use in zip(splits, used, strict=True) if not use})
    if not others:
        return []
    count = int(np.count_nonzero(~used))
    text = f"{counted(count, 'rows')} of other splits, not read: {listed(others)}"
    fix = f"data.train_split is {config.train_split}, data.reference_split {config.reference_split}"
    return [Finding("left out", "warning", count, text, fix, tuple(others[:3]))]


def _images(config: Parquet, rows: object) -> Iterator[tuple[int, bytes]]:
    """Yield (row, bytes) of some rows, in their order; b"" where there is nothing."""
    wanted = set(rows)  # type: ignore[call-overload]
    file = open_parquet(config.path.expanduser())
    start = 0
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
