"""How a balanced data set is read, with its own paths."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from .content import Datasheet

UNWRITTEN = "FOLDER"
"""Stands for the folder of a set that is not written."""


@dataclass(frozen=True)
class Reading:
    """One way to read the data set."""

    title: str
    code: str


def readings(sheet: Datasheet) -> tuple[Reading, ...]:
    """Return the ways to read it that its form allows."""
    path, (channels, height, _) = sheet.path or UNWRITTEN, sheet.image_shape
    whipray = Reading(
        "Whipray",
        f"whipray train RECIPE data.source=balanced data.path={shlex.quote(path)} "
        f"data.image_size={height} data.channels={channels}",
    )
    rows = Reading(
        "Where each image is from (pandas)",
        "import pandas as pd\n\n"
        f"rows = pd.read_parquet({path + '/manifest.parquet'!r})\n"
        "real = rows[(rows.split == 'train') & ~rows.generated]\n"
        "kept = rows[rows.generated & rows.kept]\n"
        "rejected = rows[~rows.kept]  # why is in the column reason",
    )
    if sheet.form == "parquet":
        images = Reading(
            "Hugging Face datasets",
            "from datasets import load_dataset\n\n"
            f"images = load_dataset({path!r})\n"
            "train, test = images['train'], images['test']",
        )
    else:
        images = Reading(
            "torchvision",
            "from torchvision.datasets import ImageFolder\n\n"
            f"train = ImageFolder({path + '/train'!r})\n"
            f"test = ImageFolder({path + '/test'!r})",
        )
    return images, rows, whipray
