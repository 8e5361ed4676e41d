"""A training step of each objective against one of DDPM: CPU time on one thread, same images and noise."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from measure import Result, cpu_seconds, hand_over, ratios
from torch import Tensor
from torch.nn.functional import mse_loss
from workload import build, step

from whipray.trainers.loop import Training
from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.networks.low_rank import (
    LowRankConfig,
    LowRankConv2d,
    LowRankLinear,
    Parts,
    add_parts,
    theta_g,
)
from whipray.trainers.objectives import Loss
from whipray.trainers.randomness import BatchRandom

ROUNDS = 9
STEPS = 3  # a round
MODEL = {"base_channels": 32}
BATCH = 8

CALL = {"name": "call", "base": {"name": "ddpm", "label_drop": 0.0}}
CALL_CBDM = {"name": "call", "base": {"name": "cbdm", "label_drop": 0.0}}
OBJECTIVES = {
    "DDPM": {"name": "ddpm"},
    "CBDM": {"name": "cbdm"},
    "CBDM, thin = 1/2": {"name": "cbdm", "thin": 0.5},
    "CBDM, gamma = 0": {"name": "cbdm", "gamma": 0.0},
    "OC": {"name": "oc"},
    "CALL over DDPM": CALL,
    "CALL over CBDM": CALL_CBDM,
}
# In forwards and backwards, a backward counted as two forwards: 3, 6, 4.5, 4 and 3; CALL shares the
# down path, 27 % of the network, with theta_g. The rest of each target is for what is not the
# network, and for noise.
AT_MOST = {
    "CBDM": 2.1,
    "CBDM, thin = 1/2": 1.6,
    "CBDM, gamma = 0": 1.5,
    "OC": 1.1,
    "CALL over DDPM": 1.85,
    "CALL over CBDM": 2.9,
}
NAIVE = "CALL over DDPM, two whole passes"
BY_HAND = "DDPM written by hand"
ON_EDM = "DDPM on edm"
FORMING_BATCH = 64


def pass_twice(training: Training) -> Training:
    """The same loss with theta and theta_g through the whole network one after the other."""
    predict = training.engine.predict

    def naive(x_t: Tensor, t: Tensor, labels: Tensor, num_general: int = 0, **extra: Any) -> Tensor:
        theta = predict(x_t, t, labels, **extra)
        with theta_g(training.engine.network):
            return torch.cat(
                [theta, predict(x_t[:num_general], t[:num_general], labels[:num_general])]
            )

    training.engine.predict = naive  # type: ignore[method-assign]
    return training


def by_hand(training: Training) -> Training:
    """DDPM's loss with its coefficients looked up where they are used: no process, no objective."""
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    signal, noise = (x.sqrt().float()[:, None, None, None] for x in (abar, 1 - abar))

    def loss_of(images_seen: int, piece: int) -> Loss:  # noqa: ARG001
        batch, number = training.batches.rows(images_seen, 0, BATCH), images_seen // BATCH
        rng = BatchRandom(training.config.seed, number, 0, BATCH, training.device)
        t, eps = rng.integers("t", 1000), rng.normal("eps", batch.images.shape[1:])
        x_t = signal[t] * batch.images + noise[t] * eps
        loss = mse_loss(training.engine.predict(x_t, t.float(), batch.labels), eps)
        return Loss(loss, {"denoising": loss.detach()})

    training._loss = loss_of  # type: ignore[method-assign]
    return training


def form(training: Training, number: int) -> None:  # noqa: ARG001
    """Every W + B A of the network and their gradients, as one step needs them."""
    layers = [m for m in training.engine.network.modules() if isinstance(m, LowRankConv2d)]
    layers += [m for m in training.engine.network.modules() if isinstance(m, LowRankLinear)]
    whole = [layer.parts.add_to(layer.weight) for layer in layers]
    torch.autograd.backward(whole, [torch.ones_like(w) for w in whole])


def reserved_memory() -> float:
    """What the reservation adds in a pass (B, A and each W + B A) over the decoder's weights."""
    network = UNet(UNetConfig(), (3, 32, 32), 10)
    decoder = sum(p.numel() for m in (network.up, network.conv_out) for p in m.parameters())
    add_parts(network, "expert", LowRankConfig(), "reserve")
    layers = [m for m in network.up.modules() if isinstance(m, Parts)]
    parts = sum(p.numel() for layer in layers for p in layer.parameters())
    made: set[int] = set()
    kept: dict[int, int] = {}  # address -> numbers of what the graph holds for the backward pass
    add_to = Parts.add_to

    def noted(self: Parts, weight: Tensor) -> Tensor:
        whole = add_to(self, weight)
        if whole is not weight:
            made.add(whole.data_ptr())
        return whole

    def hold(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() in made:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    one = torch.zeros(1, dtype=torch.int64)
    hooks = torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor)
    with patch.object(Parts, "add_to", noted), hooks:
        output = network(torch.zeros(1, 3, 32, 32), one, one, num_general=1)
    assert output.requires_grad
    return (parts + sum(kept.values())) / decoder


def main() -> None:
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    trainings = {
        name: build(objective, {}, model=MODEL, batch=BATCH, device=cpu)
        for name, objective in OBJECTIVES.items()
    }
    naive = build(CALL, {}, model=MODEL, batch=BATCH, device=cpu)
    plain = build({"name": "ddpm"}, {}, model=MODEL, batch=BATCH, device=cpu)
    edm = {"name": "edm"}
    on_edm = build({"name": "ddpm"}, {}, model=MODEL, process=edm, batch=BATCH, device=cpu)
    steps = {name: partial(step, training) for name, training in trainings.items()}
    steps[NAIVE] = partial(step, pass_twice(naive))
    steps[BY_HAND] = partial(step, by_hand(plain))
    steps[ON_EDM] = partial(step, on_edm)
    times = cpu_seconds(steps, ROUNDS, STEPS)
    base = times["DDPM"]

    large = build(CALL, {}, model=MODEL, batch=FORMING_BATCH, device=cpu)
    forming = cpu_seconds({"form": partial(form, large), "step": partial(step, large)}, 3)
    hand_over(
        [
            Result("step, DDPM", base, "s CPU"),
            *(
                Result(f"step, {name}", ratios(times[name], base), "x DDPM", at_most=limit)
                for name, limit in AT_MOST.items()
            ),
            Result(f"step, DDPM over {BY_HAND}", ratios(base, times[BY_HAND]), "x", at_most=1.02),
            Result(
                f"step, {ON_EDM} over {BY_HAND}",
                ratios(times[ON_EDM], times[BY_HAND]),
                "x",
                at_most=1.02,
            ),
            Result(f"step, {NAIVE}", ratios(times[NAIVE], base), "x DDPM"),
            Result(
                "step, CALL over DDPM, shared over two whole passes",
                ratios(times["CALL over DDPM"], times[NAIVE]),
                "x",
                at_most=0.9,
            ),
            Result(
                f"forming W + B A, of a CALL step at batch {FORMING_BATCH}",
                [100 * r for r in ratios(forming["form"], forming["step"])],
                "%",
                at_most=5.0,
            ),
            Result(
                "memory of CALL's reservation over the decoder's weights",
                [reserved_memory()],
                "x",
                at_most=1.15,
            ),
        ]
    )


if __name__ == "__main__":
    main()
