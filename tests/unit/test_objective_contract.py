"""Every objective keeps one contract on every noise process, whatever it computes."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from support.objectives import (
    COUNTS,
    CPU,
    SHAPE,
    Spy,
    awake,
    images_and_labels,
)
from support.processes import PROCESSES
from torch import Tensor

from whipray.trainers.guidance import NULL_LABEL
from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.objectives import (
    AnyObjective,
    Batch,
    CALLConfig,
    CBDMConfig,
    DDPMConfig,
    FocalConfig,
    Loss,
    OCConfig,
    TCFGConfig,
)
from whipray.trainers.objectives.base import ObjectiveConfig
from whipray.trainers.processes import ProcessConfig, VPConfig
from whipray.trainers.randomness import BatchRandom

Method = ObjectiveConfig | CALLConfig
METHODS = get_args(get_args(AnyObjective)[0])


def labels_of(config: Method) -> ObjectiveConfig:
    """The config that says how labels are dropped."""
    return config.base if isinstance(config, CALLConfig) else config


def dropping(config: Method, share: float, per: str | None = None) -> Method:
    """The same, dropping another share of the labels."""
    changes = {"label_drop": share, **({"label_drop_per": per} if per else {})}
    if isinstance(config, CALLConfig):
        return config.model_copy(update={"base": config.base.model_copy(update=changes)})
    return config.model_copy(update=changes)


VARIANTS: list[Method] = [
    *(method() for method in METHODS),
    *(dropping(method(), 0.5, "batch") for method in METHODS),
    CBDMConfig(gamma=0, label_set="sqrt"),
    CBDMConfig(label_samples=2, label_set="balanced", dropout_masks="shared"),
    CBDMConfig(thin=0.5, label_drop=0.3),
    CBDMConfig(thin=0.25, gamma=0, label_samples=2),
    OCConfig(estimator="expected"),
    OCConfig(mode="full", tr_tau=-1, cutoff=0.9),
    FocalConfig(gamma=0.5),
    TCFGConfig(omega_max=3, gamma=0, label_drop=0.3),
    CALLConfig(base=DDPMConfig()),
    CALLConfig(base=CBDMConfig()),
    CALLConfig(base=CBDMConfig(gamma=0, thin=0.5), margin=0.1),
    CALLConfig(
        base=CBDMConfig(dropout_masks="shared"), reserve={"layers": ("*",), "rank": 2}, weight=0.3
    ),
]


ON_ALL: list[Method] = [
    *(method() for method in METHODS),
    CBDMConfig(metric="eps", thin=0.5, label_drop=0.3),
    OCConfig(estimator="expected"),
    CALLConfig(base=CBDMConfig(dropout_masks="shared"), reserve={"layers": ("*",), "rank": 2}),
]
CASES: list[tuple[Method, ProcessConfig]] = [
    *((config, VPConfig()) for config in VARIANTS),
    *((config, PROCESSES[name]) for name in ("vp-x0", "vp-v", "edm", "flow") for config in ON_ALL),
]


def name_of(config: Method | ProcessConfig) -> str:
    return "-".join([config.name, *config.model_dump(exclude_defaults=True)])


def network_for(config: Method) -> UNet:
    size = UNetConfig(
        base_channels=8,
        channel_mult=(1, 2),
        blocks_per_level=1,
        attention_resolutions=(4,),
        norm_groups=4,
        dropout=0.2,
        guidance_embedding=config.name == "tcfg",
    )
    network = UNet(size, SHAPE, len(COUNTS))
    config.prepare(network)
    network.add_augmentation_conditioning(3)
    awake(network)
    return network


def conditioned(rows: int) -> Batch:
    """A batch with three numbers about each row, as an augmentation gives them."""
    batch = images_and_labels(rows)
    numbers = torch.rand(rows, 3, generator=torch.Generator().manual_seed(rows + 1))
    return Batch(batch.images, batch.labels, {"augmentation": numbers})


def loss_of(
    config: Method,
    on: ProcessConfig,
    model: Any,
    batch: Batch,
    step: int = 0,
    first_row: int = 0,
) -> Loss:
    process = on.build()

    def predictor(x_t: Tensor, t: Tensor, labels: Tensor, **extra: Any) -> Tensor:
        output: Tensor = model(*process.network_input(x_t, t), labels, **extra)
        return output

    torch.manual_seed(step)  # of dropout
    rng = BatchRandom(3, step, first_row, len(batch.labels), CPU)
    return config.build(COUNTS)(predictor, batch, process, rng, 64 * step)


@pytest.mark.parametrize(("config", "on"), CASES, ids=name_of)
class TestContract:
    @pytest.mark.parametrize("rows", [8, 24])
    def test_a_scalar_with_named_parts(self, config: Method, on: ProcessConfig, rows: int) -> None:
        loss = loss_of(config, on, network_for(config), conditioned(rows))
        assert loss.total.shape == ()
        assert loss.total.dtype == torch.float32
        assert loss.total.isfinite()
        assert loss.total.requires_grad
        assert not loss.terms.keys() & loss.metrics.keys()
        recorded = {**loss.terms, **loss.metrics}
        assert "denoising" in recorded
        assert "total" not in recorded  # the training's own name
        for value in recorded.values():
            assert value.shape == ()
            assert value.isfinite()
            assert not value.requires_grad
        assert sum(loss.terms.values()).item() == pytest.approx(loss.total.item(), rel=1e-6)

    def test_gradients_reach_every_parameter(self, config: Method, on: ProcessConfig) -> None:
        network = network_for(config)
        step = next(
            s for s in range(99) if BatchRandom(3, s, 0, 1, CPU).for_batch("label_drop") > 0.5
        )
        loss_of(config, on, network, conditioned(24), step).total.backward()
        for name, p in network.named_parameters():
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
            assert p.grad.count_nonzero() > 0, name

    def test_the_same_draws_give_the_same_loss(self, config: Method, on: ProcessConfig) -> None:
        network, batch = network_for(config), conditioned(16)
        first, again, other = (
            loss_of(config, on, network, batch, step).total.item() for step in (4, 4, 5)
        )
        assert first == again
        assert first != other

    @pytest.mark.parametrize("workers", [2, 4])
    def test_any_number_of_workers_has_the_same_mean(
        self, config: Method, on: ProcessConfig, workers: int
    ) -> None:
        whole, shared = network_for(config).eval(), network_for(config).eval()  # no dropout
        batch = conditioned(32)
        expected = loss_of(config, on, whole, batch)
        expected.total.backward()
        wanted = {k: v.item() for k, v in {**expected.terms, **expected.metrics}.items()}
        rows, found = 32 // workers, dict.fromkeys(wanted, 0.0)
        for first in range(0, 32, rows):
            own = slice(first, first + rows)
            some = Batch(
                batch.images[own],
                batch.labels[own],
                {name: values[own] for name, values in batch.extra.items()},
                partial(conditioned, 32),
            )
            loss = loss_of(config, on, shared, some, first_row=first)
            (loss.total / workers).backward()
            for name, value in {**loss.terms, **loss.metrics}.items():
                found[name] += value.item() / workers
        assert found == pytest.approx(wanted, rel=1e-5)
        for p, q in zip(whole.parameters(), shared.parameters(), strict=True):
            assert (p.grad - q.grad).norm() < 1e-4 * p.grad.norm() + 1e-7

    def test_labels_are_dropped_as_asked(self, config: Method, on: ProcessConfig) -> None:
        network, batch = network_for(config), conditioned(16)
        seen = []
        for share in (0.0, 0.5, 1.0):
            for step in range(8):
                spy = Spy(network)
                with torch.no_grad():
                    loss_of(dropping(config, share), on, spy, batch, step)
                own = spy.labels[0][:16]  # an objective shows every image under its own label first
                kept = [label != NULL_LABEL for label in own]
                for label, true, keep in zip(own, batch.labels.tolist(), kept, strict=True):
                    assert label == true or not keep
                if labels_of(config).label_drop_per == "batch":
                    assert len(set(kept)) == 1
                seen.append(np.mean(kept))
        assert seen[:8] == [1.0] * 8
        assert 0.1 < np.mean(seen[8:16]) < 0.9
        assert seen[16:] == [0.0] * 8

    def test_without_labels_no_label_learns(self, config: Method, on: ProcessConfig) -> None:
        network = network_for(config)
        loss = loss_of(dropping(config, 1.0), on, network, conditioned(8))
        loss.total.backward()
        assert loss.total.isfinite()
        assert network.labels.weight.grad.count_nonzero() == 0
        assert network.conv_in.weight.grad.count_nonzero() > 0


@pytest.mark.parametrize("config", VARIANTS, ids=name_of)
def test_the_config_is_found_by_its_name(config: Method) -> None:
    assert TypeAdapter(AnyObjective).validate_python(config.model_dump()) == config
