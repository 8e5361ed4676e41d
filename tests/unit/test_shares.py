"""Who writes which tensors of a checkpoint, on the shapes of real networks."""

from __future__ import annotations

import random

import pytest
import torch

from whipray.platform.config.experiment import load_experiment
from whipray.trainers.checkpoint import kinds
from whipray.trainers.network import build_network
from whipray.trainers.shares import in_rounds, share_evenly

SIDE = {"cifar100-lt": 32, "imagenet-lt-64": 64, "imagenet-lt-64-dit": 64}
CLASSES = tuple(map(str, range(100)))


def numbers_of(recipe: str) -> dict[str, int]:
    """Numbers of each tensor of a recipe's checkpoint, with two power-function averages."""
    experiment = load_experiment(recipe, []).value
    with torch.device("meta"):
        network = build_network(experiment, (3, SIDE[recipe], SIDE[recipe]), CLASSES, None)
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    return {f"{kind}/{name}": size for kind in kinds((0.05, 0.1)) for name, size in sizes.items()}


@pytest.mark.parametrize("recipe", SIDE)
@pytest.mark.parametrize("workers", [1, 2, 8, 32])
def test_all_workers_write_about_as_much(recipe: str, workers: int) -> None:
    numbers = numbers_of(recipe)
    writer = share_evenly(numbers, workers)
    loads = [sum(n for name, n in numbers.items() if writer[name] == w) for w in range(workers)]
    assert sum(loads) == sum(numbers.values())
    assert max(loads) <= 1.03 * sum(loads) / workers
    assert min(loads) >= 0.97 * sum(loads) / workers
    shuffled = list(numbers.items())
    random.Random(0).shuffle(shuffled)
    assert share_evenly(dict(shuffled), workers) == writer


def test_rounds_are_small_and_hold_each_tensor_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whipray.trainers.shares.NUMBERS_A_ROUND", 20)
    monkeypatch.setattr("whipray.trainers.shares.LEAST_NUMBERS", 4)
    numbers = dict(zip("abcdefgh", (3, 25, 0, 4, 8, 1, 1, 9), strict=True))
    writer = {name: int(name in "bdf") for name in numbers}
    rounds = in_rounds(numbers, writer, 2)
    assert rounds == [[["a", "c"], ["b"]], [["e", "g"], ["d", "f"]], [["h"], []]]
    assert in_rounds({}, {}, 2) == []
