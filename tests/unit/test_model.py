"""Exported models in plain Python: classes, seeds, settings; PNG without an image library."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.exported import export_small

import whipray
from whipray.trainers.errors import CheckpointProblem, UsageProblem
from whipray.trainers.export import WEIGHTS
from whipray.trainers.model import Model, open_model
from whipray.trainers.png import encode_png


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "out"
    export_small(path / "model")
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return open_model(folder)


def test_an_exported_folder_is_loaded_from_wherever_it_lies(folder: Path, model: Model) -> None:
    for reference in (folder, str(folder / "model"), f"file://{folder}"):
        loaded = whipray.load_model(reference)
        np.testing.assert_array_equal(loaded.sample(["owl"], seed=3), model.sample([2], seed=3))


def test_images_of_a_class_follow_each_other_and_their_labels_are_known(model: Model) -> None:
    images = model.sample(["owl", 0], n=2, seed=1)
    assert (images.shape, images.dtype) == ((4, 3, 8, 8), np.uint8)
    assert model.labels(["owl", 0], n=2).tolist() == [2, 2, 0, 0]
    assert (images[0] != images[1]).any()
    np.testing.assert_array_equal(images[:2], model.sample(["owl"], n=2, seed=1))
    assert model.labels().tolist() == [0, 1, 2]
    assert model.sample([], n=5).shape == (0, 3, 8, 8)


def test_a_wrong_class_or_setting_is_a_problem(model: Model) -> None:
    with pytest.raises(UsageProblem, match="did you mean owl"):
        model.sample(["olw"])
    for classes in ([3], [-1], [1.5], "owl"):
        with pytest.raises(UsageProblem):
            model.sample(classes)  # type: ignore[arg-type]
    with pytest.raises(UsageProblem, match="n=-1"):
        model.sample(["owl"], n=-1)
    for wrong, key in (
        ({"omega": -1.0}, "omega"),
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
    ):
        with pytest.raises(UsageProblem, match=key):
            model.sample(["owl"], **wrong)  # type: ignore[arg-type]


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    export_small(tmp_path)
    weights = bytearray((tmp_path / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(weights)
    with pytest.raises(CheckpointProblem, match="altered"):
        whipray.load_model(tmp_path)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_a_png_decodes_to_the_same_bytes(channels: int, mode: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (channels, 5, 7), np.uint8)
    with Image.open(io.BytesIO(encode_png(image))) as decoded:
        decoded.verify()  # every chunk's CRC
    with Image.open(io.BytesIO(encode_png(image))) as decoded:
        assert (decoded.format, decoded.mode) == ("PNG", mode)
        pixels = np.asarray(decoded).reshape(5, 7, channels)
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1), image)


def test_a_png_of_five_channels_is_a_problem() -> None:
    with pytest.raises(UsageProblem, match="5 channels"):
        encode_png(np.zeros((5, 2, 2), np.uint8))
