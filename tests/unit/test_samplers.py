"""Samplers against independent readings of their papers, guidance, and the noise of each image."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from support.mixtures import PROCESSES, best_denoiser
from torch import Tensor

from whipray.trainers.guidance import NULL_LABEL, ClassifierFree, Denoiser, guided
from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.processes import EDMConfig, FlowConfig, Level, Process, VPConfig
from whipray.trainers.samplers import (
    DDIMSampler,
    DDPMSampler,
    Denoise,
    DPMSolver2MSampler,
    HeunSampler,
    SamplerConfig,
    UniPCSampler,
)
from whipray.trainers.samplers.grid import END, levels
from whipray.trainers.sampling import SamplingConfig, occurrences, sample

MEAN, STD = 0.3, 0.5  # of the Gaussian toy data
SHORT = VPConfig(timesteps=12, beta_end=0.7)
EVERY: list[tuple[type[SamplerConfig], str]] = [
    *((DDIMSampler, spacing) for spacing in ("trailing", "rho", "log_snr")),
    *((HeunSampler, spacing) for spacing in ("rho", "log_snr")),
    *((DPMSolver2MSampler, spacing) for spacing in ("trailing", "rho", "log_snr")),
    *((UniPCSampler, spacing) for spacing in ("trailing", "rho", "log_snr")),
]
"""Samplers and spacings that every process has."""


def gaussian(x_t: Tensor, level: Level) -> Tensor:
    """The best denoiser of N(MEAN, STD^2): E[x_0 | x_t] by regression of x_0 on x_t."""
    slope = level.alpha * STD**2 / (level.alpha**2 * STD**2 + level.sigma**2)
    return MEAN + slope * (x_t - level.alpha * MEAN)


def numbered(k: int) -> Tensor:
    """Noise of a step, (5, 1, 2, 2) float64."""
    return torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(k)).double()


Visit = tuple[Level, Tensor, Tensor]
"""A level, x_t and the x_0 that was predicted from it."""


def visits(
    sampler: SamplerConfig, process: Process, denoise: Denoise = gaussian
) -> tuple[list[Visit], Tensor]:
    """Return every call of the denoiser, and the image."""
    seen: list[Visit] = []

    def spy(x_t: Tensor, level: Level) -> Tensor:
        seen.append((level, x_t.clone(), denoise(x_t, level)))
        return seen[-1][2]

    return seen, sampler(spy, numbered, process)


same = partial(torch.testing.assert_close, rtol=0, atol=1e-10)


# -- each sampler by its paper ------------------------------------------------------------------------


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
def test_ddpm_steps_are_samples_of_bayes_posterior(variance: str) -> None:
    sampler = DDPMSampler(variance=variance)
    path, end = visits(sampler, SHORT.build())
    assert [level.t for level, *_ in path] == list(range(11, -1, -1))
    beta = np.linspace(1e-4, 0.7, 12)
    abar = np.cumprod(1 - beta)
    following = [*(x_t for _, x_t, _ in path[1:]), end]
    for k, ((level, x_t, x_0), x_s) in enumerate(zip(path, following, strict=True)):
        t = int(level.t)
        if t == 0:
            same(x_s, x_0)
            continue
        # the product of N(x_t; sqrt(1 - beta) x_{t-1}, beta) and N(x_{t-1}; x_0 ...)
        precision = (1 - beta[t]) / beta[t] + 1 / (1 - abar[t - 1])
        pull = math.sqrt(1 - beta[t]) / beta[t] * x_t
        pull = pull + math.sqrt(abar[t - 1]) / (1 - abar[t - 1]) * x_0
        spread = beta[t] if variance == "fixed_large" else 1 / precision
        same(x_s, pull / precision + math.sqrt(spread) * numbered(k + 1))


@pytest.mark.parametrize("config", [SHORT, EDMConfig(), FlowConfig()], ids=lambda c: c.name)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [1, 3, 7, 12, 40])
def test_ddim_steps_follow_equation_12(
    config: VPConfig | EDMConfig | FlowConfig, eta: float, steps: int
) -> None:
    """The paper's x_t has alpha^2 + sigma^2 = 1; that of another process is it times a number."""
    sampler = DDIMSampler(eta=eta, steps=steps)
    path, end = visits(sampler, config.build(), lambda x_t, _: (0.2 * x_t).clamp(-1, 1))
    times = [level.t for level, *_ in path]
    if config is SHORT:
        assert times[0] == 11
        gaps = -np.diff([*times, -1])
        assert len(times) == min(steps, 12)
        assert 1 <= gaps.min() <= gaps.max() <= gaps.min() + 1
        abar = np.cumprod(1 - np.linspace(1e-4, 0.7, 12))[np.array(times, int)]
        size = np.ones(len(times))
    else:
        t = np.array(times)
        alpha = np.ones_like(t) if config.name == "edm" else 1 - t
        size = np.sqrt(alpha**2 + t**2)
        abar = (alpha / size) ** 2
    abar, size = np.append(abar, 1.0), np.append(size, 1.0)
    xs = [*(x_t for _, x_t, _ in path), end]
    for k, (_, x_t, x_0) in enumerate(path):
        a, b = abar[k], abar[k + 1]
        eps = (x_t / size[k] - math.sqrt(a) * x_0) / math.sqrt(1 - a)
        sigma = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
        expected = (
            math.sqrt(b) * x_0 + math.sqrt(max(0, 1 - b - sigma**2)) * eps + sigma * numbered(k + 1)
        )
        same(xs[k + 1] / size[k + 1], expected)


def test_all_steps_of_ddim_at_eta_1_are_ddpm() -> None:
    process = VPConfig(timesteps=30, beta_end=0.4).build()
    first = process.level(29).sigma  # ddpm starts from N(0, 1), Ho et al., algorithm 2

    def of_ddpm(k: int) -> Tensor:
        return numbered(k) * (1 if k else first)

    ddpm = DDPMSampler(variance="fixed_small")(gaussian, of_ddpm, process)
    same(DDIMSampler(eta=1, steps=30)(gaussian, numbered, process), ddpm)


def test_leading_spacing_is_the_released_code_of_oc() -> None:
    """OC_LT, diffusion.py, GaussianDiffusionSamplerOld: reversed(range(0, T, skip)), to max(t - skip, 0)."""
    process = VPConfig().build()
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for steps, skip in ((50, 20), (100, 10), (1000, 1)):
        x = numbered(0)
        for t in reversed(range(0, 1000, skip)):
            s = max(t - skip, 0)
            x_0 = gaussian(x, Level(t, math.sqrt(abar[t]), math.sqrt(1 - abar[t])))
            eps = (x - math.sqrt(abar[t]) * x_0) / math.sqrt(1 - abar[t])
            x = math.sqrt(abar[s]) * x_0 + math.sqrt(1 - abar[s]) * eps
        sampler = DDIMSampler(steps=steps, spacing="leading")
        image = sampler(gaussian, numbered, process)
        torch.testing.assert_close(image, x, rtol=0, atol=1e-4)  # they start at 1, not at sigma
        assert sampler.calls(process.config) == steps - 1


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize(
    "options", [{}, {"s_churn": 4.0, "s_min": 0.1, "s_max": 30.0, "s_noise": 1.1}]
)
def test_heun_is_algorithm_2_of_edm_over_sigma_by_alpha(
    name: str, options: dict[str, float]
) -> None:
    process, steps = PROCESSES[name].build(), 12
    low, high = process.ratios
    first, last = high ** (1 / 7), low ** (1 / 7)
    sigmas = [(first + i / (steps - 1) * (last - first)) ** 7 for i in range(steps)] + [0.0]

    def d_of(y: Tensor, sigma: float) -> Tensor:
        return best_denoiser(y, Level(0.0, 1.0, sigma))

    y = sigmas[0] * numbered(0)
    churned = 0
    for i, (t, s) in enumerate(pairwise(sigmas)):
        within = options and options["s_min"] <= t <= options["s_max"]
        gamma = min(options["s_churn"] / steps, math.sqrt(2) - 1) if within else 0.0
        churned += gamma > 0
        t_hat = t + gamma * t
        scale = options.get("s_noise", 1.0)
        y_hat = y + math.sqrt(t_hat**2 - t**2) * scale * numbered(i + 1)
        slope = (y_hat - d_of(y_hat, t_hat)) / t_hat
        y = y_hat + (s - t_hat) * slope
        if s > 0:
            slope_s = (y - d_of(y, s)) / s
            y = y_hat + (s - t_hat) * (slope / 2 + slope_s / 2)
    assert (churned > 3) == bool(options)
    image = HeunSampler(steps=steps, **options)(best_denoiser, numbered, process)
    torch.testing.assert_close(image, y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("name", PROCESSES)
def test_multistep_samplers_follow_their_papers(name: str, corrected: bool) -> None:
    """DPM-Solver++, algorithm 2, and UniPC with its system of equations solved as it stands."""
    process, steps = PROCESSES[name].build(), 9
    grid = levels(process, "log_snr", steps)
    lam = [math.log(level.alpha / level.sigma) for level in grid[:-1]]
    x = grid[0].sigma * numbered(0)
    m = [best_denoiser(x, grid[0])]
    for i in range(1, steps):
        t, h = grid[i], lam[i] - lam[i - 1]
        ratio, decay = t.sigma / grid[i - 1].sigma, t.alpha * (math.exp(-h) - 1)
        r = (lam[i - 2] - lam[i - 1]) / h if i > 1 else math.nan
        mean = m[-1] if i == 1 else (1 - 1 / (2 * r)) * m[-1] + 1 / (2 * r) * m[-2]
        predicted = ratio * x - decay * mean
        new = best_denoiser(predicted, t)
        if not corrected:
            x = predicted
        elif i == 1:
            x = ratio * x - decay * m[-1] - decay * 0.5 * (new - m[-1])
        else:
            z = -h
            phi_2 = (math.exp(z) - 1 - z) / z**2
            phi_3 = (math.exp(z) - 1 - z - z**2 / 2) / z**3
            right = np.array([z * phi_2, 2 * z * phi_3]) / (math.exp(z) - 1)
            rho = np.linalg.solve(np.array([[1.0, 1.0], [r, 1.0]]), right)
            correction = rho[0] * (m[-2] - m[-1]) / r + rho[1] * (new - m[-1])
            x = ratio * x - decay * m[-1] - decay * correction
        m.append(new)
    sampler = UniPCSampler if corrected else DPMSolver2MSampler
    image = sampler(steps=steps, spacing="log_snr")(best_denoiser, numbered, process)
    torch.testing.assert_close(image, m[-1], rtol=0, atol=1e-9)  # a step to x_0 is of first order


# -- all samplers -------------------------------------------------------------------------------------


def generated_moments(sampler: SamplerConfig, process: Process) -> tuple[float, float]:
    """Mean and standard deviation of the images of the Gaussian denoiser, without chance.

    A sampler is affine in its noises where the denoiser is affine. Row 0 sees zeros, and row 1 + k a one in
    noise k alone: row 0 is the mean, and the squared distances of the others add up to the variance.
    """

    def noise(k: int) -> Tensor:
        rows = torch.zeros(1002, 1, 1, 1).double()
        rows[1 + k] = 1
        return rows

    rows = sampler(gaussian, noise, process).flatten()
    return float(rows[0]), float((rows[1:] - rows[0]).square().sum().sqrt())


@pytest.mark.parametrize(
    ("sampler", "tolerance"),
    [  # relative; fixed_small is right for a single image, fixed_large for N(0, 1): STD is between
        (DDPMSampler(variance="fixed_large"), 0.003),
        (DDPMSampler(variance="fixed_small"), 0.009),
        # a constant over the number of steps, and eta = 1 needs more
        *((DDIMSampler(steps=steps), 3.1 / steps) for steps in (50, 250, 1000)),
        *((DDIMSampler(steps=steps, eta=1), 8 / steps) for steps in (250, 1000)),
    ],
)
def test_samplers_of_vp_give_back_the_distribution_of_the_data(
    sampler: SamplerConfig, tolerance: float
) -> None:
    mean, std = generated_moments(sampler, VPConfig().build())
    assert mean == pytest.approx(MEAN, abs=0.001)
    assert std == pytest.approx(STD, rel=tolerance)


@pytest.mark.parametrize("config", [SHORT, *PROCESSES.values()], ids=["short", *PROCESSES])
@pytest.mark.parametrize(("kind", "spacing"), EVERY)
def test_every_sampler_ends_on_the_denoisers_image_in_the_calls_that_it_names(
    config: VPConfig | EDMConfig | FlowConfig, kind: type[SamplerConfig], spacing: str
) -> None:
    """With the fewest steps, with more than T, from alpha = 0 and from sigma / alpha of thousands."""
    process = config.build()
    point = torch.linspace(-1, 1, 4).reshape(1, 1, 2, 2)
    for steps in (1, 2, 3, 40):
        sampler = kind(steps=steps, spacing=spacing)
        sampler.check(config)
        shapes = []

        def denoise(x_t: Tensor, level: Level, shapes: list[torch.Size] = shapes) -> Tensor:
            assert x_t.isfinite().all()
            assert x_t.dtype == torch.float32
            assert level.sigma > 0
            shapes.append(x_t.shape)
            return point.expand_as(x_t)

        image = sampler(denoise, lambda k: numbered(k).float(), process)
        assert torch.equal(image, point.expand_as(image))
        assert len(shapes) == sampler.calls(config)
        # and with predictions that differ, as a network's do
        assert sampler(best_denoiser, numbered, process).isfinite().all()


@pytest.mark.parametrize("config", [SHORT, *PROCESSES.values()], ids=["short", *PROCESSES])
def test_the_levels_of_each_spacing(config: VPConfig | EDMConfig | FlowConfig) -> None:
    process = config.build()
    low, high = process.ratios
    for spacing in ("trailing", "rho", "log_snr"):
        for steps in (1, 2, 12, 200):
            *grid, end = levels(process, spacing, steps)
            assert end is END
            ratios = [level.ratio for level in grid]
            assert all(a > b for a, b in pairwise(ratios))
            for level in grid:  # a level says what the process says at its time
                t = torch.tensor([level.t], dtype=torch.float64)
                assert (level.alpha, level.sigma) == (process.alpha(t), process.sigma(t))
                assert level.log_snr == pytest.approx(-math.log(level.ratio), abs=1e-12)
            if spacing == "trailing":
                continue
            assert len(grid) == steps
            power = np.log if spacing == "log_snr" else lambda r: np.array(r) ** (1 / 7)
            expected = np.linspace(power([high]), power([low]), steps)[:, 0]
            np.testing.assert_allclose(power(ratios), expected, rtol=1e-9, atol=1e-9)
    for ratio in (low, 1.0, high):  # time_of is the inverse, and stays within the range
        assert process.level(process.time_of(ratio)).ratio == pytest.approx(ratio, rel=1e-9)
    assert high * (1 - 1e-9) <= process.level(process.time_of(math.inf)).ratio
    assert END.log_snr == math.inf
    assert Level(1.0, 0.0, 1.0).log_snr == -math.inf


def test_the_times_of_vp_and_flow() -> None:
    vp, flow = VPConfig().build(), FlowConfig().build()

    def times(process: Process, spacing: str, steps: int) -> list[float]:
        return [level.t for level in levels(process, spacing, steps) if level is not END]

    assert times(vp, "leading", 50) == [*range(980, -1, -20)]
    assert times(vp, "trailing", 50) == [*range(999, 0, -20)]
    assert times(vp, "trailing", 5000) == [*range(999, -1, -1)]
    ten = VPConfig(timesteps=10, beta_end=0.9).build()
    assert times(ten, "leading", 3) == [6, 3, 0]
    assert times(ten, "leading", 7) == [8, 7, 5, 4, 2, 1, 0]
    assert times(flow, "trailing", 4) == [1.0, 0.75, 0.5, 0.25]
    assert times(EDMConfig().build(), "trailing", 9) == times(EDMConfig().build(), "rho", 9)


@pytest.mark.parametrize("config", [EDMConfig(), FlowConfig()], ids=lambda c: c.name)
def test_what_a_process_does_not_have_is_one_clear_line(config: EDMConfig | FlowConfig) -> None:
    with pytest.raises(ValueError, match=r"takes the T steps of process vp: set .* to ddim, heun"):
        SamplingConfig(sampler=DDPMSampler()).check(config)
    with pytest.raises(ValueError, match=r"leading counts the steps of process vp: set .*trailing"):
        SamplingConfig(sampler=DDIMSampler(spacing="leading")).check(config)
    with pytest.raises(ValidationError, match="'rho' or 'log_snr'"):
        HeunSampler(spacing="trailing")


def test_one_step_of_leading_leads_nowhere() -> None:
    with pytest.raises(ValueError, match="ends where it starts"):
        DDIMSampler(steps=1, spacing="leading").check(VPConfig())


def test_configs_of_the_same_images_are_one() -> None:
    vp, edm = VPConfig(), EDMConfig()
    assert DDIMSampler(steps=5000).effective(vp) == DDIMSampler(steps=1000)
    assert DDIMSampler(steps=5000, spacing="rho").effective(vp).steps == 5000
    assert UniPCSampler(spacing="trailing").effective(edm) == UniPCSampler(spacing="rho")
    assert HeunSampler(s_min=1, s_max=2, s_noise=1.1).effective(vp) == HeunSampler()
    churned = HeunSampler(s_min=1, s_max=2, s_noise=1.1, s_churn=3)
    assert churned.effective(vp) == churned


def test_labels_name_what_is_not_at_its_default() -> None:
    assert DDPMSampler().label == "ddpm"
    assert DDIMSampler().label == "ddim 50 steps"
    assert DDIMSampler(eta=1, spacing="rho").label == "ddim 50 steps, spacing rho, eta 1"
    assert HeunSampler(s_churn=4).label == "heun 18 steps, s_churn 4"


# -- guidance ---------------------------------------------------------------------------------------


class Network:
    """A rowwise affine network that notes the labels of its calls."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        assert len(x_t) == len(t) == len(labels)
        self.calls.append(labels.tolist())
        return x_t * 0.5 + (t * 0.01 + labels * 0.125)[:, None, None, None]


X_T = torch.linspace(-1, 1, 36).reshape(3, 3, 2, 2)
LABELS = torch.tensor([2, 0, NULL_LABEL])
COUNTS = [50, 20, 5]
SAYS_X0 = VPConfig(timesteps=20, beta_end=0.4, prediction="x0").build()
LEVEL = SAYS_X0.level(7)


def denoised(network: object, omega: float, process: Process = SAYS_X0, t: float = 7) -> Tensor:
    own = Denoiser(network, process)  # type: ignore[arg-type]
    predict = guided(own, None, ClassifierFree(omega=omega), LABELS, COUNTS)
    return predict(X_T, process.level(t))


def test_without_guidance_the_network_is_called_once_and_conditionally() -> None:
    network = Network()
    x_0 = denoised(network, 0)
    assert network.calls == [[2, 0, NULL_LABEL]]
    assert torch.equal(x_0, Network()(X_T, torch.full((3,), 7.0), LABELS))


@pytest.mark.parametrize("omega", [0.25, 1.6])
def test_guidance_is_both_conventions_at_once(omega: float) -> None:
    network = Network()
    x_0 = denoised(network, omega)
    assert network.calls == [[2, 0, NULL_LABEL, *[NULL_LABEL] * 2]]
    conditional = Network()(X_T, torch.full((3,), 7.0), LABELS)
    unconditional = Network()(X_T, torch.full((3,), 7.0), torch.full((3,), NULL_LABEL))
    expected = (1 + omega) * conditional - omega * unconditional
    torch.testing.assert_close(x_0, expected, rtol=0, atol=1e-5)
    s = 1 + omega
    expected = unconditional + s * (conditional - unconditional)
    torch.testing.assert_close(x_0, expected, rtol=0, atol=1e-5)
    assert torch.equal(x_0[2], conditional[2])  # nothing to guide an unconditional image by


def test_guiding_any_output_guides_the_same_image() -> None:
    """Outputs are affine in x_0, so a network is guided alike whatever it predicts."""
    for config in (
        *(VPConfig(prediction=p) for p in ("eps", "x0", "v")),
        EDMConfig(),
        FlowConfig(),
    ):
        process = config.build()
        t = process.time_of(2.0)

        def network(
            _x: Tensor, _c: Tensor, labels: Tensor, t: float = t, process: Process = process
        ) -> Tensor:
            times = torch.full((len(labels),), t, dtype=torch.float64)
            skip, out = (c[:, None, None, None] for c in process.skip_and_out(times))
            x_t = torch.cat([X_T, X_T[:2]]).double()  # as given, the guided ones once more
            x_0 = 0.2 * x_t + 0.1 * labels[:, None, None, None]
            return ((x_0 - skip * x_t) / out).float()

        own, null = (
            0.2 * X_T + 0.1 * rows[:, None, None, None] for rows in (LABELS, LABELS * 0 - 1)
        )
        x_0 = denoised(network, 1.5, process, t)
        torch.testing.assert_close(x_0, own + 1.5 * (own - null), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [DDPMSampler, DDIMSampler, UniPCSampler])
@pytest.mark.parametrize("embeds", [True, False])
def test_a_network_that_embeds_omega_is_called_once_a_step(
    embeds: bool, kind: type[SamplerConfig]
) -> None:
    config = UNetConfig(
        base_channels=4,
        channel_mult=(1,),
        blocks_per_level=1,
        attention_resolutions=(),
        norm_groups=2,
        guidance_embedding=embeds,
    )
    network = UNet(config, (3, 2, 2), 4).eval()
    calls: list[tuple[list[int], list[float] | None]] = []

    def note(_: object, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        omega = named.get("omega")
        calls.append((given[2].tolist(), None if omega is None else omega.tolist()))

    network.register_forward_pre_hook(note, with_kwargs=True)
    process = VPConfig(timesteps=4, beta_end=0.99).build()
    sampler = kind() if kind is DDPMSampler else kind(steps=4)
    for omega in (0.0, 1.5):
        options = SamplingConfig(sampler=sampler, guidance=ClassifierFree(omega=omega))
        own = Denoiser(network, process)
        sample(own, LABELS, (3, 2, 2), options, class_counts=COUNTS, seed=0)
    labels, null = LABELS.tolist(), [NULL_LABEL] * 2
    assert calls[:4] == [(labels, None)] * 4
    # nothing guides the unconditional image: it was never trained with an omega
    assert calls[4:] == [(labels, [1.5, 1.5, -1.0]) if embeds else (labels + null, None)] * 4


def test_the_output_for_an_embedded_omega_is_taken_as_it_is() -> None:
    class Embeds(Network):
        guidance = True

        def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor, omega: Tensor) -> Tensor:
            return super().__call__(x_t, t, labels) + omega[:, None, None, None]

    guidance = torch.tensor([2.0, 2.0, -1.0])[:, None, None, None]
    expected = Network()(X_T, torch.full((3,), 7.0), LABELS) + guidance
    torch.testing.assert_close(denoised(Embeds(), 2), expected, rtol=0, atol=1e-6)


# -- whole images ------------------------------------------------------------------------------------

MIXED = torch.tensor([0, 1, 2, NULL_LABEL] * 5)


def generate(
    labels: Tensor,
    batch_size: int,
    sampler: SamplerConfig,
    seed: int = 5,
    indices: Tensor | None = None,
    omega: float = 0.5,
) -> Tensor:
    config = SamplingConfig(
        sampler=sampler,
        guidance=ClassifierFree(omega=omega),
        batch_size=batch_size,
        clip_x0=False,
    )
    own = Denoiser(lambda *given: Network()(*given) / 10, SAYS_X0)
    return sample(own, labels, (3, 2, 2), config, class_counts=COUNTS, seed=seed, indices=indices)


@pytest.mark.parametrize(
    "sampler",
    [
        DDPMSampler(),
        DDIMSampler(steps=4, eta=1),
        DDIMSampler(steps=4),
        HeunSampler(steps=3, s_churn=1),
        DPMSolver2MSampler(steps=4),
        UniPCSampler(steps=4),
    ],
    ids=lambda sampler: sampler.label,
)
def test_an_image_depends_on_seed_class_and_index_alone(sampler: SamplerConfig) -> None:
    whole = generate(MIXED, 20, sampler)
    assert whole.shape == (20, 3, 2, 2)
    assert whole.dtype == torch.float32
    assert len({tuple(image.flatten().tolist()) for image in whole}) == 20
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-6)
    for batch_size in (1, 3, 8):
        close(generate(MIXED, batch_size, sampler), whole)
    close(generate(MIXED[:7], 20, sampler), whole[:7])
    by_class = MIXED.argsort(stable=True)
    close(generate(MIXED[by_class], 6, sampler), whole[by_class])  # another order
    twos = (MIXED == 2).nonzero().flatten()
    close(generate(MIXED[twos], 20, sampler), whole[twos])  # one class alone
    rows = torch.tensor([18, 2, 9, 14, 13])  # any of them, by index
    close(generate(MIXED[rows], 20, sampler, indices=occurrences(MIXED)[rows]), whole[rows])
    other = generate(MIXED, 20, sampler, seed=6)
    assert ((other - whole).abs().amax((1, 2, 3)) > 1e-6).all()


@pytest.mark.parametrize("sampler", [DDPMSampler(), DDIMSampler(steps=5), UniPCSampler(steps=5)])
@pytest.mark.parametrize("clip", [True, False])
def test_clipping_acts_on_the_predicted_image(sampler: SamplerConfig, clip: bool) -> None:
    given: list[Tensor] = []

    def network(x_t: Tensor, _: Tensor, labels: Tensor) -> Tensor:
        given.append(x_t)
        return torch.full_like(x_t, 3.0) * labels[:, None, None, None]

    images = sample(
        Denoiser(network, SAYS_X0),
        torch.tensor([1]),
        (1, 1, 1),
        SamplingConfig(sampler=sampler, clip_x0=clip),
        class_counts=COUNTS,
        seed=0,
    )
    assert images.item() == 1  # the image itself is always within the range
    assert (given[-1].item() < 2) == clip  # on the way x_t tends to the predicted image


def test_sampling_reports_stays_in_range_and_takes_nothing() -> None:
    done: list[float] = []
    config = SamplingConfig(batch_size=8, clip_x0=False, sampler=DDIMSampler(steps=2))
    own = Denoiser(lambda *given: 10 * Network()(*given), SAYS_X0)
    run = partial(sample, own, shape=(3, 2, 2), config=config, class_counts=COUNTS, seed=0)
    images = run(MIXED, on_progress=done.append)
    assert done == [4, 8, 12, 16, 18, 20]  # at each of two calls for each batch
    assert images.min() == -1  # the network above is far from bounded
    assert images.max() == 1
    assert run(MIXED[:0]).shape == (0, 3, 2, 2)


def test_bf16_is_of_the_networks_products_alone() -> None:
    inner: list[torch.dtype] = []
    given: list[torch.dtype] = []
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) / 2

    def network(x_t: Tensor, _: Tensor, _labels: Tensor) -> Tensor:
        product = x_t.flatten(1) @ weight
        given.append(x_t.dtype)
        inner.append(product.dtype)
        return product.reshape(x_t.shape)

    def images(config: SamplingConfig) -> Tensor:
        own = Denoiser(network, SAYS_X0)
        return sample(own, MIXED, (1, 2, 2), config, class_counts=COUNTS, seed=0)

    exact = images(SamplingConfig(sampler=DDIMSampler(steps=5)))
    assert {*given, *inner} == {torch.float32}
    rounded = images(SamplingConfig(sampler=DDIMSampler(steps=5), precision="bf16"))
    assert set(given) == {torch.float32}
    assert inner[-1] == torch.bfloat16
    error = (rounded - exact).abs().max()
    assert 0 < error < 0.02  # a product in bf16 has 8 bits


def test_occurrences() -> None:
    assert occurrences(torch.tensor([4, 2, 4, -1, 4, 2])).tolist() == [0, 0, 1, 0, 2, 1]
    assert occurrences(torch.tensor([], dtype=torch.int64)).tolist() == []
