"""The images below a folder, and the files there that are none."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataProblem
from .bucket_folder import BucketEntry, BucketFolder
from .report import Note, counted, listed, shown

AnyFolder = Path | BucketFolder
AnyEntry = os.DirEntry[str] | BucketEntry
"""A folder of this machine or of a bucket, and what is in it."""

SUFFIXES = frozenset(
    [
        ".apng",
        ".avif",
        ".bmp",
        ".dib",
        ".gif",
        ".j2c",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpc",
        ".jpe",
        ".jpeg",
        ".jpf",
        ".jpg",
        ".jpx",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".qoi",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
"""Of files that are images; Pillow reads them all. Not those of its formats that hold no photos."""

MADE_BY_SYSTEMS: Mapping[str, str] = {
    "__MACOSX": "macOS",
    "@eaDir": "Synology",
    "#recycle": "Synology",
    "$RECYCLE.BIN": "Windows",
    "System Volume Information": "Windows",
    "lost+found": "the file system",
}
"""Folders that lie beside images without anybody's doing, and what makes them; never a class."""
JUNK = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"})
"""Files that systems put beside images."""
BESIDE = "beside the folders of the classes"
"""Kind of images that are in no class."""


@dataclass
class Scan:
    """What lies below one folder.

    Args:
        images: paths relative to the folder, sorted.
        nested: number of images that lie in sub-folders.
        left_out: number of other files, by what they are.
        examples: a path of each kind that was left out.
        problems: folders that cannot be read, and links to nothing.
    """

    images: list[str] = field(default_factory=list)
    nested: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    problems: list[DataProblem] = field(default_factory=list)

    def leave_out(self, kind: str, path: str) -> None:
        """Count a file that is not used."""
        self.left_out[kind] += 1
        self.examples.setdefault(kind, path)

    def add(self, other: Scan, prefix: str) -> None:
        """Count what lies below a sub-folder, whose images stay its own."""
        self.nested += other.nested
        self.left_out += other.left_out
        self.problems += other.problems
        for kind, path in other.examples.items():
            self.examples.setdefault(kind, f"{prefix}{path}")

    def describe_left_out(self) -> str:
        """Return the kinds that were left out, with their numbers and an example, in one line."""
        kinds = [
            f"{count} {shown(kind)} ({shown(self.examples[kind])})"
            for kind, count in self.left_out.most_common()
        ]
        return listed(kinds)

    def notes(self) -> Iterator[Note]:
        """Yield what is to be said of the files."""
        if count := self.left_out.total():
            text = f"{counted(count, 'files')} left out: {self.describe_left_out()}"
            yield Note("left out", count, text)
        if self.nested:
            text = f"used from sub-folders of classes: {counted(self.nested, 'images')}"
            yield Note("nested", self.nested, text)


def entries_of(folder: AnyFolder) -> list[AnyEntry]:
    """Return what lies in a folder, sorted by name, without hidden files.

    Raises:
        DataProblem: no such folder, or one that cannot be read.
    """
    return [entry for entry in _all_entries_of(folder) if not entry.name.startswith(".")]


def _all_entries_of(folder: AnyFolder) -> list[AnyEntry]:
    try:
        if isinstance(folder, BucketFolder):
            return list(folder.entries())
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda e: e.name)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            reason = "no such folder"
        raise DataProblem(
            f"{shown(folder)[:300]}: {reason}",
            "data.root must hold a folder of images for each class, or train/ with these in it",
        ) from error


def class_folders(folder: AnyFolder, reference: AnyFolder | None, scan: Scan) -> list[str]:
    """Return the names of the class folders; what else lies beside them is counted in `scan`.

    Args:
        reference: a folder that is no class, if it is among them.

    Raises:
        DataProblem: as `entries_of`.
    """
    names = []
    for entry in entries_of(folder):
        if not entry.is_dir():
            if is_image(entry):
                scan.leave_out(BESIDE, entry.name)
        elif entry.name in MADE_BY_SYSTEMS:
            scan.leave_out(made_by_system(entry.name), entry.name)
        elif folder / entry.name != reference:
            names.append(entry.name)
    return names


def is_image(entry: AnyEntry) -> bool:
    """Return whether an entry has the name of an image, and is no folder."""
    return Path(entry.name).suffix.lower() in SUFFIXES and not entry.is_dir()


def scan_images(folder: AnyFolder) -> Scan:
    """Return the images in a folder and its sub-folders; problems are collected, none is raised."""
    scan, seen = Scan(), set[tuple[int, int]]()
    waiting = [""]  # sub-folders, each with a slash at its end
    while waiting:
        prefix = waiting.pop()
        try:
            entries = _all_entries_of(folder / prefix)
            stat = (folder / prefix).stat() if isinstance(folder, Path) else None
        except DataProblem as problem:
            scan.problems.append(problem)
            continue
        if stat is not None:
            if (stat.st_dev, stat.st_ino) in seen:  # a link to a folder above
                continue
            seen.add((stat.st_dev, stat.st_ino))
        for entry in entries:
            path = prefix + entry.name
            if entry.name.startswith("."):
                _add_hidden(scan, entry.name, path)
            elif not _is(entry.is_dir):
                _add_file(scan, entry, path)
            elif entry.name in MADE_BY_SYSTEMS:
                scan.leave_out(made_by_system(entry.name), path)
            else:
                waiting.append(f"{path}/")
    scan.images.sort()
    return scan


def made_by_system(folder: str) -> str:
    """Return what a folder of `MADE_BY_SYSTEMS` is."""
    return f"folder made by {MADE_BY_SYSTEMS[folder]}, may be deleted"


def _add_hidden(scan: Scan, name: str, path: str) -> None:
    """Count a hidden image; macOS puts a `._` file beside each image on disks of other systems."""
    if not name.startswith("._") and os.path.splitext(name)[1].lower() in SUFFIXES:
        scan.leave_out("hidden", path)


def _add_file(scan: Scan, entry: AnyEntry, path: str) -> None:
    suffix = os.path.splitext(entry.name)[1].lower()
    if not _is(entry.is_file):
        if entry.is_symlink() and suffix in SUFFIXES:
            problem = DataProblem(
                f"{shown(entry.path)}: a link to a file that is not there",
                "fetch what it points to, or remove the link",
            )
            scan.problems.append(problem)
        else:
            scan.leave_out("pipe, device or dangling link", path)
    elif suffix in SUFFIXES:
        scan.images.append(path)
        scan.nested += "/" in path
    elif entry.name.lower() not in JUNK:
        scan.leave_out(suffix or "without a suffix", path)


def _is(what: Callable[[], bool]) -> bool:
    """Return what `DirEntry.is_dir` or `is_file` does; False for a link to itself."""
    try:
        return what()
    except OSError:
        return False
