"""A folder of images for each class: root/train/<class>/*.png and root/reference/<class>/*.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import DataProblem
from .decoding import EncodedImages
from .encoded_config import EncodedConfig
from .folder_scan import MADE_BY_SYSTEMS, SUFFIXES, Scan, entries_of, made_by_system, scan_images
from .report import raise_together, shown
from .source import Splits


class Folder(EncodedConfig):
    """Images in a folder for each class and its sub-folders, under `train` and under `reference`."""

    source: Literal["folder"] = "folder"
    root: Path
    """Folder that holds `train` and `reference`."""
    class_order: tuple[str, ...] | None = None
    """Names of all classes, head first, if a tail is to be cut along another order than that of
    the sorted names."""

    def load(self, cache: Path) -> Splits:
        """Read both splits; see `SourceConfig`."""
        root = self.root.expanduser()
        names = self.class_order or _folders(root / "train", Scan())
        train, reference = (_read(root, split, names) for split in ("train", "reference"))
        return self.pack(cache, train, reference, names)


def _folders(folder: Path, scan: Scan) -> list[str]:
    """Return the names of the class folders; other files are counted in `scan`."""
    names = []
    for entry in entries_of(folder):
        if not entry.is_dir():
            if Path(entry.name).suffix.lower() in SUFFIXES:
                scan.leave_out("beside the folders of the classes", entry.name)
        elif entry.name in MADE_BY_SYSTEMS:
            scan.leave_out(made_by_system(entry.name), entry.name)
        else:
            names.append(entry.name)
    if not names:
        raise DataProblem(
            f"{shown(folder)}: no folder in it", "make one folder of images for each class"
        )
    return names


def _read(root: Path, split: str, names: Sequence[str]) -> EncodedImages:
    scan = Scan()
    present = _folders(root / split, scan)
    raise_together(
        DataProblem(
            f"{shown(root / split)}: class {shown(name)} is not in both the folder and the list "
            "of classes",
            "train and reference need a folder for each class, and class_order must name them all",
        )
        for name in sorted(set(present) ^ set(names))
    )
    paths: list[str] = []
    labels: list[int] = []
    problems = []
    for label, name in enumerate(names):
        of_class = scan_images(root / split / name)
        scan.add(of_class, f"{name}/")
        if not of_class.images and not of_class.problems:
            problems.append(_empty(root / split / name, split, label, of_class))
        paths += [f"{split}/{name}/{file}" for file in of_class.images]
        labels += [label] * len(of_class.images)
    raise_together(scan.problems + problems)
    return EncodedImages(
        paths,
        np.array(labels, dtype=np.int64),
        lambda i: shown(root / paths[i]),
        root,
        tuple(scan.notes()),
    )


def _empty(folder: Path, split: str, label: int, scan: Scan) -> DataProblem:
    what = f"{split} images: class {label} ({shown(folder.name)}) has no image"
    if not scan.left_out:
        return DataProblem(what, "add images of it, or leave the class out")
    return DataProblem(
        f"{what}; not read: {scan.describe_left_out()}",
        f"convert them to one of {' '.join(sorted(SUFFIXES))}",
    )
