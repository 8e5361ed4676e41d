"""Hugging Face's image folders: images, and metadata.csv, .jsonl or .parquet with their labels beside them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ..errors import DataProblem
from .encoded import EncodedImages
from .encoded_config import EncodedConfig
from .encoded_splits import EncodedSplits
from .files import Files
from .list_files import Listed, number_classes
from .list_lines import LABELS
from .locations import Location, open_files
from .parquet_files import read_class_names
from .report import listed, raise_together, shown
from .split_names import REFERENCE, TRAIN

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_COLUMNS = ("file_name", "image_file_name")


class ImageFolder(EncodedConfig):
    """Images below a folder, with tables of their labels: in the folder, or in `train` and `test` below it.

    A folder of class folders without a table is `source: folder`.
    """

    source: Literal["imagefolder"] = "imagefolder"
    root: Location
    """Folder or s3:// address that has `metadata.csv`, `.jsonl` or `.parquet`, itself or in the folders of its
    splits."""
    label_column: str | None = None
    """Column of labels, numbers or words. None: `label`, `class` or the like, whichever there is first."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes in the order of their labels; by default those of a Parquet table's `ClassLabel`, the
    numbers, or the labels themselves, sorted, where they are words."""

    def prepare(self, cache: Path) -> EncodedSplits:
        """Return which images are of which split; see `EncodedConfig`."""
        return self.choose(cache, *self.encoded(cache))

    def encoded(
        self,
        cache: Path,  # noqa: ARG002  (as for other sources)
    ) -> tuple[EncodedImages, EncodedImages | None, Sequence[str] | None]:
        """Return training images, those to compare with, and the names of the classes.

        Raises:
            DataProblem: no table, or one without names of files or labels.
        """
        location = self.root if isinstance(self.root, str) else self.root.expanduser()
        files = open_files(location)
        facts = files.list() if isinstance(location, str) else None
        tables = find_tables(location, facts)
        if not tables:
            raise DataProblem(
                f"{shown(location)}: no {listed(NAMES)} in it or in the folders of its splits",
                "write one with the columns file_name and label, or use data.source=folder for class folders",
            )
        by_split: dict[str, Table] = {}
        names = self.class_names
        for table in tables:
            rows, own_names = _rows(files, table, self.label_column)
            names = names or own_names
            for file, label in rows:
                path = (PurePosixPath(table).parent / file).as_posix()
                first = path.partition("/")[0].lower()
                split = first if first in (*TRAIN, *REFERENCE) else ""
                of = by_split.setdefault(split, Table(Path(table)))
                of.add(path, label, files)
        for of in by_split.values():
            raise_together(of.problems)
        train = next((by_split[w] for w in (*TRAIN, "") if w in by_split), None)
        if train is None:
            train, by_split = next(iter(by_split.values())), {}
        others = [by_split[w] for w in REFERENCE if w in by_split and by_split[w] is not train]
        lists = [train, *others[:1]]
        ids, numbered = number_classes(lists, names)
        root: Path | Files = files if isinstance(location, str) else location
        encoded = [
            EncodedImages(of.paths, labels, of.name, root, facts=facts)
            for of, labels in zip(lists, ids, strict=True)
        ]
        return encoded[0], encoded[1] if len(encoded) > 1 else None, numbered


class Table(Listed):
    """Images that tables name."""

    def add(self, path: str, label: str, files: Files) -> None:
        """Take a row; one that leads out of the folder is a problem."""
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            self.problems.append(
                DataProblem(
                    f"{files.uri_of(str(self.file))}: {shown(path)} leads out of {files.uri}",
                    "write paths below the folder",
                )
            )
        self.paths.append(path)
        self.labels.append(label)
        self.numbers.append(0)

    def name(self, index: int) -> str:
        """Return what messages call the image at an index: the table and the path."""
        return f"{shown(self.file)} ({shown(self.paths[index])})"


def find_tables(location: str | Path, facts: Mapping[str, Any] | None) -> list[str]:
    """Return the names of the tables in a folder and in the folders directly below it."""
    if facts is not None:
        return [name for name in facts if name.count("/") < 2 and name.endswith(NAMES)]
    folder = Path(location)
    if not folder.is_dir():
        raise DataProblem(f"{shown(folder)}: no such folder", "correct data.root")
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    candidates = [each / name for each in (folder, *below) for name in NAMES]
    return [path.relative_to(folder).as_posix() for path in candidates if path.is_file()]


def _rows(
    files: Files, table: str, label_column: str | None
) -> tuple[list[tuple[str, str]], tuple[str, ...] | None]:
    """Return file and label of each row of a table, and the class names that it holds."""
    where = files.uri_of(table)
    names = None
    content = files.read(table)
    try:
        if table.endswith(".csv"):
            records: list[dict[str, Any]] = list(
                csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
            )
        elif table.endswith(".jsonl"):
            records = [json.loads(line) for line in content.decode().splitlines() if line.strip()]
        else:
            from pyarrow import parquet  # type: ignore[import-untyped]

            read = parquet.read_table(io.BytesIO(content))
            records = read.to_pylist()
            metadata = read.schema.metadata or {}
            names = read_class_names(where, metadata, label_column or LABELS[0])
    except Exception as error:
        raise DataProblem(
            f"{shown(where)}: a table that cannot be read ({type(error).__name__})",
            "write it again, in UTF-8",
        ) from error
    columns = list(records[0]) if records else []
    file = next((c for c in FILE_COLUMNS if c in columns), None)
    wanted = LABELS if label_column is None else (label_column,)
    label = next((c for c in wanted if c in columns), None)
    if file is None or label is None:
        raise DataProblem(
            f"{shown(where)}: no column {'file_name' if file is None else 'of labels'}; it has "
            f"{listed([shown(c) for c in columns])}",
            "call the column of files `file_name`, and name that of labels by data.label_column",
        )
    rows = [(str(row[file]), str(row[label])) for row in records]
    return rows, tuple(names) if names else None
