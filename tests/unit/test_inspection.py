"""What an inspection says of images: every planted fault is found, none is invented."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whipray.platform.inspection.facts import Inspection
from whipray.platform.inspection.inspect import inspect
from whipray.platform.inspection.source import source_of
from whipray.trainers.errors import UsageProblem


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of 12, 6 and 3 images of noise without a fault."""
    rng = np.random.default_rng(0)
    for name, count in (("ant", 12), ("bee", 6), ("wasp", 3)):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_a_folder_of_classes_is_described(photos: Path) -> None:
    found = inspect(source_of([photos]))
    assert found.source == {"source": "folder", "root": str(photos)}
    assert [(c.name, c.count, c.reference) for c in found.classes] == [
        ("ant", 12, 0),
        ("bee", 6, 0),
        ("wasp", 3, 0),
    ]
    assert all(c.held_out + c.remaining == c.count for c in found.classes)
    assert found.images == 21
    assert found.sizes is not None
    assert found.sizes.smallest == found.sizes.median == found.sizes.largest == (48, 40)
    assert found.sizes.not_square == 1.0
    assert (found.modes, found.formats) == ({"RGB": 21}, {"PNG": 21})
    assert Inspection.from_json(json.loads(json.dumps(found.as_json()))) == found


def test_paths_that_are_no_source_are_refused(photos: Path) -> None:
    for paths, word in (
        ([photos / "fly"], "no such file"),
        ([photos, photos], "one of them is a folder"),
        ([next(photos.rglob("*.png"))] * 3, "no one source"),
    ):
        with pytest.raises(UsageProblem, match=word):
            source_of(paths)
