"""Which source reads what a person names: a folder, Parquet files or lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...trainers.data import (
    Balanced,
    DataConfig,
    Folder,
    ImageFolder,
    ListFiles,
    Parquet,
    TarShards,
)
from ...trainers.data.balanced import DESCRIPTION, StoredSet
from ...trainers.data.image_folder import find_tables
from ...trainers.data.list_files import read_list
from ...trainers.data.locations import as_written, in_bucket, open_files
from ...trainers.data.parquet_files import find_files
from ...trainers.data.report import shown
from ...trainers.data.tar_shards import BRACES
from ...trainers.errors import UsageProblem
from .balanced_listing import list_balanced
from .encoded_listing import list_encoded
from .folder_listing import list_folder
from .list_listing import list_lists
from .listing import Listing
from .parquet_listing import list_parquet, open_parquet

PARQUET = frozenset({".parquet", ".pq"})
LISTS = frozenset({".txt", ".csv", ".tsv", ".lst"})
FOR_REFERENCE = ("reference", "test", "val")
"""Parts of the name of a list that is to be compared with."""
LABELS = ("label", "labels", "class", "category", "target", "fine_label")
"""Names that columns of labels have."""


def source_of(paths: Sequence[str | Path], root: str | Path | None = None) -> DataConfig:
    """Return the data section that reads what a person names.

    Args:
        paths: one folder of class folders, with `train` or with a balanced set, Parquet files, or one or two
            lists; also as s3:// addresses.
        root: folder that the paths in lists are relative to; by default the folder of the list or one
            above it, whichever has the first image.

    Raises:
        UsageProblem: none of these, or paths that do not belong together.
        DataProblem: a file that cannot be read.
    """
    written = [as_written(Path(path) if isinstance(path, str) else path) for path in paths]
    root = None if root is None else location_of(root)
    if any(map(in_bucket, written)):
        return _in_bucket([str(path) for path in written], root)
    files = [Path(path).expanduser() for path in paths]
    for path in files:
        if not path.exists() and not BRACES.search(str(path)):
            raise UsageProblem(f"{shown(path)}: no such file or folder", "correct the path")
    if len(files) == 1 and (files[0] / DESCRIPTION).is_file():
        channels, _, size = StoredSet.read(files[0]).image_shape
        return _validated(
            {"source": "balanced", "path": files[0], "image_size": size, "channels": channels}
        )
    if all(BRACES.search(str(path)) or path.suffix.lower() == ".tar" for path in files):
        return TarShards(path=files[0] if len(files) == 1 else tuple(files))
    if len(files) == 1 and files[0].is_dir():
        return _of_folder(files[0])
    if any(path.is_dir() for path in files):
        raise UsageProblem(
            "several paths, and one of them is a folder",
            "give one folder, Parquet files alone, or lists alone",
        )
    tables = [path for path in files if path.suffix.lower() in PARQUET]
    if tables and len(tables) == len(files):
        return _parquet(tables)
    if tables or not 1 <= len(files) <= 2:
        raise UsageProblem(
            f"{len(files)} files that are no one source",
            "give one folder, Parquet files alone, or one list for training and one to compare with",
        )
    return _lists(files, root)


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
    if isinstance(config, TarShards | ImageFolder):
        return list_encoded(config)
    if isinstance(config, Balanced):
        return list_balanced(config)
    raise UsageProblem(
        f"data.source={config.source} is ready as it is", "give a folder, Parquet files or lists"
    )


def _of_folder(folder: Path) -> DataConfig:
    """Return the section for a folder of class folders, tar archives or Parquet files, or with tables of labels."""
    if find_tables(folder, None):
        return ImageFolder(root=folder)
    inside = [path.suffix.lower() for path in folder.iterdir() if not path.name.startswith(".")]
    if inside and all(suffix == ".tar" for suffix in inside):
        return TarShards(path=folder)
    if inside and all(suffix in PARQUET for suffix in inside):
        return _parquet([folder])
    return Folder(root=folder)


def location_of(path: str | Path) -> str | Path:
    """Return a path or an s3:// address, as configs have them."""
    written = as_written(Path(path) if isinstance(path, str) else path)
    return written if isinstance(written, str) else Path(path).expanduser()


def _in_bucket(addresses: list[str], root: str | Path | None) -> DataConfig:
    """Return the section for addresses in a bucket, by the names of what lies there."""
    if not all(map(in_bucket, addresses)):
        raise UsageProblem(
            "some of the images are in a bucket, and some on this machine",
            "give s3:// addresses alone, or none",
        )
    suffixes = {PurePosixPath(address).suffix.lower() for address in addresses}
    if suffixes <= PARQUET:
        return _parquet(list(addresses))
    if all(BRACES.search(address) or address.endswith(".tar") for address in addresses):
        return TarShards(path=addresses[0] if len(addresses) == 1 else tuple(addresses))
    if suffixes <= LISTS and len(addresses) <= 2:
        return _lists(list(addresses), root)
    if len(addresses) > 1:
        raise UsageProblem(
            f"{len(addresses)} addresses that are no one source",
            "give one folder, Parquet files alone, or one list for training and one to compare with",
        )
    facts = open_files(addresses[0]).list()
    if find_tables(addresses[0], facts):
        return ImageFolder(root=addresses[0])
    names = list(facts)
    if names and all(name.endswith(".tar") for name in names):
        return TarShards(path=addresses[0])
    if names and all(PurePosixPath(name).suffix.lower() in PARQUET for name in names):
        return _parquet(list(addresses))
    return Folder(root=addresses[0])


def _parquet(files: Sequence[str | Path]) -> DataConfig:
    """Return the section for Parquet files, with the columns as they are called in the first."""
    schema = open_parquet(find_files(files[0])[0]).schema_arrow
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


def _lists(files: Sequence[str | Path], root: str | Path | None) -> DataConfig:
    train = min(files, key=_for_reference)  # the first one where names do not tell
    others = [file for file in files if file is not train]
    section: dict[str, Any] = {
        "source": "list_files",
        "root": root or (_root_of(train) if isinstance(train, Path) else train.rpartition("/")[0]),
        "train_list": train,
    }
    if others:
        section["reference_list"] = others[0]
    return _validated(section)


def _for_reference(file: str | Path) -> bool:
    name = PurePosixPath(file).name.lower()
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
