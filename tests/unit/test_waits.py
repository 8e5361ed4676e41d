"""No step waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args
from unittest.mock import patch

import pytest
import torch
from support.processes import PROCESSES
from support.training import BATCH, config_of, digits_alone
from support.waits import META, EngineElsewhere, NoWaits, Waits
from torch import Tensor

from whipray.trainers.augmentations import AnyAugmentation
from whipray.trainers.data import Splits
from whipray.trainers.loop import Training
from whipray.trainers.networks import AnyNetwork
from whipray.trainers.objectives import AnyObjective, DDPMConfig

CPU = torch.device("cpu")


def names_of(union: Any) -> list[str]:
    return [kind.model_fields["name"].default for kind in get_args(get_args(union)[0])]


@pytest.fixture(scope="module")
def data() -> Splits:
    return digits_alone()


OBJECTIVES: list[dict[str, Any]] = [
    *({"name": name} for name in names_of(AnyObjective)),
    {"name": "cbdm", "gamma": 0.0, "label_samples": 2},
    {"name": "cbdm", "metric": "eps", "dropout_masks": "shared", "thin": 0.5, "label_drop": 0.3},
    {"name": "oc", "mode": "full", "tr_tau": 1.0, "estimator": "expected", "cutoff": 0.9},
    {"name": "call", "base": {"name": "cbdm", "label_drop_per": "batch"}, "margin": 1.0},
]
SIZES: dict[str, dict[str, Any]] = {
    "unet": {},
    "ddpmpp": {"base_channels": 8, "channel_mult": [1, 2], "blocks_per_level": 1},
    "vit": {"width": 24, "depth": 3, "heads": 2},
    "dit": {"width": 24, "depth": 3, "heads": 2},
}
CASES: list[dict[str, Any]] = [
    *({"objective": objective} for objective in OBJECTIVES),
    *(
        {"process": process.model_dump(mode="json"), "objective": {"name": name}}
        for process in PROCESSES.values()
        for name in ("cbdm", "oc")
    ),
    *(
        {"augmentation": {"name": kind}, "objective": {"name": name}, "data__flip": kind == "none"}
        for kind in names_of(AnyAugmentation)
        for name in ("ddpm", "oc")
    ),
    *({"model": {"name": name, **SIZES[name]}} for name in names_of(AnyNetwork)),
    {"objective": {"name": "oc"}, "training__micro_batch": 8},
]


def training_elsewhere(data: Splits, changes: dict[str, Any]) -> Training:
    if changes.get("objective", {}).get("name") == "tcfg":
        changes = {**changes, "model__guidance_embedding": True}
    with patch("whipray.trainers.loop.Engine", EngineElsewhere):
        return Training(config_of(**changes), data, META, None)


def name_of(changes: dict[str, Any]) -> str:
    values = [v for v in changes.values() for v in (v.values() if isinstance(v, dict) else [v])]
    return "-".join(str(value) for value in values)


@pytest.mark.parametrize("changes", CASES, ids=name_of)
def test_no_step_waits_for_the_device(data: Splits, changes: dict[str, Any]) -> None:
    training = training_elsewhere(data, changes)
    sums: dict[str, Tensor] = {}
    with NoWaits():
        training._step(sums)
    training.close()
    assert training.images_seen == BATCH
    assert {value.device for value in sums.values()} == {META}
    assert all(p.grad is not None for p in training.engine.network.parameters())


def test_the_engine_reads_no_tensor(data: Splits) -> None:
    """Gradients, clipping, Adam and averages, all of it the device's work."""
    training = Training(config_of(), data, CPU, None)
    for number in range(3):  # the first one creates Adam's states
        loss = training._loss(number * BATCH, 0).total
        with NoWaits(anywhere=number > 0):
            training.engine.backward(loss)
            training.engine.step(1e-3, {"ema": 0.9})
    training.close()


FLAGS, NUMBERS = (torch.zeros(4, dtype=kind, device=META) for kind in (torch.bool, torch.float32))
HOST = torch.zeros(4, dtype=torch.int64)
WAITS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.mean()),
    "bool": lambda x: bool((x > 0).any()),
    "if": lambda x: 1 if x.sum() > 0 else 0,
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "a mask": lambda x: x[x > 0],
    "a mask that is set": lambda x: x.clone().__setitem__(FLAGS, NUMBERS),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "bincount": lambda x: x.long().bincount(),
    "repeat_interleave": lambda x: x.repeat_interleave(x.long()),
    "host indices": lambda x: x[HOST],
    "a list of indices": lambda x: x[[0, 1]],
    "a copy that blocks": lambda x: x + HOST.to(META),
    "a copy into it that blocks": lambda x: x.clone().copy_(HOST),
    "a new tensor of numbers": lambda x: x * torch.tensor([1.0], device=META),
}


SAID = "meta|Meta|reads the device|wait|mixes|mask|data-dependent"


@pytest.mark.parametrize("wait", WAITS)
def test_the_guard_sees_every_way_to_wait(data: Splits, wait: str) -> None:
    """In the objective of a real step, where it would be added by mistake."""
    objective = type(DDPMConfig().build([1]))
    call = objective.__call__

    def waiting(self: Any, model: Any, batch: Any, *others: Any) -> Any:
        WAITS[wait](batch.images[:, 0, 0, 0])
        return call(self, model, batch, *others)

    training = training_elsewhere(data, {})
    refused = (Waits, RuntimeError, NotImplementedError, TypeError)
    with (
        patch.object(objective, "__call__", waiting),
        pytest.raises(refused, match=SAID),
        NoWaits(),
    ):
        training._step({})
    training.close()
