"""The data set that fills up small classes with generated images."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.exported import export_small
from torch.utils.data import DataLoader, Dataset

from whipray import BalancedDataset
from whipray.trainers.errors import DataProblem, UsageProblem
from whipray.trainers.model import Model, open_model

COUNTS = (70, 5, 1)
LABELS = np.repeat(np.arange(3), COUNTS)
IMAGES = np.random.default_rng(0).integers(0, 256, (len(LABELS), 3, 8, 8), np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("model")
    export_small(folder)
    return open_model(folder)


class Photos(Dataset[Any]):
    """As torchvision's folders: pictures, and ids in the alphabetical order of the names."""

    classes = ("dog", "cat")
    targets = (0, 1, 1)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return Image.fromarray(IMAGES[index].transpose(1, 2, 0)), self.targets[index]


def everything(dataset: BalancedDataset, workers: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    loader = DataLoader(dataset, batch_size=32, num_workers=workers)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_every_class_has_as_many_images_and_the_real_ones_are_unchanged(model: Model) -> None:
    dataset = BalancedDataset((IMAGES, LABELS), model, seed=4)
    images, labels = everything(dataset)
    assert np.bincount(dataset.labels).tolist() == [70, 70, 70]
    assert labels.tolist() == dataset.labels.tolist()
    assert not dataset.is_generated[: len(LABELS)].any()
    assert dataset.is_generated[len(LABELS) :].all()
    np.testing.assert_array_equal(images[: len(LABELS)], IMAGES)
    # what the model itself generates, the k-th image of a class for the k-th that was missing
    expected = model.sample(["owl"], n=69, seed=4).astype(int)
    generated = images[-69:].numpy()
    assert np.abs(generated - expected).max() <= 1  # other batches, so other rounding
    assert len(np.unique(generated, axis=0)) == 69


def test_no_real_image_is_left_out_and_a_number_is_kept_to(model: Model) -> None:
    dataset = BalancedDataset((IMAGES, LABELS), model, to=4)
    assert np.bincount(dataset.labels).tolist() == [70, 5, 4]
    assert np.bincount(dataset.labels[dataset.is_generated], minlength=3).tolist() == [0, 0, 3]


def test_images_are_the_same_in_whatever_order_and_process(model: Model, tmp_path: Path) -> None:
    def dataset(folder: str) -> BalancedDataset:
        return BalancedDataset((IMAGES, LABELS), model, cache=tmp_path / folder, steps=1)

    first, again = dataset("one"), dataset("two")
    last = [again[i][0] for i in (-1, 80, 200)]  # batches from the end
    in_order, _ = everything(first)
    for image, index in zip(last, (-1, 80, 200), strict=True):
        assert torch.equal(image, in_order[index])
    by_workers, _ = everything(dataset("three"), workers=2)
    assert (by_workers.int() - in_order.int()).abs().max() <= 1  # threads round otherwise
    copy = pickle.loads(pickle.dumps(first))
    assert torch.equal(copy[-1][0], in_order[-1])


def test_a_cache_is_read_again_and_a_damaged_one_is_made_again(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = BalancedDataset((IMAGES, LABELS), model, cache=tmp_path)
    first.generate()
    expected, _ = everything(first)
    files = sorted(first.folder.glob("*.safetensors"))
    assert len(files) == 3  # 134 images in batches of 64

    made = []
    generate = Model.generate
    monkeypatch.setattr(Model, "generate", lambda *a: made.append(1) or generate(*a))
    assert torch.equal(
        everything(BalancedDataset((IMAGES, LABELS), model, cache=tmp_path))[0], expected
    )
    assert made == []

    content = bytearray(files[1].read_bytes())
    content[-1] ^= 1
    files[1].write_bytes(content)
    with caplog.at_level(logging.WARNING):
        third = BalancedDataset((IMAGES, LABELS), model, cache=tmp_path)
        assert torch.equal(everything(third)[0], expected)
    assert made == [1]
    assert "000001.safetensors is damaged" in caplog.text
    for others in ({"seed": 1}, {"omega": 2.0}, {"to": 80}):
        other = BalancedDataset((IMAGES, LABELS), model, cache=tmp_path, **others)  # type: ignore[arg-type]
        assert other.folder != first.folder


def test_a_temporary_cache_goes_with_the_data_set(model: Model) -> None:
    dataset = BalancedDataset((IMAGES, LABELS), model, to=4)
    folder = dataset.folder
    assert dataset[-1][1] == 2
    copy = pickle.loads(pickle.dumps(dataset))
    del copy  # as a worker of a DataLoader ends
    assert folder.exists()
    del dataset
    assert not folder.exists()


def test_a_data_set_of_pictures_is_read_by_the_names_of_its_classes(model: Model) -> None:
    dataset = BalancedDataset(Photos(), model, transform=lambda image: image.float() / 255)
    assert dataset.labels[:3].tolist() == [1, 0, 0]  # dog and cat are 0 and 1 in its own list
    assert np.bincount(dataset.labels).tolist() == [2, 2, 2]
    image, _ = dataset[1]
    np.testing.assert_allclose(image, IMAGES[1] / np.float32(255))
    assert 0 <= dataset[5][0].min() < dataset[5][0].max() <= 1
    assert not isinstance(dataset[0][1], torch.Tensor)


def test_what_cannot_be_mixed_is_a_problem(model: Model) -> None:
    with pytest.raises(DataProblem, match="label 7 of the real images"):
        BalancedDataset((IMAGES, LABELS + 7), model)
    with pytest.raises(DataProblem, match="label 'wolf'"):
        BalancedDataset((IMAGES[:1], ["wolf"]), model)
    with pytest.raises(DataProblem, match="1 images and 76 labels"):
        BalancedDataset((IMAGES[:1], LABELS), model)
    for wrong in (IMAGES / 255, IMAGES[:, :, :4], IMAGES[:, :1]):
        with pytest.raises(DataProblem, match=r"real image 0 is .*before any transform"):
            BalancedDataset((wrong, LABELS), model)[0]
    with pytest.raises(UsageProblem, match="to=0"):
        BalancedDataset((IMAGES, LABELS), model, to=0)
    with pytest.raises(UsageProblem, match="omega"):
        BalancedDataset((IMAGES, LABELS), model, omega=-1)
    with pytest.raises(IndexError):
        BalancedDataset((IMAGES, LABELS), model, to=1)[76]
