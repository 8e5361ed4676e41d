"""What a step needs is made ahead, and is what it would be otherwise."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.folder_hooks import FolderHooks
from support.training import BATCH, config_of, digits_alone

from whipray.trainers.data import PackedImages, Splits
from whipray.trainers.errors import DataProblem
from whipray.trainers.global_batches import GlobalBatches
from whipray.trainers.loop import Training
from whipray.trainers.prefetch import DEPTH, Prefetch
from whipray.trainers.randomness import BatchRandom

CPU = torch.device("cpu")
WEIGHTS = torch.tensor([1.0, 2.0])


@pytest.fixture(scope="module")
def data() -> Splits:
    return digits_alone()


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("prefetch")]


def counting(position: int) -> Iterator[int]:
    return count(position + 1)


def test_what_follows_is_made_by_a_thread_while_the_step_goes_on() -> None:
    made: dict[int, threading.Event] = {n: threading.Event() for n in range(12)}
    by: dict[int, str] = {}

    def make(position: int) -> int:
        by[position] = threading.current_thread().name
        made[position].set()
        return position * 10

    prefetch = Prefetch(make, counting)
    assert prefetch.take(0) == 0
    for position in range(1, DEPTH + 1):
        assert made[position].wait(20)
        assert by[position].startswith("prefetch")
    assert not made[DEPTH + 1].is_set()  # no further than that
    assert [prefetch.take(n) for n in (1, 7, 2, 1)] == [10, 70, 20, 10]  # in any order
    prefetch.close()
    assert threads() == []


def test_a_value_that_cannot_be_made_is_raised_where_it_is_taken() -> None:
    problem = DataProblem("shards/0.bin is damaged", "pack it again")

    def make(position: int) -> int:
        if position == 2:
            raise problem
        return position

    prefetch = Prefetch(make, counting)
    assert [prefetch.take(0), prefetch.take(1)] == [0, 1]
    with pytest.raises(DataProblem) as raised:
        prefetch.take(2)
    assert raised.value is problem
    assert prefetch.take(3) == 3
    prefetch.close()


@pytest.mark.parametrize("sampling", ["natural", "sqrt"])
def test_batches_are_the_same_in_any_order(data: Splits, sampling: str) -> None:
    """Images, labels and random numbers, over the end of an epoch, in pieces and out of turn."""
    config = config_of(data__flip=True, data__class_sampling=sampling)
    small = data.train.select(np.arange(50))
    order = [(n * BATCH, first) for n in (0, 1, 2, 7, 2, 3, 4, 0) for first in (0, 8, 16, 24)]

    def numbers(rng: BatchRandom) -> list[torch.Tensor]:
        several = [rng.uniform("t"), rng.uniform("size", 3), rng.integers("i", 9)]
        once = [torch.tensor(rng.for_batch("coin"))]
        return [*several, *once, rng.for_block("b"), rng.categorical("y", WEIGHTS, 2)]

    one = GlobalBatches(config, small, CPU)
    for images_seen, first in order:
        batch, rng = one.rows_and_random(images_seen, first, 8)
        alone = GlobalBatches(config, small, CPU)
        expected = alone.rows(images_seen, first, 8)
        alone.close()
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.labels, expected.labels)
        plain = BatchRandom(config.seed, images_seen // BATCH, first, 8, CPU)
        assert rng == plain
        for found, wanted in zip(numbers(rng), numbers(replace(plain)), strict=True):
            assert torch.equal(found, wanted)
    one.close()


class Damaged:
    """Images of which one cannot be read."""

    def __init__(self, images: Any, row: int) -> None:
        self.images, self.row = images, row
        self.shape, self.dtype = images.shape, images.dtype

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Any) -> Any:
        return self.images[key]

    def gather(self, indices: Any, out: Any = None) -> Any:
        if self.row in indices:
            raise DataProblem("shards/0.bin is damaged", "pack it again")
        return np.take(self.images, indices, axis=0, out=out, mode="clip")


def test_a_training_ends_with_the_problem_of_its_images(data: Splits, tmp_path: Path) -> None:
    config = config_of()
    batches = GlobalBatches(config, data.train, CPU)
    row = int(batches.order.indices(5 * BATCH, 1)[0])  # of the sixth step
    train = PackedImages(Damaged(data.train.images, row), data.train.labels, data.train.class_names)
    training = Training(config, Splits(train, data.reference), CPU, None)
    with pytest.raises(DataProblem, match="is damaged"):
        training.run(FolderHooks(tmp_path), config.model_dump(mode="json"))
    assert training.images_seen == 5 * BATCH
    training.close()
    assert threads() == []
