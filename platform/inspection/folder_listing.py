"""The images of a folder of class folders, and the files and folders beside these that are not read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...trainers.data.bucket_folder import BucketFolder
from ...trainers.data.folder import Folder, SplitFolders, find_splits, folder_of, relative
from ...trainers.data.folder_scan import (
    BESIDE,
    SUFFIXES,
    AnyFolder,
    Scan,
    class_folders,
    scan_images,
)
from ...trainers.data.packed import Indices
from ...trainers.data.report import LISTED, counted, listed, shown
from ...trainers.data.split_names import REFERENCE, TRAIN
from .facts import EXAMPLES, Finding
from .listing import Encoded, Listing, read_from_bucket


def list_folder(config: Folder) -> Listing:
    """Return the images of a folder, with or without `train` and `reference` in it.

    Raises:
        DataProblem: no such folder.
    """
    root = folder_of(config.root)
    splits = find_splits(root, config.reference_folder)
    folders = {"train": splits.train}
    if splits.reference is not None:
        folders["reference"] = splits.reference
    findings = list(_of_splits(splits))
    scan = Scan()
    present = {
        split: class_folders(folder, splits.reference, scan) for split, folder in folders.items()
    }
    names = config.class_order or sorted(set().union(*present.values()))
    for split, own in present.items():
        findings += _missing(folders[split], root, sorted(set(names) - set(own)))
    paths: list[str] = []
    labels: list[int] = []
    reference: list[bool] = []
    empty = []
    for split, folder in folders.items():
        for label, name in enumerate(names):
            if name not in present[split]:
                continue
            of_class = scan_images(folder / name)
            where = relative(folder / name, root).as_posix()
            scan.add(of_class, f"{where}/")
            if not of_class.images and not of_class.problems:
                kinds = f" ({of_class.describe_left_out()})" if of_class.left_out else ""
                empty.append(f"{shown(where)}{kinds}")
            paths += [f"{where}/{file}" for file in of_class.images]
            labels += [label] * len(of_class.images)
            reference += [split == "reference"] * len(of_class.images)
    findings += [*_of_scan(scan), *_empty(empty), *_of_layout(root, scan, names, len(paths))]

    def read(indices: Indices) -> Iterator[tuple[int, Encoded]]:
        if isinstance(root, BucketFolder):
            return read_from_bucket(root.files, paths, indices)
        return ((int(i), root / paths[i]) for i in indices)

    return Listing(
        tuple(names),
        np.array(labels, np.int64),
        np.array(reference, bool),
        lambda i: shown(paths[i]),
        read,
        tuple(findings),
    )


def _of_splits(splits: SplitFolders) -> Iterator[Finding]:
    if splits.by_name and splits.reference is not None:
        text = f"compared with the images of {shown(splits.reference.name)}/"
        yield Finding("reference folder", "info", 1, text)
    if splits.unread:
        text = f"beside train/, not read: {listed([f'{shown(name)}/' for name in splits.unread])}"
        fix = "move what you want to use, or name one in data.reference_folder to compare with it"
        examples = splits.unread[:EXAMPLES]
        yield Finding("other folders", "warning", len(splits.unread), text, fix, examples)


def _missing(folder: AnyFolder, root: AnyFolder, names: list[str]) -> Iterator[Finding]:
    if not names:
        return
    where = "the folder" if folder == root else f"{shown(folder.name)}/"
    yield Finding(
        "missing class",
        "error",
        len(names),
        f"no folder in {where} for {counted(len(names), 'classes')}: {listed(list(map(shown, names)))}"
        if len(names) > 1
        else f"no folder in {where} for class {shown(names[0])}",
        "train and reference need a folder for each class",
        tuple(map(shown, names[:EXAMPLES])),
    )


def _of_scan(scan: Scan) -> Iterator[Finding]:
    if count := scan.left_out.total():
        yield Finding(
            "left out",
            "warning",
            count,
            f"{counted(count, 'files')} left out: {scan.describe_left_out()}",
            f"convert images to one of {' '.join(sorted(SUFFIXES))}; the rest may stay",
            tuple(shown(path) for path in list(scan.examples.values())[:EXAMPLES]),
        )
    if scan.nested:
        text = f"used from sub-folders of classes: {counted(scan.nested, 'images')}"
        yield Finding("nested", "info", scan.nested, text)
    if problems := scan.problems:
        yield Finding(
            "unreadable",
            "error",
            len(problems),
            f"{counted(len(problems), 'paths')} cannot be read: "
            + listed([problem.what for problem in problems]),
            problems[0].fix,
            tuple(problem.what for problem in problems[:LISTED]),
        )


def _empty(folders: list[str]) -> Iterator[Finding]:
    if folders:
        yield Finding(
            "empty class",
            "error",
            len(folders),
            f"no image in {listed(folders)}",
            "add images, or remove the folder",
            tuple(folders[:EXAMPLES]),
        )


def _of_layout(
    root: AnyFolder, scan: Scan, names: tuple[str, ...] | list[str], images: int
) -> Iterator[Finding]:
    """Yield what is odd about the folders themselves."""
    beside = scan.left_out[BESIDE]
    if not names:
        text = f"{shown(root)} has no folder in it"
        if beside:
            text += f", but {counted(beside, 'images')}"
        yield Finding("no classes", "error", 1, text, "make one folder of images for each class")
    elif len(names) == 1 and images and scan.nested == images:
        inner = shown(root / names[0])
        text = f"the one folder {shown(names[0])} has all images in sub-folders of its own"
        yield Finding("one class", "warning", 1, text, f"give {inner} if those are the classes")
    elif {name.lower() for name in names} <= {*TRAIN, *REFERENCE}:
        text = f"the folders are named as splits, not as classes: {listed(list(names))}"
        yield Finding(
            "splits", "warning", len(names), text, "call the training images' folder train"
        )
