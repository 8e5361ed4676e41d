"""CBDM is the paper's equation 4 on every process, gradients included; thinning keeps its mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from support.objectives import (
    COUNTS,
    CPU,
    PROCESS,
    SHAPE,
    Spy,
    Tiny,
    awake,
    gradients,
    images_and_labels,
)
from support.processes import PROCESSES, read_again, times_of
from torch import Tensor

from whipray.trainers.errors import UsageProblem
from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.objectives import Batch, CBDMConfig, DDPMConfig
from whipray.trainers.objectives.base import Noised
from whipray.trainers.processes import EDMConfig, FlowConfig, ProcessConfig, VPConfig
from whipray.trainers.randomness import BatchRandom

# -- equation 4, read again -----------------------------------------------------------------------------


def equation_4(
    network: Tiny, batch: Batch, rng: BatchRandom, config: CBDMConfig, process: ProcessConfig
) -> dict[str, Tensor]:
    """CBDM, eq. 4 and algorithm 1, in the paper's own terms: one sample after the other, float64.

    tau p (|| e(x_t, y) - sg e(x_t, y') ||^2 + gamma || sg e(x_t, y) - e(x_t, y') ||^2), averaged over y' in
    Y and added to || e(x_t, y) - target ||^2, with mean squares for norms. p is t / T, or what a process has
    in its place; with metric=eps, e in the regulariser is the noise that an output implies.
    """
    counts = np.array(COUNTS, dtype=np.float64)
    frequencies = {"train": counts, "sqrt": counts**0.5, "balanced": counts**0}[config.label_set]
    t_all = times_of(process, rng)
    eps_all = rng.normal("eps", SHAPE).double()
    y_prime_all = rng.categorical("y_prime", torch.from_numpy(frequencies), config.label_samples)
    if config.label_drop_per == "batch":
        dropped = [rng.for_batch("label_drop") < config.label_drop] * rng.rows
    else:
        dropped = (rng.uniform("label_drop")[:, 0] < config.label_drop).tolist()

    def e(x_t: Tensor, t: float, label: int) -> Tensor:
        return network.exactly(x_t[None], torch.tensor([t]), torch.tensor([label]))[0]

    terms = {name: torch.zeros((), dtype=torch.float64) for name in ("denoising", "pull", "commit")}
    for i in range(rng.rows):
        t, eps, x_0 = t_all[i], eps_all[i], batch.images[i].double()
        read = read_again(process, t)
        x_t = read.x_t(x_0, eps)
        h = e(x_t, t, -1 if dropped[i] else int(batch.labels[i]))
        error = (h - read.target(x_0, eps)) ** 2
        terms["denoising"] = terms["denoising"] + error.mean() / rng.rows
        if dropped[i]:
            continue
        for y_prime in y_prime_all[i].tolist():
            h_prime = e(x_t, t, y_prime)
            own, other = h, h_prime
            if config.metric == "eps":
                own, other = read.eps_of(h, x_t), read.eps_of(h_prime, x_t)
            weight = config.tau * read.progress / config.label_samples / rng.rows
            terms["pull"] = terms["pull"] + weight * ((own - other.detach()) ** 2).mean()
            commit = config.gamma * ((own.detach() - other) ** 2).mean()
            terms["commit"] = terms["commit"] + weight * commit
    return terms


def assert_equation_4(config: CBDMConfig, process: ProcessConfig, rows: int, step: int) -> None:
    network, batch = Tiny(), images_and_labels(rows)
    rng = BatchRandom(5, step, 4, rows, CPU)
    loss = config.build(COUNTS)(network, batch, process.build(), rng, 0)
    terms = equation_4(network, batch, rng, config, process)
    expected = {
        "denoising": terms["denoising"].item(),
        "regulariser": terms["pull"].item(),
        "commitment": terms["commit"].item(),
    }
    found = {name: part.item() for name, part in loss.terms.items()}
    assert found == pytest.approx(expected, rel=2e-6, abs=1e-12)
    total = sum(terms.values())
    assert loss.total.item() == pytest.approx(total.item(), rel=2e-6)
    for g, reference in zip(gradients(network, loss.total), gradients(network, total), strict=True):
        assert (g - reference).norm() <= 1e-5 * reference.norm()


@pytest.mark.parametrize(
    ("options", "process"),
    [
        ({}, {}),
        ({}, {"prediction": "v"}),
        ({"gamma": 0.7}, {"prediction": "x0", "timesteps": 250, "beta_end": 0.05}),
        ({"tau": 0.0}, {}),
        ({"tau": 5.0, "gamma": 0.0}, {}),
        ({"tau": 2.0, "gamma": 0.0, "label_samples": 2, "label_drop": 0.4}, {}),
        ({"gamma": 0.0, "dropout_masks": "shared"}, {"timesteps": 400, "beta_end": 0.05}),
        ({"tau": 0.1, "gamma": 1.7, "label_set": "sqrt"}, {}),
        (
            {"label_set": "balanced", "label_samples": 3},
            {"timesteps": 100, "beta_end": 0.1},
        ),
        ({"label_drop": 0.5, "dropout_masks": "shared"}, {}),
        ({"label_drop": 0.5, "label_drop_per": "batch", "tau": 3.0}, {}),
        ({"label_drop": 0.0}, {}),
        ({"label_drop": 1.0}, {}),
    ],
)
@pytest.mark.parametrize(("rows", "step"), [(8, 0), (12, 1), (12, 2)])
def test_cbdm_is_equation_4(
    options: dict[str, Any], process: dict[str, Any], rows: int, step: int
) -> None:
    assert_equation_4(CBDMConfig(**options), VPConfig(**process), rows, step)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"metric": "eps", "tau": 2.0},
        {"metric": "eps", "gamma": 0.0, "label_samples": 2, "label_drop": 0.4},
    ],
    ids=str,
)
def test_equation_4_on_every_process(process: ProcessConfig, options: dict[str, Any]) -> None:
    for step in (0, 1):
        assert_equation_4(CBDMConfig(**options), process, 12, step)


def test_ddpm_is_the_denoising_term() -> None:
    network, batch, rng = Tiny(), images_and_labels(16), BatchRandom(5, 3, 0, 16, CPU)
    for process in (VPConfig(), EDMConfig(), FlowConfig()):
        loss = DDPMConfig().build(COUNTS)(network, batch, process.build(), rng, 0)
        expected = equation_4(network, batch, rng, CBDMConfig(), process)["denoising"]
        assert loss.total.item() == pytest.approx(expected.item(), rel=2e-6)
        for g, reference in zip(
            gradients(network, loss.total), gradients(network, expected), strict=True
        ):
            assert (g - reference).norm() <= 1e-5 * reference.norm()


@pytest.mark.parametrize("sigma_data", [0.5, 0.31])
def test_on_edm_the_metrics_differ_by_what_the_noise_is_beside_the_data(sigma_data: float) -> None:
    """|| d output ||^2 is (sigma^2 + sd^2) / sd^2 times || d eps ||^2; for eps-prediction the two are one."""
    network, batch = Tiny(), images_and_labels(1)
    ratios = {}
    for step in range(20):
        rng = BatchRandom(3, step, 0, 1, CPU)
        for process in (EDMConfig(sigma_data=sigma_data, p_mean=0.0, p_std=3.0), VPConfig()):
            output, eps = (
                CBDMConfig(metric=metric, label_drop=0)
                .build(COUNTS)(network, batch, process.build(), rng, 0)
                .terms["regulariser"]
                .item()
                for metric in ("output", "eps")
            )
            if output == 0:  # y' is y
                continue
            if isinstance(process, VPConfig):
                assert eps == output
            else:
                [sigma] = times_of(process, rng)
                ratios[sigma] = output / eps
                expected = (sigma**2 + sigma_data**2) / sigma_data**2
                assert output / eps == pytest.approx(expected, rel=1e-5)
    assert min(ratios.values()) < 1.1
    assert max(ratios.values()) > 100


# -- what eq. 4 implies -----------------------------------------------------------------------------------


class Outputs:
    """A model that returns given outputs, so that gradients at the outputs can be read."""

    def __init__(self, rows: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.h = torch.randn(rows, *SHAPE, generator=generator).requires_grad_()
        self.h_prime = torch.randn(rows, *SHAPE, generator=generator).requires_grad_()

    def __call__(self, *_: object, **__: object) -> Tensor:
        return torch.cat([self.h, self.h_prime])


@pytest.mark.parametrize("gamma", [0.25, 1.0, 3.0])
def test_the_gradients_of_the_regulariser_are_one_to_gamma(gamma: float) -> None:
    rows, tau = 8, 1.3
    batch, rng = images_and_labels(rows), BatchRandom(0, 0, 0, rows, CPU)
    outputs = Outputs(rows)
    config = CBDMConfig(tau=tau, gamma=gamma, label_drop=0)
    loss = config.build(COUNTS)(outputs, batch, PROCESS, rng, 0)
    loss.total.backward()
    t, eps = rng.integers("t", 1000), rng.normal("eps", SHAPE)
    w = (tau * t / 1000)[:, None, None, None]
    h, h_prime, scale = outputs.h.detach(), outputs.h_prime.detach(), 2 / h_size(rows)
    into_h = outputs.h.grad - scale * (h - eps)  # what the denoising term left over
    assert torch.allclose(into_h, scale * w * (h - h_prime), atol=1e-7)
    assert torch.allclose(outputs.h_prime.grad, gamma * scale * w * (h_prime - h), atol=1e-7)
    assert torch.allclose(outputs.h_prime.grad, -gamma * into_h, atol=1e-7)
    value = (w * (h - h_prime).square()).mean().item()
    assert loss.terms["regulariser"].item() == pytest.approx(value)
    assert loss.terms["commitment"].item() == pytest.approx(gamma * value)  # 1.25 w d^2 in all


def h_size(rows: int) -> int:
    return rows * SHAPE[0] * SHAPE[1] * SHAPE[2]


def test_gamma_0_is_the_limit_and_needs_no_graph() -> None:
    network, batch, rng = Tiny(), images_and_labels(16), BatchRandom(1, 1, 0, 16, CPU)
    found = []
    for gamma, calls in ((0.0, [True, False]), (1e-9, [True])):
        spy = Spy(network)
        loss = CBDMConfig(gamma=gamma, tau=4).build(COUNTS)(spy, batch, PROCESS, rng, 0)
        assert spy.graphs == calls
        found.append(gradients(network, loss.total))
        assert sum(map(len, spy.labels)) == 16 + sum(label >= 0 for label in spy.labels[0][:16])
    for at_0, near_0 in zip(*found, strict=True):
        assert (at_0 - near_0).norm() < 1e-6 * at_0.norm()


def test_workers_call_the_network_equally_often() -> None:
    """ZeRO 3 gathers weights in every call: a worker without regularised rows must not skip one."""
    for gamma, calls in ((0.0, 2), (0.25, 1)):
        spy = Spy(Tiny())
        config = CBDMConfig(gamma=gamma, label_drop=1)
        config.build(COUNTS)(spy, images_and_labels(8), PROCESS, BatchRandom(0, 0, 0, 8, CPU), 0)
        assert len(spy.labels) == calls


@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_dropout_masks_where_y_prime_is_y(masks: str) -> None:
    config = UNetConfig(
        base_channels=8, channel_mult=(1,), attention_resolutions=(), norm_groups=4, dropout=0.3
    )
    network = awake(UNet(config, SHAPE, 1)).train()  # one class: y' = y
    batch = Batch(images_and_labels(8).images, torch.zeros(8, dtype=torch.int64))
    torch.manual_seed(0)
    objective = CBDMConfig(dropout_masks=masks).build([10])
    loss = objective(network, batch, PROCESS, BatchRandom(0, 0, 0, 8, CPU), 0)
    if masks == "shared":
        assert loss.terms["regulariser"].item() < 1e-10  # rounding, squared
    else:
        assert loss.terms["regulariser"].item() > 1e-3


# -- y' ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label_set", "shares"),
    [
        ("train", [0.60, 0.25, 0.12, 0.03]),
        ("sqrt", [0.43172, 0.27867, 0.19307, 0.09654]),  # 7.746, 5, 3.464, 1.732 over 17.942
        ("balanced", [0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_y_prime_is_drawn_by_its_label_set(label_set: str, shares: list[float]) -> None:
    rows = 16_000
    objective = CBDMConfig(label_set=label_set, label_samples=2).build(COUNTS)
    rng = BatchRandom(7, 0, 0, rows, CPU)
    copies = torch.arange(rows).repeat_interleave(2)
    y_prime = objective.sample_y_prime(copies, rng).reshape(rows, 2).numpy()
    expected = np.array(shares) * 2 * rows
    counts = np.bincount(y_prime.ravel(), minlength=4)
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3
    # independent of its twin, of t, and of whether another label is dropped
    others = (
        y_prime[:, 1],
        rng.integers("t", 1000).numpy() // 250,
        (rng.uniform("label_drop")[:, 0] < 0.5).numpy().astype(int),
    )
    for other in others:
        table = np.zeros((4, 4))
        np.add.at(table, (y_prime[:, 0], other), 1)
        assert stats.chi2_contingency(table[:, table.any(axis=0)]).pvalue > 1e-3
    # which rows are regularised does not change what they get
    some = torch.tensor([3, 4, 700]).repeat_interleave(2)
    assert objective.sample_y_prime(some, rng).tolist() == y_prime[[3, 4, 700]].ravel().tolist()


# -- thinning --------------------------------------------------------------------------------------------


class FixedStart:
    """Random numbers whose systematic samples begin at a given start."""

    whole_blocks = True

    def __init__(self, start: float, blocks: int) -> None:
        self.start, self.blocks = start, blocks

    def for_block(self, _stream: str) -> Tensor:
        return torch.full((self.blocks, 1), self.start, dtype=torch.float64)


def noised_at(t: list[int], kept: list[bool]) -> Noised:
    nothing = torch.empty(len(t))
    times = torch.tensor(t)
    return Noised(nothing, times, times, nothing, nothing, torch.tensor(kept), nothing, {})


TIMES = [0, 999, 500, 1, 250, 250, 800, 31, 20, 0, 0, 900, 0, 10, 3, 70] + [500] * 8
KEPT = [True, True, False, True, True, True, True, False] + [True] * 8 + [False] * 8


@pytest.mark.parametrize("thin", [0.125, 0.5, 0.875])
@pytest.mark.parametrize("label_samples", [1, 3])
def test_thinned_weights_average_to_the_exact_ones(thin: float, label_samples: int) -> None:
    """Over all starts of the systematic sample, on a fine grid: no chance is left in it."""
    objective = CBDMConfig(thin=thin, tau=1.5, label_samples=label_samples).build(COUNTS)
    per_block, grid = round(8 * thin), 1000
    weights, counts = np.zeros(24), np.zeros(24)
    for k in range(grid):
        rows, weight = objective.regularised_rows(
            noised_at(TIMES, KEPT), FixedStart((k + 0.5) / grid, 3), PROCESS
        )
        assert rows.shape == weight.shape == (3 * per_block * label_samples,)
        np.add.at(weights, rows.numpy(), weight.numpy() / grid)
        np.add.at(counts, rows.numpy(), 1 / grid / label_samples)
    mass = np.array(TIMES) * KEPT
    assert weights == pytest.approx(1.5 * mass / 1000, abs=2 * 1.5 / grid)
    for block in (slice(0, 8), slice(8, 16)):
        expected = per_block * mass[block] / mass[block].sum()
        assert counts[block] == pytest.approx(expected, abs=4 / grid)
        assert counts[block][mass[block] == 0].sum() == 0  # t = 0 and dropped labels never
    on_the_edge, _ = objective.regularised_rows(noised_at(TIMES, KEPT), FixedStart(0.0, 3), PROCESS)
    assert (mass[on_the_edge[: 2 * per_block * label_samples]] > 0).all()
    assert weights[16:].sum() == 0


def test_thinned_rows_are_drawn_in_proportion_to_t() -> None:
    objective = CBDMConfig(thin=0.5).build(COUNTS)
    mass, n = np.array(TIMES[:16]) * KEPT[:16], 1000
    counts = np.zeros(16)
    for step in range(n):
        rows, weight = objective.regularised_rows(
            noised_at(TIMES[:16], KEPT[:16]), BatchRandom(0, step, 0, 16, CPU), PROCESS
        )
        here = np.bincount(rows.numpy(), minlength=16)
        counts += here
        for block, some in enumerate((slice(0, 8), slice(8, 16))):
            share = 4 * mass[some] / mass[some].sum()
            assert (here[some] >= np.floor(share)).all()  # systematic: a heavy row is never missed
            assert (here[some] <= np.ceil(share)).all()
            of_block = weight[4 * block : 4 * block + 4].numpy()
            assert of_block == pytest.approx(mass[some].sum() / 4 / 1000)
    share = np.concatenate([4 * m / m.sum() for m in (mass[:8], mass[8:])])
    left_over = share - np.floor(share)  # the only random part of a count
    error = 4 * np.sqrt(left_over * (1 - left_over) / n) + 1e-9  # 4 standard errors
    assert (np.abs(counts / n - share) < error).all()


@pytest.mark.parametrize(
    ("options", "process"),
    [
        ({"thin": 0.5}, VPConfig()),
        ({"thin": 0.25, "label_samples": 2}, VPConfig()),
        ({"thin": 0.5}, EDMConfig(p_mean=0.0)),
        ({"thin": 0.5, "metric": "eps"}, FlowConfig()),
    ],
    ids=str,
)
def test_thinning_keeps_the_mean_of_loss_and_gradient(
    options: dict[str, Any], process: ProcessConfig
) -> None:
    """Against the exact loss of the same random numbers: no mean difference beyond 4 standard errors."""
    network, batch, steps = Tiny(), images_and_labels(16), 200
    exact = CBDMConfig(label_drop=0.2, **{**options, "thin": 1}).build(COUNTS)
    thinned = CBDMConfig(label_drop=0.2, **options).build(COUNTS)
    on = process.build()
    generator = torch.Generator().manual_seed(9)
    axes = [torch.randn(p.shape, generator=generator).double() for p in network.parameters()]
    differences, sizes = [], []
    for step in range(steps):
        rows = []
        for objective in (thinned, exact):
            loss = objective(network, batch, on, BatchRandom(2, step, 0, 16, CPU), 0)
            slopes = gradients(network, loss.total - loss.terms["denoising"])
            along = [(g * axis).sum().item() for g, axis in zip(slopes, axes, strict=True)]
            values = [loss.terms[name].item() for name in ("regulariser", "commitment")]
            rows.append(values + along)
            assert loss.terms["denoising"].item() > 0
        differences.append(np.subtract(*rows))
        sizes.append(rows[1])
    mean, deviation = np.mean(differences, axis=0), np.std(differences, axis=0)
    standard_error = deviation / steps**0.5
    assert (np.abs(mean) < 4 * standard_error).all()
    # the test has teeth: a factor of 1.25 in the weights would stand out in the loss
    assert (0.25 * np.mean(sizes, axis=0)[:2] > 5 * standard_error[:2]).all()


@pytest.mark.parametrize("process", [VPConfig(), EDMConfig(), FlowConfig()], ids=lambda p: p.name)
@pytest.mark.parametrize("thin", [0.125, 0.5, 0.875])
def test_the_last_tick_of_a_thinned_block_falls_on_a_row_with_mass(
    process: ProcessConfig, thin: float
) -> None:
    """The largest start there is: in float64 its last tick rounds to the end of the block."""
    t = process.build().sample_times(BatchRandom(0, 0, 0, 8, CPU))
    kept = torch.tensor([True] * 5 + [False] * 3)
    nothing = torch.empty(8)
    n = Noised(nothing, t, t, nothing, nothing, kept, nothing, {})
    objective = CBDMConfig(thin=thin).build(COUNTS)
    rows, weight = objective.regularised_rows(n, FixedStart(1 - 2.0**-53, 1), process.build())
    assert rows.max() == 4
    assert (weight > 0).all()


@pytest.mark.parametrize("thin", [0.3, 1 / 3, 0.0, 1.125])
def test_thinning_takes_whole_rows_of_a_block(thin: float) -> None:
    with pytest.raises(ValidationError):
        CBDMConfig(thin=thin)


def test_thinning_a_broken_block_is_explained() -> None:
    objective = CBDMConfig(thin=0.5).build(COUNTS)
    rng = BatchRandom(0, 0, 4, 4, CPU)
    with pytest.raises(UsageProblem, match=r"whole blocks of 8 rows, not 4 .* objective\.thin=1"):
        objective(Tiny(), images_and_labels(4), PROCESS, rng, 0)
