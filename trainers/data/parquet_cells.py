"""Images in Parquet files, read a row group at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from ..errors import DataProblem
from .files import Files
from .report import shown

KEPT = 3
"""Row groups that are in memory: threads that read rows in their order are in two neighbouring ones."""


class Cell(NamedTuple):
    """An image in a Parquet file.

    Args:
        file: its name.
        group: number of the row group.
        row: in the group.
        first: row of the file that is the group's first.
        column: of the images.
    """

    file: str
    group: int
    row: int
    first: int
    column: str


class CellReader:
    """Reads images of Parquet files, and keeps the row groups that were read last.

    May be used by several threads, and is empty again in another process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[str, str, int], Future[Any]] = OrderedDict()

    def __reduce__(self) -> tuple[Callable[[], CellReader], tuple[()]]:
        return CellReader, ()

    def read(self, files: Files, cell: Cell) -> bytes:
        """Return the encoded bytes of an image.

        Raises:
            DataProblem: no Parquet file that can be read, or nothing in the cell.
        """
        key = (files.uri, cell.file, cell.group)
        with self._lock:
            group = self._groups.get(key)
            is_ours = group is None
            if group is None:
                group = self._groups[key] = Future()
                while len(self._groups) > KEPT:
                    self._groups.popitem(last=False)
            else:
                self._groups.move_to_end(key)
        if is_ours:
            try:
                group.set_result(_read_group(files, cell))
            except Exception as error:  # noqa: BLE001  (whoever waits for the group has it, too)
                with self._lock:
                    self._groups.pop(key, None)
                group.set_exception(error)
        value = group.result()[cell.row].as_py()
        if value is None:
            raise DataProblem(
                f"{shown(files.uri_of(cell.file))}, row {cell.first + cell.row}: nothing in column "
                f"{cell.column}",
                "fill it in, or remove the row",
            )
        content: bytes = value
        return content


def _read_group(files: Files, cell: Cell) -> Any:
    """Return the encoded images of a row group, an Arrow array."""
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    from .parquet_files import bytes_of, unreadable

    try:
        with files.open(cell.file) as stream:
            file = parquet.ParquetFile(stream, pre_buffer=True)
            values = file.read_row_group(cell.group, columns=[cell.column])[cell.column]
        if pa.types.is_struct(values.type):
            values = bytes_of(files.uri_of(cell.file), cell.column, values)
        return values.cast(pa.large_binary()).combine_chunks()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(files.uri_of(cell.file), error) from error
