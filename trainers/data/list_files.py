"""Lists of images as ImageNet-LT has them (`relative/path.JPEG label`), and as tables of two columns."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import DataProblem
from .bucket_files import BucketFile
from .encoded import EncodedImages
from .encoded_config import EncodedConfig
from .encoded_splits import EncodedSplits
from .files import Files
from .label_texts import number_labels
from .list_lines import form_of, is_number, numbered_lines, parse_line
from .locations import Location, open_files
from .packed import Indices
from .report import LISTED, PATH_SHOWN, raise_together, shown


class ListFiles(EncodedConfig):
    """Images named by lists, such as ImageNet_LT_train.txt and ImageNet_LT_val.txt.

    A line is a path and a label, the number or the name of a class, separated by blanks, a tab, a comma or
    a semicolon. A first line may name the columns (`path`, `label`), which may then be more than two.
    """

    source: Literal["list_files"] = "list_files"
    root: Location
    """Folder or s3:// address that the paths in the lists are relative to; they may not lead out of it."""
    train_list: Location
    """Images to train on: a file or an s3:// address."""
    reference_list: Location | None = None
    """Images to compare with. None: images are held out."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes in the order of their labels; by default their numbers, or the labels
    themselves, sorted, where they are words."""

    def prepare(self, cache: Path) -> EncodedSplits:
        """Return which images are of which split; see `EncodedConfig`."""
        root = root_of(self.root)
        files = [
            list_at(file) for file in (self.train_list, self.reference_list) if file is not None
        ]
        lists = [read_list(file, root) for file in files]
        for file, each in zip(files, lists, strict=True):
            raise_together(each.problems, each.more)
            if not each.paths:
                raise DataProblem(f"{file}: lists no image", "write one line for each image")
        ids, names = number_classes(lists, self.class_names)
        facts = root.list() if isinstance(root, Files) else None
        train, *reference = (
            EncodedImages(each.paths, labels, each.name, root, facts=facts)
            for each, labels in zip(lists, ids, strict=True)
        )
        return self.choose(cache, train, reference[0] if reference else None, names)


def root_of(location: str | Path) -> Path | Files:
    """Return where the paths of lists start from."""
    return open_files(location) if isinstance(location, str) else location.expanduser()


def list_at(location: str | Path) -> Path | BucketFile:
    """Return the file of a list."""
    return BucketFile.at(location) if isinstance(location, str) else location.expanduser()


@dataclass
class Listed:
    """What one list names.

    Args:
        file: the list.
        paths: relative to the root.
        labels: of each path, as they are written.
        numbers: of the lines, from 1.
        problems: the first lines that cannot be used.
        more: number of further such lines.
    """

    file: Path | BucketFile
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    problems: list[DataProblem] = field(default_factory=list)
    more: int = 0

    def name(self, index: int) -> str:
        """Return what messages call the image at an index: the list, the line and the path."""
        return f"{self.file}:{self.numbers[index]} ({self.paths[index]})"


def read_list(file: Path | BucketFile, root: Path | Files) -> Listed:
    """Return what a list names; lines that cannot be used are collected, not raised.

    Raises:
        DataProblem: a list that cannot be read at all.
    """
    listed = Listed(file)
    lines = list(numbered_lines(_text(file)))
    try:
        form = form_of([line for _, line in lines[:2]])
    except DataProblem as problem:
        raise DataProblem(f"{file}: {problem.what}", problem.fix) from problem
    for number, line in lines[1:] if form.header else lines:
        try:
            path, label = parse_line(line, form, root)
        except DataProblem as problem:
            if len(listed.problems) < LISTED:
                what = f"{file}:{number}: {problem.what}"
                listed.problems.append(DataProblem(what, problem.fix))
            else:
                listed.more += 1
            continue
        listed.paths.append(path)
        listed.labels.append(label)
        listed.numbers.append(number)
    return listed


def number_classes(
    lists: Sequence[Listed], class_names: Sequence[str] | None
) -> tuple[list[Indices], Sequence[str] | None]:
    """Return the ids (N,) of each list's labels, and the names of the classes.

    Labels that are numbers are ids; words are numbered.

    Args:
        class_names: by id; None for the numbers, or for the sorted words.

    Raises:
        DataProblem: words among numbers, or a word that is none of the names.
    """
    labels = [label for each in lists for label in each.labels]
    ends = np.cumsum([len(each.labels) for each in lists])

    def name(index: int) -> str:
        of = int(np.searchsorted(ends, index, side="right"))
        return lists[of].name(int(index - ends[of]) + len(lists[of].labels))

    are_numbers = np.array([is_number(label) for label in labels])
    if are_numbers.all():
        return np.split(np.array(list(map(int, labels)), np.int64), ends[:-1]), class_names
    if class_names is None and are_numbers.any():
        kind, others = "a word", "numbers"
        rare = np.flatnonzero(~are_numbers)
        if len(rare) > len(labels) / 2:
            kind, others = "a number", "words"
            rare = np.flatnonzero(are_numbers)
        what = f"is {kind}, while others are {others}"
        fix = "write all labels as numbers from 0, or all as words"
        raise_together(
            [
                DataProblem(f"{name(i)}: label {shown(labels[i])} {what}", fix)
                for i in rare[:LISTED]
            ],
            max(0, len(rare) - LISTED),
        )
    ids, names = number_labels(labels, class_names, name)
    return np.split(ids, ends[:-1]), names


def _text(file: Path | BucketFile) -> str:
    """Return what a list holds, without the mark that Windows puts before it."""
    try:
        if (
            isinstance(file, Path) and not file.is_file()
        ):  # reading a pipe or a device may never end
            what = "not a file" if file.exists() else "no such file"
            raise DataProblem(f"{shown(file)}: {what}", "correct the path of the list")
        content = file.read_bytes() if isinstance(file, Path) else file.read()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise DataProblem(
            f"{shown(file)[:PATH_SHOWN]}: a list that cannot be read ({reason})",
            "correct the path of the list",
        ) from error
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "UTF-16" if is_utf16 else "UTF-8"
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise DataProblem(
            f"{file}:{number}: not a list in {encoding} (byte {content[error.start]:#x})",
            "save the list as UTF-8",
        ) from error
    if "\0" in text:
        number = text.count("\n", 0, text.index("\0")) + 1
        raise DataProblem(f"{file}:{number}: a byte 0 in the text", "save the list as UTF-8")
    return text
