"""A folder of images for each class: root/train/<class>/*.png and root/reference/<class>/*.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import DataProblem
from .decoding import EncodedConfig, EncodedImages
from .source import Splits

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


class Folder(EncodedConfig):
    """Images in a folder for each class, under `train` and under `reference`."""

    source: Literal["folder"] = "folder"
    root: Path
    """Folder that holds `train` and `reference`."""
    class_order: tuple[str, ...] | None = None
    """Names of all classes, head first, if a tail is to be cut along another order than that of
    the sorted names."""

    def load(self, cache: Path) -> Splits:
        """Read both splits; see `SourceConfig`."""
        root = self.root.expanduser()
        names = self.class_order or _folders(root / "train")
        train, reference = (_read(root, split, names) for split in ("train", "reference"))
        return self.pack(cache, train, reference, names)


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataProblem(
            f"{folder}: no such folder",
            "data.root must hold train/<class>/ and reference/<class>/",
        )
    folders = (entry for entry in folder.iterdir() if entry.is_dir())
    names = sorted(entry.name for entry in folders if not entry.name.startswith("."))
    if not names:
        raise DataProblem(f"{folder}: no folder in it", "make one folder of images for each class")
    return names


def _read(root: Path, split: str, names: Sequence[str]) -> EncodedImages:
    unlike = sorted(set(_folders(root / split)) ^ set(names))
    if unlike:
        raise DataProblem(
            f"{root / split}: class {unlike[0]} is not in both the folder and the list of classes",
            "train and reference need a folder for each class, and class_order must name them all",
        )
    paths, labels = [], []
    for label, name in enumerate(names):
        files = (root / split / name).iterdir()
        images = sorted(
            file.name
            for file in files
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        )
        paths += [f"{split}/{name}/{file}" for file in images]
        labels += [label] * len(images)
    return EncodedImages(
        paths, np.array(labels, dtype=np.int64), lambda i: str(root / paths[i]), root
    )
