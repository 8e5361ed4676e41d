"""Which source reads what a person names: a folder, Parquet files or lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...trainers.data import Balanced, DataConfig, Folder, ListFiles, Parquet
from ...trainers.data.balanced import DESCRIPTION, StoredSet
from ...trainers.data.list_files import read_list
from ...trainers.data.report import shown
from ...trainers.errors import UsageProblem
from .balanced_listing import list_balanced
from .folder_listing import list_folder
from .list_listing import list_lists
from .listing import Listing
from .parquet_listing import list_parquet, open_parquet

PARQUET = frozenset({".parquet", ".pq"})
FOR_REFERENCE = ("reference", "test", "val")
"""Parts of the name of a list that is to be compared with."""
LABELS = ("label", "labels", "class", "category", "target", "fine_label")
"""Names that columns of labels have."""


def source_of(paths: Sequence[Path], root: Path | None = None) -> DataConfig:
    """Return the data section that reads what a person names.

    Args:
        paths: one folder of class folders, with `train` or with a balanced set, Parquet files, or one or two
            lists.
        root: folder that the paths in lists are relative to; by default the folder of the list or one
            above it, whichever has the first image.

    Raises:
        UsageProblem: none of these, or paths that do not belong together.
        DataProblem: a file that cannot be read.
    """
    paths = [path.expanduser() for path in paths]
    for path in paths:
        if not path.exists():
            raise UsageProblem(f"{shown(path)}: no such file or folder", "correct the path")
    if len(paths) == 1 and (paths[0] / DESCRIPTION).is_file():
        channels, _, size = StoredSet.read(paths[0]).image_shape
        return _validated(
            {"source": "balanced", "path": paths[0], "image_size": size, "channels": channels}
        )
    if len(paths) == 1 and paths[0].is_dir():
        return Folder(root=paths[0])
    if any(path.is_dir() for path in paths):
        raise UsageProblem(
            "several paths, and one of them is a folder",
            "give one folder, Parquet files alone, or lists alone",
        )
    tables = [path for path in paths if path.suffix.lower() in PARQUET]
    if tables and len(tables) == len(paths):
        return _parquet(tables)
    if tables or not 1 <= len(paths) <= 2:
        raise UsageProblem(
            f"{len(paths)} files that are no one source",
            "give one folder, Parquet files alone, or one list for training and one to compare with",
        )
    return _lists(paths, root)


def list_source(config: DataConfig) -> Listing:
    """Return all images of a source, none of them opened.

    Raises:
        UsageProblem: a source that has no files of images.
        DataProblem: a folder or file that cannot be read at all.
    """
    if isinstance(config, Folder):
        return list_folder(config)
    if isinstance(config, Parquet):
        return list_parquet(config)
    if isinstance(config, ListFiles):
        return list_lists(config)
    if isinstance(config, Balanced):
        return list_balanced(config)
    raise UsageProblem(
        f"data.source={config.source} is ready as it is", "give a folder, Parquet files or lists"
    )


def _parquet(files: list[Path]) -> DataConfig:
    """Return the section for Parquet files, with the columns as they are called in the first."""
    schema = open_parquet(files[0]).schema_arrow
    section: dict[str, Any] = {"source": "parquet"}
    section["path"] = files[0] if len(files) == 1 else tuple(files)
    images = [c.name for c in schema if _holds_images(c)]
    if images and "image" not in images:
        section["image_column"] = images[0]
    labels = [name for name in LABELS if name in schema.names]
    if labels and "label" not in labels:
        section["label_column"] = labels[0]
    return _validated(section)


def _holds_images(field: Any) -> bool:
    import pyarrow as pa  # type: ignore[import-untyped]

    kind = field.type
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _lists(files: list[Path], root: Path | None) -> DataConfig:
    train = min(files, key=_for_reference)  # the first one where names do not tell
    others = [file for file in files if file is not train]
    section: dict[str, Any] = {
        "source": "list_files",
        "root": root or _root_of(train),
        "train_list": train,
    }
    if others:
        section["reference_list"] = others[0]
    return _validated(section)


def _for_reference(file: Path) -> bool:
    name = file.name.lower()
    return "train" not in name and any(word in name for word in FOR_REFERENCE)


def _root_of(file: Path) -> Path:
    """Return the folder of a list or one above it, whichever has the first image of the list."""
    first = next(iter(read_list(file, file.parent).paths), None)
    folders = [file.parent, *file.absolute().parents[1:], Path()]
    return next((f for f in folders if first and (f / first).exists()), file.parent)


def _validated(section: dict[str, Any]) -> DataConfig:
    try:
        config: DataConfig = TypeAdapter(DataConfig).validate_python(section)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"][1:])
        raise UsageProblem(
            f"data.{where}: {error.errors()[0]['msg']}",
            "give one folder, Parquet files alone, or one list for training and one to compare with",
        ) from error
    return config
