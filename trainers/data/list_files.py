"""Lists of images as ImageNet-LT has them: `relative/path.JPEG label`, one line for each image."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal

import numpy as np

from ..errors import DataProblem
from .decoding import PATH_SHOWN, EncodedImages
from .encoded_config import EncodedConfig
from .report import LISTED, raise_together, shown
from .source import Splits

_THREE_COLUMNS = re.compile(r"\.\w+\s+\d+$")
"""At the end of a path: `0.png 3` is a file and a number, the label being the third column."""


class ListFiles(EncodedConfig):
    """Images named by two lists, such as ImageNet_LT_train.txt and ImageNet_LT_val.txt."""

    source: Literal["list_files"] = "list_files"
    root: Path
    """Folder that the paths in the lists are relative to; they may not lead out of it."""
    train_list: Path
    """Images to train on."""
    reference_list: Path
    """Class-balanced images to compare with."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes in the order of their labels; by default their numbers."""

    def load(self, cache: Path) -> Splits:
        """Read both splits; see `SourceConfig`."""
        root = self.root.expanduser()
        train, reference = (
            _read(file.expanduser(), root) for file in (self.train_list, self.reference_list)
        )
        return self.pack(cache, train, reference, self.class_names)


@dataclass
class Listed:
    """What one list names.

    Args:
        paths: relative to the root.
        labels: of each path.
        numbers: of the lines, from 1.
        problems: the first lines that cannot be used.
        more: number of further such lines.
    """

    paths: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    problems: list[DataProblem] = field(default_factory=list)
    more: int = 0


def read_list(file: Path, root: Path) -> Listed:
    """Return what a list names; lines that cannot be used are collected, not raised.

    Raises:
        DataProblem: a list that cannot be read at all.
    """
    listed = Listed()
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            path, label = _path_and_label(line, root)
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


def _read(file: Path, root: Path) -> EncodedImages:
    listed = read_list(file, root)
    raise_together(listed.problems, listed.more)
    paths, numbers = listed.paths, listed.numbers
    if not paths:
        raise DataProblem(f"{file}: lists no image", "write one line for each image")
    return EncodedImages(
        paths,
        np.array(listed.labels, dtype=np.int64),
        lambda i: f"{file}:{numbers[i]} ({paths[i]})",
        root,
    )


def _text(file: Path) -> str:
    """Return what a list holds, without the mark that Windows puts before it."""
    try:
        if not file.is_file():  # reading a pipe or a device may never end
            what = "not a file" if file.exists() else "no such file"
            raise DataProblem(f"{shown(file)}: {what}", "correct the path of the list")
        content = file.read_bytes()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise DataProblem(
            f"{shown(file)[:PATH_SHOWN]}: a list that cannot be read ({reason})",
            "correct the path of the list",
        ) from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataProblem(f"{file}: is UTF-16", "save the list as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise DataProblem(
            f"{file}:{number}: not a list in UTF-8 (byte {content[error.start]:#x})",
            "save the list as UTF-8",
        ) from error
    if "\0" in text:
        number = text.count("\n", 0, text.index("\0")) + 1
        raise DataProblem(f"{file}:{number}: a byte 0 in the text", "save the list as UTF-8")
    return text


def _path_and_label(line: str, root: Path) -> tuple[str, int]:
    """Return what one line names.

    Raises:
        DataProblem: another form, or a path out of the root.
    """
    path, label = [*line.rsplit(maxsplit=1), ""][:2]  # a path may hold spaces
    path = path.strip()
    if not path or not (label.isascii() and label.isdecimal()) or len(label) > 18:
        raise DataProblem(
            f"not `path label` but `{line.strip()[:80]}`",
            "write the image's path, a space and the number of its class",
        )
    if _THREE_COLUMNS.search(path) and not (root / path).exists():
        raise DataProblem(
            f"three columns, not `path label`: `{line.strip()[:80]}`",
            "leave the image's path and the number of its class",
        )
    if PurePath(path).is_absolute() or ".." in PurePath(path).parts:
        raise DataProblem(
            f"{path[:80]} leads out of {root}",
            "write paths below data.root, or choose a data.root above all of them",
        )
    return path, int(label)
