"""The words by which folders and files say which split their images are of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from .bucket_files import BucketFile

TRAIN = ("train", "training")
"""Training images."""
REFERENCE = ("reference", "test", "val", "valid", "validation", "dev")
"""Images to compare with, in the order in which they are looked for."""


def split_of(file: Path | BucketFile, further: Iterable[str] = ()) -> str | None:
    """Return the split that a file's name says, as in `train-00000-of-00002.parquet`; None where it says none.

    Where the name itself says nothing, that of its folder does.

    Args:
        further: other words for splits.
    """
    known = {*TRAIN, *REFERENCE, *(word.lower() for word in further)}
    for name in (file.name, file.parent.name):
        for word in (name.lower(), *re.split(r"[^a-z]+", name.lower())):
            if word in known:
                return word
    return None
