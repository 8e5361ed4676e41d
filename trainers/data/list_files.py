"""Lists of images as ImageNet-LT has them: one line `relative/path.JPEG label` for each image."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Literal

import numpy as np

from ..errors import DataProblem
from .decoding import EncodedConfig, EncodedImages
from .source import Splits


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


def _read(file: Path, root: Path) -> EncodedImages:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataProblem(
            f"{file}: not a list that can be read ({type(error).__name__})", "correct its path"
        ) from error
    paths, labels, numbers = [], [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        path, _, label = line.rstrip().rpartition(" ")  # a path may hold spaces
        if not path or not (label.isascii() and label.isdecimal()) or len(label) > 18:
            raise DataProblem(
                f"{file}:{number}: not `path label` but `{line.strip()[:80]}`",
                "write the image's path, a space and the number of its class",
            )
        path = path.strip()
        if PurePath(path).is_absolute() or ".." in PurePath(path).parts:
            raise DataProblem(
                f"{file}:{number}: {path[:80]} leads out of {root}",
                "write paths below data.root, or choose a data.root above all of them",
            )
        paths.append(path)
        labels.append(int(label))
        numbers.append(number)
    if not paths:
        raise DataProblem(f"{file}: lists no image", "write one line for each image")
    return EncodedImages(
        paths,
        np.array(labels, dtype=np.int64),
        lambda i: f"{file}:{numbers[i]} ({paths[i]})",
        root,
    )
