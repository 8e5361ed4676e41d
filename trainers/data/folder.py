"""A folder of images for each class: root/<class>/*.png, or root/train/<class>/*.png and root/test/<class>/*.png."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

import numpy as np

from ..errors import DataProblem
from .bucket_folder import BucketFolder
from .encoded import EncodedImages
from .encoded_config import EncodedConfig
from .encoded_splits import EncodedSplits
from .folder_scan import (
    MADE_BY_SYSTEMS,
    SUFFIXES,
    AnyFolder,
    Scan,
    class_folders,
    entries_of,
    is_image,
    scan_images,
)
from .locations import Location
from .report import Note, listed, raise_together, shown
from .split_names import REFERENCE, TRAIN


class Folder(EncodedConfig):
    """Images in a folder for each class and its sub-folders, in `root` itself or in `root/train`."""

    source: Literal["folder"] = "folder"
    root: Location
    """Folder or s3:// address that holds a folder for each class, or `train` with these in it."""
    reference_folder: str | None = None
    """Folder in `root` of the images to compare with, with a folder for each class. None: `reference`,
    `test`, `val`, `valid`, `validation` or `dev` where `train` has one of these beside it; else images
    are held out."""
    class_order: tuple[str, ...] | None = None
    """Names of all classes, head first, if a tail is to be cut along another order than that of
    the sorted names."""

    def prepare(self, cache: Path) -> EncodedSplits:
        """Return which images are of which split; see `EncodedConfig`."""
        root = folder_of(self.root)
        folders = find_splits(root, self.reference_folder)
        names = self.class_order or _class_folders(folders.train, folders.reference, Scan())
        train = _read(root, folders.train, folders.reference, names, "train", folders.notes())
        reference = None
        if folders.reference is not None:
            reference = _read(root, folders.reference, None, names, "reference", ())
        return self.choose(cache, train, reference, names)


def folder_of(location: str | Path) -> AnyFolder:
    """Return the folder of a location; one of a bucket is listed.

    Raises:
        DataProblem: it cannot be listed.
    """
    return BucketFolder.at(location) if isinstance(location, str) else location.expanduser()


def relative(folder: AnyFolder, root: AnyFolder) -> PurePath:
    """Return the path of a folder from one above it."""
    if isinstance(folder, BucketFolder) and isinstance(root, BucketFolder):
        return folder.relative_to(root)
    return Path(str(folder)).relative_to(str(root))


@dataclass(frozen=True)
class SplitFolders:
    """Where the images of each split are.

    Args:
        train: holds a folder for each class.
        reference: likewise; None where there is none. It may be in `train`.
        unread: folders beside them that look like further splits.
        by_name: whether `reference` was recognised by its name, not given.
    """

    train: AnyFolder
    reference: AnyFolder | None
    unread: tuple[str, ...] = ()
    by_name: bool = False

    def notes(self) -> tuple[Note, ...]:
        """Return what is to be said of the choice."""
        notes = []
        if self.by_name and self.reference is not None and self.reference.name != REFERENCE[0]:
            text = f"compared with: {shown(self.reference.name)}/ (data.reference_folder)"
            notes.append(Note("reference folder", 1, text))
        if self.unread:
            folders = listed([f"{shown(name)}/" for name in self.unread])
            notes.append(Note("other folders", len(self.unread), f"not read: {folders}"))
        return tuple(notes)


def find_splits(root: AnyFolder, reference_folder: str | None = None) -> SplitFolders:
    """Return the folders of both splits.

    `train` without folders in it is a class of that name, or with images where other classes lie beside
    it. A folder `test` without folders in it is not used: what others publish so has no labels.

    Args:
        root: folder of the classes, or of `train`.
        reference_folder: name of the folder of the images to compare with; None to look for one.

    Raises:
        DataProblem: no such folder.
    """
    entries = {entry.name: entry for entry in entries_of(root) if entry.is_dir()}
    reference = None
    if reference_folder is not None:
        reference = root / reference_folder
        entries_of(reference)
    others = any(name.lower() not in (*TRAIN, *REFERENCE, *MADE_BY_SYSTEMS) for name in entries)
    train = next(
        (
            entry
            for name, entry in entries.items()
            if name.lower() in TRAIN
            and _has_folders(root / name)
            and not (others and _has_images(root / name))
        ),
        None,
    )
    if train is None:
        return SplitFolders(root, reference)
    beside = {
        name.lower(): name
        for name, entry in entries.items()
        if entry is not train and name not in MADE_BY_SYSTEMS
    }
    if reference is None:
        known = [beside[name] for name in REFERENCE if name in beside]
        fitting = [name for name in known if _has_folders(root / name)]
        reference = root / fitting[0] if fitting else None
    used = reference.name if reference else None
    unread = sorted(name for name in beside.values() if name != used)
    return SplitFolders(root / train.name, reference, tuple(unread), reference_folder is None)


def _has_folders(folder: AnyFolder) -> bool:
    return any(e.is_dir() and e.name not in MADE_BY_SYSTEMS for e in entries_of(folder))


def _has_images(folder: AnyFolder) -> bool:
    return any(map(is_image, entries_of(folder)))


def _class_folders(folder: AnyFolder, reference: AnyFolder | None, scan: Scan) -> list[str]:
    """Return what `class_folders` does, where there are some.

    Raises:
        DataProblem: there are none, or all are named as splits.
    """
    names = class_folders(folder, reference, scan)
    if not names:
        raise DataProblem(
            f"{shown(folder)}: no folder in it", "make one folder of images for each class"
        )
    if {name.lower() for name in names} <= {*TRAIN, *REFERENCE}:
        raise DataProblem(
            f"{shown(folder)}: its folders are named as splits, not as classes: "
            f"{listed([shown(name) for name in names])}",
            "give train/ a folder for each class, and each of these the images of one class",
        )
    return names


def _read(
    root: AnyFolder,
    folder: AnyFolder,
    other: AnyFolder | None,
    names: Sequence[str],
    split: str,
    notes: tuple[Note, ...],
) -> EncodedImages:
    """Return the images of one split.

    Args:
        folder: holds a folder for each class.
        other: the other split's folder, if it may be in this one.
        names: of the classes, by id.
        notes: what is to be said besides.
    """
    scan = Scan()
    present = _class_folders(folder, other, scan)
    raise_together(
        DataProblem(
            f"{shown(folder)}: class {shown(name)} is not in both the folder and the list of classes",
            "both splits need a folder for each class, and class_order must name them all",
        )
        for name in sorted(set(present) ^ set(names))
    )
    paths: list[str] = []
    labels: list[int] = []
    problems = []
    below = relative(folder, root)
    for label, name in enumerate(names):
        of_class = scan_images(folder / name)
        scan.add(of_class, f"{name}/")
        if not of_class.images and not of_class.problems:
            problems.append(_empty(folder / name, split, label, of_class))
        paths += [str(below / name / file) for file in of_class.images]
        labels += [label] * len(of_class.images)
    raise_together(scan.problems + problems)
    return EncodedImages(
        paths,
        np.array(labels, dtype=np.int64),
        lambda i: shown(root / paths[i]),
        root.files if isinstance(root, BucketFolder) else root,
        (*notes, *scan.notes()),
        root.facts if isinstance(root, BucketFolder) else None,
    )


def _empty(folder: AnyFolder, split: str, label: int, scan: Scan) -> DataProblem:
    what = f"{split} images: class {label} ({shown(folder.name)}) has no image"
    if not scan.left_out:
        return DataProblem(what, "add images of it, or leave the class out")
    return DataProblem(
        f"{what}; not read: {scan.describe_left_out()}",
        f"convert them to one of {' '.join(sorted(SUFFIXES))}",
    )
