"""An inspection sees the images that a training reads, whatever the source."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from whipray.platform.inspection.inspect import inspect
from whipray.platform.inspection.source import source_of
from whipray.trainers.data import Splits
from whipray.trainers.data.encoded_config import EncodedConfig

SIDE = 8


def image(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return Image.fromarray(pixels)


def encoded(seed: int) -> bytes:
    buffer = io.BytesIO()
    image(seed).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(params=["folder", "parquet", "words", "lists", "table"])
def paths(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    """The same images of two classes, 12 and 10 to train on, 2 and 3 to compare with."""
    names = {"ant": (12, 2), "bee": (10, 3)}
    rows: dict[str, list[tuple[str, str, int]]] = {"train": [], "val": []}
    for name, counts in names.items():
        for split, count in zip(rows, counts, strict=True):
            for number in range(count):
                seed = len(rows["train"]) + 1000 * len(rows["val"])
                file = f"{split}/{name}/{number}.png"
                (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
                image(seed).save(tmp_path / file)
                rows[split].append((file, name, seed))
    if request.param == "folder":
        return [tmp_path]
    written = []
    for split, of_split in rows.items():
        files, labels, seeds = zip(*of_split, strict=True)
        numbers = [list(names).index(label) for label in labels]
        if request.param in ("parquet", "words"):
            written.append(tmp_path / f"{split}-00000-of-00001.parquet")
            content = {
                "image": [{"bytes": encoded(seed), "path": None} for seed in seeds],
                "label": labels if request.param == "words" else numbers,
            }
            parquet.write_table(pa.table(content), written[-1])
        else:
            written.append(tmp_path / f"{split}.csv")
            header, separator = ("image,label\n", ",") if request.param == "table" else ("", " ")
            shown = labels if request.param == "table" else numbers
            lines = [f"{f}{separator}{label}\n" for f, label in zip(files, shown, strict=True)]
            written[-1].write_text(header + "".join(lines))
    return written


def test_an_inspection_counts_what_a_training_reads(paths: list[Path], tmp_path: Path) -> None:
    config = source_of(paths)
    assert isinstance(config, EncodedConfig)
    found = inspect(config)
    splits: Splits = config.load(tmp_path / "cache")
    assert tuple(c.name for c in found.classes) == splits.train.class_names
    assert [c.count for c in found.classes] == splits.train.class_counts.tolist() == [12, 10]
    assert [c.reference for c in found.classes] == splits.reference.class_counts.tolist() == [2, 3]
    assert not [f for f in found.findings if f.severity == "error"]
