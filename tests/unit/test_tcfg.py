"""TCFG: eq. 32 and 33, which prediction learns from which, and the omega input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from support.objectives import COUNTS, CPU, PROCESS, SHAPE, awake, images_and_labels
from support.processes import PROCESSES, read_again, times_of
from torch import Tensor

from whipray.trainers.guidance import NULL_LABEL
from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.objectives import TCFGConfig
from whipray.trainers.processes import ProcessConfig
from whipray.trainers.randomness import BatchRandom
from whipray.trainers.trainer_config import TrainerConfig

ROWS = 16


class Answers:
    """A network that notes what it was asked, and whose every answer is a variable."""

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor, omega: Tensor) -> Tensor:
        assert len(x_t) == len(t) == len(labels) == len(omega)
        self.x_t, self.t, self.labels, self.omega = x_t, t.tolist(), labels.tolist(), omega
        generator = torch.Generator().manual_seed(7)
        self.said = torch.randn(x_t.shape, generator=generator).requires_grad_()
        return self.said

    def row_of(self, x_t: Tensor, label: int, *, with_omega: bool) -> int:
        """The one row with this question."""
        same = (self.x_t == x_t).flatten(1).all(1) & ((self.omega >= 0) == with_omega)
        [row] = [i for i in same.nonzero()[:, 0].tolist() if self.labels[i] == label]
        return int(row)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gamma": 0.0, "omega_max": 3.0},
        {"gamma": 2.0, "omega_max": 0.5, "label_drop": 0.5},
        {"label_drop": 0.0},
        {"label_drop": 1.0},
        {"label_drop": 0.5, "label_drop_per": "batch"},
    ],
    ids=str,
)
@pytest.mark.parametrize("step", [0, 1])
def test_value_and_gradients_are_equations_32_and_33(
    options: dict[str, Any], process: ProcessConfig, step: int
) -> None:
    config = TCFGConfig(**options)
    batch, rng, network = images_and_labels(ROWS), BatchRandom(5, step, 4, ROWS, CPU), Answers()
    loss = config.build(COUNTS)(network, batch, process.build(), rng, 0)
    loss.total.backward()

    t, eps = process.build().sample_times(rng), rng.normal("eps", SHAPE)
    x_t, at = process.build().perturb(batch.images, t, eps), times_of(process, rng)
    if config.label_drop_per == "batch":
        dropped = [rng.for_batch("label_drop") < config.label_drop] * ROWS
    else:
        dropped = (rng.uniform("label_drop")[:, 0] < config.label_drop).tolist()
    said = network.said.detach().double().numpy()
    gradient = np.zeros_like(said)
    parts = dict.fromkeys(("denoising", "guidance", "commitment"), 0.0)
    scale = 2 / (ROWS * said[0].size)  # of a mean over rows and pixels
    for i in range(ROWS):
        label = int(batch.labels[i])
        target = (
            read_again(process, at[i]).target(batch.images[i].double(), eps[i].double()).numpy()
        )
        own = network.row_of(x_t[i], NULL_LABEL if dropped[i] else label, with_omega=False)
        parts["denoising"] += ((said[own] - target) ** 2).mean() / ROWS
        gradient[own] += scale * (said[own] - target)
        assert network.t[own] == t[i]
        if dropped[i]:
            continue  # nothing more for this row
        null = network.row_of(x_t[i], NULL_LABEL, with_omega=False)
        guided = network.row_of(x_t[i], label, with_omega=True)
        assert network.t[null] == network.t[guided] == t[i]
        omega = network.omega[guided].item()
        gap = said[guided] - omega * (said[own] - said[null]) - target
        parts["guidance"] += (gap**2).mean() / ROWS
        gradient[guided] += scale * gap  # eq. 32 teaches e(x, y, omega) alone
        parts["commitment"] += config.gamma * (gap**2).mean() / ROWS
        gradient[own] -= config.gamma * scale * omega * gap  # eq. 33 teaches d alone
        gradient[null] += config.gamma * scale * omega * gap
    assert len(said) == ROWS + 2 * (ROWS - sum(dropped))  # no other question was asked
    found = {name: part.item() for name, part in loss.terms.items()}
    assert found == pytest.approx(parts, rel=2e-6)
    assert loss.total.item() == pytest.approx(sum(parts.values()), rel=2e-6)
    np.testing.assert_allclose(network.said.grad, gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("omega_max", [1.0, 2.5])
def test_omega_is_uniform_up_to_its_largest(omega_max: float) -> None:
    objective = TCFGConfig(omega_max=omega_max, label_drop=0.5).build(COUNTS)
    batch, network = images_and_labels(ROWS), Answers()
    omegas = []
    for step in range(100):
        objective(network, batch, PROCESS, BatchRandom(0, step, 0, ROWS, CPU), 0)
        omegas += [omega for omega in network.omega.tolist() if omega >= 0]
    assert len(omegas) == pytest.approx(50 * ROWS, rel=0.1)
    assert stats.kstest(omegas, "uniform", (0, omega_max)).pvalue > 0.01


def test_the_network_hears_omega_row_by_row() -> None:
    config = UNetConfig(
        base_channels=8,
        channel_mult=(1, 2),
        blocks_per_level=1,
        attention_resolutions=(),
        norm_groups=4,
        guidance_embedding=True,
    )
    network = awake(UNet(config, SHAPE, len(COUNTS))).eval()
    x_t = images_and_labels(1).images.expand(5, -1, -1, -1)
    t, labels = torch.full((5,), 300), torch.full((5,), 2)
    with_omega = network(x_t, t, labels, omega=torch.tensor([-1.0, 0.0, 0.3, 0.31, 1.0]))
    without_omega = network(x_t, t, labels)
    torch.testing.assert_close(with_omega[0], without_omega[0], rtol=0, atol=1e-6)
    gaps = torch.pdist(with_omega.flatten(1))
    assert gaps.min() > 1e-3  # 0 is an input too, and not the same as none


BASE = {"data": {"source": "digits"}, "training": {"images": 8}}


def test_the_config_gives_the_embedding_to_tcfg_and_to_nobody_else() -> None:
    def config(objective: str, embedding: bool) -> TrainerConfig:
        changes = {
            "objective": {"name": objective},
            "model": {"name": "unet", "guidance_embedding": embedding},
        }
        return TrainerConfig.model_validate(BASE | changes)

    assert config("tcfg", True).model.guidance_embedding
    with pytest.raises(ValidationError, match=r"tcfg needs model\.guidance_embedding=true"):
        config("tcfg", False)
    for other in ("ddpm", "cbdm", "oc", "focal", "call"):
        assert not config(other, False).model.guidance_embedding
        with pytest.raises(
            ValidationError, match=rf"{other} needs model\.guidance_embedding=false"
        ):
            config(other, True)
