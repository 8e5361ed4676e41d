"""CALL: equation 5 over each base and process, gradients included; one pass equals two; the tail's guard."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from support.objectives import COUNTS, CPU, PROCESS, SHAPE, awake, images_and_labels
from support.processes import read_again, times_of
from torch import Tensor, nn
from torch.func import functional_call

from whipray.trainers.data.long_tail import LongTail
from whipray.trainers.errors import DivergenceProblem
from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.networks.dropout import RowDropout
from whipray.trainers.networks.low_rank import LowRankPart
from whipray.trainers.objectives import Batch, CALLConfig, Loss
from whipray.trainers.objectives.call import allocation
from whipray.trainers.processes import EDMConfig, FlowConfig, ProcessConfig, VPConfig
from whipray.trainers.randomness import BatchRandom

SIZE = UNetConfig(
    base_channels=8,
    channel_mult=(1, 2),
    blocks_per_level=1,
    attention_resolutions=(4,),
    norm_groups=4,
    dropout=0.3,
)
BASES: dict[str, dict[str, Any]] = {
    "ddpm": {"name": "ddpm", "label_drop": 0.4},
    "cbdm": {"name": "cbdm", "tau": 3.0, "dropout_masks": "shared"},
    "cbdm-gamma-0": {"name": "cbdm", "tau": 3.0, "gamma": 0.0},
    "oc": {"name": "oc", "label_drop": 0.5, "label_drop_per": "batch"},
}
LAYERS = [("up",), ("middle", "up", "conv_out"), ("down.*", "up"), ("*",)]


def reserved(config: CALLConfig) -> UNet:
    network = UNet(SIZE, SHAPE, len(COUNTS))
    config.prepare(network)
    return network


def config_of(base: str, layers: tuple[str, ...] = ("up",), **options: Any) -> CALLConfig:
    return CALLConfig.model_validate(
        {"base": BASES[base], "reserve": {"layers": layers, "rank": 2}, **options}
    )


# -- the coefficients ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "classes", "ratio", "head", "tail", "first_negative", "data_mean"),
    [
        (50_000, 100, 100, 4.57, -4.34, 50, 2.18),
        (50_000, 100, 50, 3.89, -3.78, 50, 1.76),
        (50_000, 10, 100, 3.99, -3.98, 5, 2.37),
    ],
)
def test_coefficients_of_the_papers_data(
    images: int,
    classes: int,
    ratio: float,
    head: float,
    tail: float,
    first_negative: int,
    data_mean: float,
) -> None:
    counts = LongTail(ratio=ratio).counts(images, classes)
    found = allocation(counts)
    assert found.dtype == torch.float64
    assert found[0].item() == pytest.approx(head, abs=0.005)
    assert found[-1].item() == pytest.approx(tail, abs=0.005)
    assert (found[:first_negative] > 0).all()
    assert (found[first_negative:] < 0).all()
    assert found.mean().item() == pytest.approx(0, abs=1e-12)
    of_the_data = (found * torch.tensor(counts)).sum().item() / sum(counts)
    assert of_the_data == pytest.approx(data_mean, abs=0.005)


@pytest.mark.parametrize("base", BASES)
def test_balanced_counts_allocate_nothing(base: str) -> None:
    assert allocation([7] * 9).abs().max() < 1e-12
    config = config_of(base)
    network, batch = awake(reserved(config)), images_and_labels(8)
    loss = config.build([25] * len(COUNTS))(
        network, batch, PROCESS, BatchRandom(0, 0, 0, 8, CPU), 0
    )
    assert abs(loss.terms["allocation"].item()) < 1e-12


# -- equation 5, read again: two passes through plain networks, in float64 -------------------------------


def theta(network: nn.Module, part: str) -> dict[str, Tensor]:
    """The weights of a plain U-Net that is theta or theta_g, as functions of W, A and B."""
    found = dict(network.named_parameters())
    weights = {name: p for name, p in found.items() if ".parts." not in name}
    if part == "theta":
        for name, b in found.items():
            if not name.endswith(".parts.expert.b"):
                continue
            layer, a = name.removesuffix(".parts.expert.b"), found[name[:-1] + "a"]
            kernel = weights[f"{layer}.weight"]
            for m in range(len(b)):  # q, k and v one after the other
                d = b.shape[1]
                product = torch.einsum("dr,rk->dk", b[m], a[m])
                rows = torch.zeros_like(kernel).index_add(
                    0, torch.arange(m * d, (m + 1) * d), product.reshape(d, *kernel.shape[1:])
                )
                kernel = kernel + rows
            weights[f"{layer}.weight"] = kernel
    return weights


def equation_5(
    network: nn.Module, config: CALLConfig, batch: Any, rng: BatchRandom, process: ProcessConfig
) -> tuple[Tensor, Tensor]:
    """L_base + lambda / B sum_i (C N_y / sum N - C / (N_y sum 1/N)) || e_theta - e_theta_g ||^2."""
    plain = UNet(SIZE, SHAPE, len(COUNTS)).double().eval()

    def e(which: str, x_t: Tensor, t: Tensor, labels: Tensor, **extra: Any) -> Tensor:
        return functional_call(plain, theta(network, which), (x_t.double(), t, labels), extra)

    base = config.base.build(COUNTS)(
        lambda *args, **extra: e("theta", *args, **extra), batch, process.build(), rng, 0
    )
    counts = np.array(COUNTS, dtype=np.float64)
    t, eps = times_of(process, rng), rng.normal("eps", SHAPE).double()
    if config.base.label_drop_per == "batch":
        dropped = [rng.for_batch("label_drop") < config.base.label_drop] * rng.rows
    else:
        dropped = (rng.uniform("label_drop")[:, 0] < config.base.label_drop).tolist()
    total, rare = base.total, torch.zeros(())  # rare: what is below zero in it
    for i, y in enumerate(batch.labels.tolist()):
        if dropped[i]:
            continue
        con = len(counts) * counts[y] / counts.sum()
        div = len(counts) / (counts[y] * (1 / counts).sum())
        x_t = read_again(process, t[i]).x_t(batch.images[i].double(), eps[i])
        row = x_t[None], torch.tensor(t[i : i + 1]), batch.labels[i : i + 1]
        distance = ((e("theta", *row) - e("theta_g", *row)) ** 2).mean()
        if config.margin is not None and con < div and distance.item() > config.margin:
            distance = torch.tensor(config.margin)
        term = config.weight * (con - div) * distance / rng.rows
        total, rare = total + term, rare + term.detach().clamp(max=0)
    return total, rare


def one_pass(
    network: nn.Module,
    config: CALLConfig,
    batch: Any,
    rng: BatchRandom,
    process: ProcessConfig | None = None,
) -> Loss:
    def e(x_t: Tensor, t: Tensor, labels: Tensor, **extra: Any) -> Tensor:
        return network(x_t.double(), t, labels, **extra)

    return config.build(COUNTS)(e, batch, (process or VPConfig()).build(), rng, 0)


@pytest.mark.parametrize(
    ("base", "layers", "options", "process"),
    [
        *((base, layers, {}, VPConfig()) for base in BASES for layers in LAYERS),
        *((base, ("up",), {}, EDMConfig()) for base in BASES),
        *((base, ("up",), {}, FlowConfig()) for base in BASES),
        ("ddpm", ("up",), {"weight": 0.3}, VPConfig()),
        ("ddpm", ("up",), {"weight": 0.0}, VPConfig()),
        ("oc", ("up",), {"weight": 2.0, "margin": 0.04}, VPConfig()),  # about the median distance
        ("cbdm", ("up",), {"margin": 0.04}, VPConfig()),
    ],
)
def test_one_shared_pass_is_equation_5(
    base: str, layers: tuple[str, ...], options: dict[str, Any], process: ProcessConfig
) -> None:
    config = config_of(base, layers, **options)
    network = awake(reserved(config)).double().eval()
    batch, parameters = images_and_labels(16), list(network.parameters())
    for step in (0, 1):
        rng = BatchRandom(5, step, 0, 16, CPU)
        loss = one_pass(network, config, batch, rng, process)
        expected, rare = equation_5(network, config, batch, rng, process)
        assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
        assert loss.metrics["allocation_rare"].item() == pytest.approx(rare.item(), rel=1e-5)
        for found, wanted in zip(
            torch.autograd.grad(loss.total, parameters),
            torch.autograd.grad(expected, parameters, materialize_grads=True),
            strict=True,
        ):
            assert (found - wanted).norm() <= 1e-5 * wanted.norm() + 1e-12


# -- what is shared -------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [*BASES, "cbdm-independent"])
@pytest.mark.parametrize("layers", LAYERS)
def test_at_the_start_the_two_are_one_dropout_included(base: str, layers: tuple[str, ...]) -> None:
    """B = 0, and theta and theta_g share the same masks, also where each has its own pass."""
    options = {"name": "cbdm"} if base == "cbdm-independent" else BASES[base]
    config = CALLConfig.model_validate({"base": options, "reserve": {"layers": layers}})
    network = awake(reserved(config)).train()
    for part in network.modules():
        if isinstance(part, LowRankPart):
            part.b.data.zero_()
    torch.manual_seed(0)
    batch = images_and_labels(16)
    loss = config.build(COUNTS)(network, batch, PROCESS, BatchRandom(0, 0, 0, 16, CPU), 0)
    assert abs(loss.terms["allocation"].item()) < 1e-9  # rounding, squared
    assert loss.total.item() > 0.1


def test_cbdms_shared_masks_stay_shared_where_theta_g_wears_them_too() -> None:
    config = config_of("cbdm")
    network = awake(reserved(config)).train()
    batch = images_and_labels(16)
    batch = Batch(batch.images, torch.zeros_like(batch.labels))
    objective = config.build([1, 0, 0, 0])  # y' = y
    objective.coefficients = torch.ones(4)  # of which there are none for an empty class
    loss = objective(network, batch, PROCESS, BatchRandom(0, 0, 0, 16, CPU), 0)
    assert loss.terms["regulariser"] < 1e-9  # rounding, squared
    assert loss.terms["allocation"] > 1e-3


def test_masks_differ_between_rows_and_from_pass_to_pass() -> None:
    config = config_of("ddpm")
    network = awake(reserved(config)).train()
    x_t = torch.ones(2, *SHAPE)
    t = labels = torch.zeros(2, dtype=torch.int64)
    torch.manual_seed(0)
    first, second = (network(x_t, t, labels, num_general=2) for _ in range(2))
    assert first.shape == (4, *SHAPE)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[:2], second[:2])
    assert not torch.equal(first[2:], second[2:])
    assert all(
        m.cached_mask is None and not m.reuse_mask
        for m in network.modules()
        if isinstance(m, RowDropout)
    )


def test_the_encoder_runs_once_unless_it_has_experts_itself() -> None:
    for layers, twice in (
        (("up",), "up"),
        (("middle",), "middle up"),
        (("conv_in",), "down middle up"),
    ):
        network = awake(reserved(config_of("ddpm", layers)))
        calls = dict.fromkeys(("down", "middle", "up"), 0)

        def count(where: str, calls: dict[str, int] = calls) -> Any:
            def note(*_: Any) -> None:
                calls[where] += 1

            return note

        for where in calls:
            getattr(network, where)[0].register_forward_pre_hook(count(where))
        network(torch.zeros(3, *SHAPE), torch.arange(3), torch.arange(3), num_general=2)
        assert calls == {where: 2 if where in twice.split() else 1 for where in calls}


# -- the tail ---------------------------------------------------------------------------------------------


def test_a_runaway_tail_is_stopped_and_the_margin_named() -> None:
    objective = config_of("cbdm").build(COUNTS)
    means = {"denoising": 0.3, "regulariser": 0.0, "commitment": 0.0, "allocation": -1.0}
    objective.check({**means, "allocation_rare": -1.5})
    for value in (-50.0, -torch.inf, torch.nan):
        with pytest.raises(DivergenceProblem, match=r"rare classes .*objective\.margin"):
            objective.check({**means, "allocation_rare": value})


def test_nothing_is_rewarded_beyond_the_margin() -> None:
    """A tail image's experts have no gradient once the two predictions are a margin apart."""
    batch = images_and_labels(8)
    batch = Batch(batch.images, torch.full((8,), 3))  # the rarest class only
    for margin, moved in ((1e-9, False), (1e9, True), (None, True)):
        config = CALLConfig.model_validate(
            {"base": {"name": "ddpm", "label_drop": 0}, "margin": margin}
        )
        network = awake(reserved(config)).double().eval()
        loss = one_pass(network, config, batch, BatchRandom(0, 0, 0, 8, CPU))
        assert loss.terms["allocation"] < 0
        assert loss.metrics["allocation_rare"] == loss.terms["allocation"]
        term = (
            loss.total
            - config.base.build(COUNTS)(
                lambda x, *a, n=network, **e: n(x.double(), *a, **e),
                batch,
                PROCESS,
                BatchRandom(0, 0, 0, 8, CPU),
                0,
            ).total
        )
        pulls = torch.autograd.grad(term, list(network.parameters()), materialize_grads=True)
        assert any(pull.norm() > 1e-6 for pull in pulls) == moved


@pytest.mark.parametrize(
    "options",
    [{"weight": -1}, {"margin": 0}, {"base": {"name": "focal"}}, {"reserve": {"rank": 0}}],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(CALLConfig).validate_python(options)
