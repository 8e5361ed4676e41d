"""Images: where they come from, the tail cut out of them, and the order in which they are seen.

Imports no PyTorch, so that a config is read quickly; `sampling` and `batches` do.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .balanced import Balanced
from .cifar import Cifar
from .digits import Digits
from .folder import Folder
from .hold_out import HoldOut
from .image_folder import ImageFolder
from .list_files import ListFiles
from .long_tail import LongTail, long_tail_indices
from .packed import PackedImages
from .packed_config import Packed
from .parquet import Parquet
from .source import ClassSampling, SourceConfig, Splits
from .tar_shards import TarShards
from .validation import Validation

DataConfig = Annotated[
    Digits | Cifar | Folder | Parquet | ListFiles | TarShards | ImageFolder | Balanced | Packed,
    Field(discriminator="source"),
]
"""One source of images, selected by its `source`."""

__all__ = [
    "Balanced",
    "Cifar",
    "ClassSampling",
    "DataConfig",
    "Digits",
    "Folder",
    "HoldOut",
    "ImageFolder",
    "ListFiles",
    "LongTail",
    "Packed",
    "PackedImages",
    "Parquet",
    "SourceConfig",
    "Splits",
    "TarShards",
    "Validation",
    "long_tail_indices",
]
