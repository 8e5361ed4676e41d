"""Samplers against the textbook transitions, and on data whose best denoiser is known."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.objectives import awake
from torch import Tensor

from whipray.trainers.diffusion import DiffusionConfig, Schedule, build_schedule
from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.samplers import (
    NULL_LABEL,
    SAMPLERS,
    Denoise,
    SamplingConfig,
    ddim_times,
    guided,
    occurrences,
    sample,
)

MEAN, STD = 0.3, 0.5  # of the Gaussian toy data
PREDICTIONS = ("eps", "x0", "v")


def say(x_0: Tensor, x_t: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """x_0 in the words of the schedule's prediction, float64."""
    abar = schedule.alphas_bar[t][:, None, None, None]
    eps = (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()
    v = abar.sqrt() * eps - (1 - abar).sqrt() * x_0
    return {"eps": eps, "x0": x_0, "v": v}[schedule.config.prediction]


def gaussian_denoiser(schedule: Schedule) -> Denoise:
    """The best denoiser of N(MEAN, STD^2): E[x_0 | x_t] by regression of x_0 on x_t."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        abar = schedule.alphas_bar[t][:, None, None, None]
        slope = abar.sqrt() * STD**2 / (abar * STD**2 + 1 - abar)
        return say(MEAN + slope * (x_t - abar.sqrt() * MEAN), x_t, t, schedule)

    return denoise


def impulses(size: int) -> tuple[Tensor, object]:
    """x_T and noise for which row 0 sees zeros and row 1 + k a one in noise k alone.

    A sampler is affine in its noises where the denoiser is affine: so row 0 is the mean of what it
    generates, and the squared distances of the other rows from it add up to the variance, exactly.
    """

    def noise(k: int) -> Tensor:
        rows = torch.zeros(1 + size, dtype=torch.float64)
        rows[1 + k] = 1
        return rows.reshape(-1, 1, 1, 1)

    return noise(0), noise


def drawn_moments(schedule: Schedule, config: SamplingConfig) -> tuple[float, float]:
    """Mean and standard deviation of what a sampler makes of the Gaussian denoiser."""
    x_T, noise = impulses(schedule.timesteps)
    run = SAMPLERS[config.sampler]
    rows = run(gaussian_denoiser(schedule), x_T, schedule, noise, config).flatten()
    return rows[0].item(), (rows[1:] - rows[0]).square().sum().sqrt().item()


def trajectory(
    schedule: Schedule, config: SamplingConfig, denoise: Denoise
) -> list[tuple[int, Tensor, Tensor, Tensor]]:
    """(t, x_t, output, noise added after it) of each step, ending with (-1, x_0, ...)."""
    generator = torch.Generator().manual_seed(3)
    noises = torch.randn(schedule.timesteps + 1, 5, 1, 2, 2, generator=generator).double()
    steps: list[tuple[int, Tensor, Tensor]] = []

    def spy(x_t: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x_t),)
        assert t.unique().numel() == 1
        steps.append((int(t[0]), x_t.clone(), denoise(x_t, t)))
        return steps[-1][2]

    last = SAMPLERS[config.sampler](spy, noises[0], schedule, lambda k: noises[k], config)
    steps.append((-1, last, last))
    return [(*step, noises[k + 1]) for k, step in enumerate(steps[:-1])] + [(*steps[-1], last)]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
def test_ddpm_steps_are_draws_from_bayes_posterior(
    prediction: str, clip: bool, variance: str
) -> None:
    schedule = build_schedule(DiffusionConfig(timesteps=12, beta_end=0.3, prediction=prediction))
    config = SamplingConfig(sampler="ddpm", clip_x0=clip, variance=variance, steps=1)
    path = trajectory(schedule, config, gaussian_denoiser(schedule))
    assert [t for t, *_ in path] == [*range(11, -1, -1), -1]  # all T steps, whatever `steps` says
    beta = np.linspace(1e-4, 0.3, 12)
    abar = np.cumprod(1 - beta)
    for (t, x_t, output, z), (_, found, *_) in pairwise(path):
        x_0 = {
            "eps": (x_t - math.sqrt(1 - abar[t]) * output) / math.sqrt(abar[t]),
            "x0": output,
            "v": math.sqrt(abar[t]) * x_t - math.sqrt(1 - abar[t]) * output,
        }[prediction]
        x_0 = x_0.clamp(-1, 1) if clip else x_0
        if t == 0:
            expected = x_0
        else:  # the product of N(x_t; sqrt(1 - beta) x_{t-1}, beta) and N(x_{t-1}; x_0 ...)
            precision = (1 - beta[t]) / beta[t] + 1 / (1 - abar[t - 1])
            pull = math.sqrt(1 - beta[t]) / beta[t] * x_t
            pull = pull + math.sqrt(abar[t - 1]) / (1 - abar[t - 1]) * x_0
            spread = beta[t] if variance == "fixed_large" else 1 / precision
            expected = pull / precision + math.sqrt(spread) * z
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [1, 3, 7, 12, 40])
def test_ddim_steps_follow_equation_12(eta: float, clip: bool, steps: int) -> None:
    schedule = build_schedule(DiffusionConfig(timesteps=12, beta_end=0.3))
    config = SamplingConfig(sampler="ddim", eta=eta, clip_x0=clip, steps=steps)
    path = trajectory(schedule, config, lambda x_t, _: 0.2 * x_t)
    times = [t for t, *_ in path]
    assert len(times) == min(steps, 12) + 1
    assert times[0] == 11
    assert times[-1] == -1
    gaps = -np.diff(times)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    abar = {-1: 1.0, **dict(enumerate(np.cumprod(1 - np.linspace(1e-4, 0.3, 12))))}
    clipped = 0
    for (t, x_t, eps, z), (s, found, *_) in pairwise(path):
        x_0 = (x_t - math.sqrt(1 - abar[t]) * eps) / math.sqrt(abar[t])
        if clip:
            clipped += int((x_0.abs() > 1).sum())
            x_0 = x_0.clamp(-1, 1)  # and eps follows, so that (x_0, eps) still make x_t
        eps = (x_t - math.sqrt(abar[t]) * x_0) / math.sqrt(1 - abar[t])
        sigma = eta * math.sqrt((1 - abar[s]) / (1 - abar[t])) * math.sqrt(1 - abar[t] / abar[s])
        expected = math.sqrt(abar[s]) * x_0 + math.sqrt(1 - abar[s] - sigma**2) * eps + sigma * z
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    assert bool(clipped) == clip  # the clipping has been at work


def test_all_steps_of_ddim_at_eta_1_are_ddpm() -> None:
    schedule = build_schedule(DiffusionConfig(timesteps=30, beta_end=0.3))
    ends = [
        trajectory(schedule, config, gaussian_denoiser(schedule))[-1][1]
        for config in (
            SamplingConfig(sampler="ddpm", variance="fixed_small"),
            SamplingConfig(sampler="ddim", eta=1, steps=30),
        )
    ]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [  # relative; fixed_small is right for a single image, fixed_large for N(0, 1): STD is between
        ({"sampler": "ddpm", "variance": "fixed_large"}, 0.003),
        ({"sampler": "ddpm", "variance": "fixed_small"}, 0.009),
        # ddim is of first order: a constant over the number of steps, and eta = 1 needs more
        *(({"sampler": "ddim", "steps": steps}, 3.1 / steps) for steps in (50, 250, 1000)),
        *(({"sampler": "ddim", "steps": steps, "eta": 1}, 8 / steps) for steps in (250, 1000)),
    ],
)
def test_samplers_give_back_the_distribution_of_the_data(
    options: dict[str, object], tolerance: float
) -> None:
    schedule = build_schedule(DiffusionConfig())
    mean, std = drawn_moments(schedule, SamplingConfig(clip_x0=False, **options))
    assert mean == pytest.approx(MEAN, abs=0.001)
    assert std == pytest.approx(STD, rel=tolerance)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("steps", "eta"), [(1, 0.0), (2, 1.0), (9, 0.5), (5000, 0.0)])
def test_the_last_step_lands_on_the_denoisers_image(
    sampler: str, prediction: str, steps: int, eta: float
) -> None:
    schedule = build_schedule(DiffusionConfig(timesteps=100, prediction=prediction))
    config = SamplingConfig(sampler=sampler, steps=steps, eta=eta)
    point = torch.linspace(-1, 1, 12).reshape(1, 3, 2, 2)
    x_T = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = SAMPLERS[sampler](
        lambda x_t, t: say(point.expand(len(x_t), -1, -1, -1), x_t.double(), t, schedule).float(),
        x_T,
        schedule,
        lambda k: torch.full_like(x_T, k),
        config,
    )
    atol = 0 if prediction == "x0" else 1e-5
    torch.testing.assert_close(found, point.expand_as(x_T), rtol=0, atol=atol)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize(("clip", "end"), [(True, 1.0), (False, 3.0)])
def test_clipping_acts_on_the_predicted_image(sampler: str, clip: bool, end: float) -> None:
    schedule = build_schedule(DiffusionConfig(timesteps=20, prediction="x0"))
    x_T = torch.zeros(1, 1, 1, 1)
    config = SamplingConfig(sampler=sampler, clip_x0=clip, steps=5)
    found = SAMPLERS[sampler](
        lambda x_t, _: torch.full_like(x_t, 3.0), x_T, schedule, lambda _: x_T, config
    )
    assert found.item() == end


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
TIMES = torch.tensor([7, 0, 3])
LABELS = torch.tensor([2, 0, NULL_LABEL])


def test_without_guidance_the_network_is_called_once_and_conditionally() -> None:
    network = Network()
    found = guided(network, LABELS, 0)(X_T, TIMES)
    assert network.calls == [[2, 0, NULL_LABEL]]
    assert torch.equal(found, Network()(X_T, TIMES, LABELS))


@pytest.mark.parametrize("omega", [0.25, 1.6])
def test_guidance_is_both_conventions_at_once(omega: float) -> None:
    network = Network()
    found = guided(network, LABELS, omega)(X_T, TIMES)
    assert network.calls == [[2, 0, NULL_LABEL, *[NULL_LABEL] * 3]]
    conditional = Network()(X_T, TIMES, LABELS)
    unconditional = Network()(X_T, TIMES, torch.full((3,), NULL_LABEL))
    expected = (1 + omega) * conditional - omega * unconditional
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    s = 1 + omega
    expected = unconditional + s * (conditional - unconditional)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.equal(found[2], conditional[2])  # nothing to guide an unconditional image by


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("embeds", [True, False])
def test_a_network_that_embeds_omega_is_called_once_a_step(embeds: bool, sampler: str) -> None:
    config = UNetConfig(
        base_channels=4,
        channel_mult=(1,),
        blocks_per_level=1,
        attention_resolutions=(),
        norm_groups=2,
        guidance_embedding=embeds,
    )
    network = awake(UNet(config, (3, 2, 2), 4)).eval()
    calls: list[tuple[list[int], list[float] | None]] = []

    def note(_: object, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        omega = named.get("omega")
        calls.append((given[2].tolist(), None if omega is None else omega.tolist()))

    network.register_forward_pre_hook(note, with_kwargs=True)
    schedule = build_schedule(DiffusionConfig(timesteps=4))
    for omega in (0.0, 1.5):
        options = SamplingConfig(sampler=sampler, steps=4, omega=omega)
        sample(network, LABELS, (3, 2, 2), schedule, options, seed=0)
    own, null = LABELS.tolist(), [NULL_LABEL] * 3
    assert calls[:4] == [(own, None)] * 4
    # nothing guides the unconditional image: it was never trained with an omega
    assert calls[4:] == [(own, [1.5, 1.5, -1.0]) if embeds else (own + null, None)] * 4


def test_the_answer_to_a_told_omega_is_taken_as_it_is() -> None:
    class Told(Network):
        guidance = True

        def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor, omega: Tensor) -> Tensor:
            return super().__call__(x_t, t, labels) + omega[:, None, None, None]

    found = guided(Told(), LABELS, 2)(X_T, TIMES)
    guidance = torch.tensor([2.0, 2.0, -1.0])[:, None, None, None]
    torch.testing.assert_close(found, Network()(X_T, TIMES, LABELS) + guidance, rtol=0, atol=1e-6)


def test_guiding_any_prediction_guides_the_same_image() -> None:
    images = []
    for prediction in PREDICTIONS:
        schedule = build_schedule(DiffusionConfig(prediction=prediction))

        def model(x_t: Tensor, t: Tensor, labels: Tensor, schedule: Schedule = schedule) -> Tensor:
            x_0 = 0.2 * x_t + 0.1 * labels[:, None, None, None]
            return say(x_0.double(), x_t.double(), t, schedule)

        output = guided(model, LABELS, 1.5)(X_T, TIMES)
        images.append(schedule.to_x0(output, X_T, TIMES))
    torch.testing.assert_close(images[1], images[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(images[2], images[0], rtol=0, atol=1e-5)


# -- whole images ------------------------------------------------------------------------------------

SCHEDULE = build_schedule(DiffusionConfig(timesteps=20))
MANY = torch.tensor([0, 1, 2, NULL_LABEL] * 5)


def generate(
    labels: Tensor,
    batch_size: int,
    seed: int = 5,
    indices: Tensor | None = None,
    **options: object,
) -> Tensor:
    config = SamplingConfig(batch_size=batch_size, clip_x0=False, **options)
    found = sample(Network(), labels, (3, 2, 2), SCHEDULE, config, seed=seed, indices=indices)
    return found / 10


@pytest.mark.parametrize(
    "options", [{"sampler": "ddpm"}, {"steps": 4, "eta": 1, "omega": 0.5}, {"steps": 4}]
)
def test_an_image_depends_on_seed_class_and_index_alone(options: dict[str, object]) -> None:
    whole = generate(MANY, 20, **options)
    assert whole.shape == (20, 3, 2, 2)
    assert whole.dtype == torch.float32
    assert len({tuple(image.flatten().tolist()) for image in whole}) == 20
    same = partial(torch.testing.assert_close, rtol=0, atol=1e-6)
    for batch_size in (1, 3, 8):
        same(generate(MANY, batch_size, **options), whole)
    same(generate(MANY[:7], 20, **options), whole[:7])
    by_class = MANY.argsort(stable=True)
    same(generate(MANY[by_class], 6, **options), whole[by_class])  # another order
    twos = (MANY == 2).nonzero().flatten()
    same(generate(MANY[twos], 20, **options), whole[twos])  # one class alone
    rows = torch.tensor([18, 2, 9, 14, 13])  # any of them, by index
    some = generate(MANY[rows], 20, indices=occurrences(MANY)[rows], **options)
    same(some, whole[rows])
    other = generate(MANY, 20, seed=6, **options)
    assert ((other - whole).abs().amax((1, 2, 3)) > 1e-6).all()


def test_sampling_reports_stays_in_range_and_takes_nothing() -> None:
    done: list[int] = []
    config = SamplingConfig(batch_size=8, clip_x0=False, steps=2)
    shape = (3, 2, 2)
    images = sample(Network(), MANY, shape, SCHEDULE, config, seed=0, on_progress=done.append)
    assert done == [8, 16, 20]
    assert images.min() == -1  # the network above is far from bounded
    assert images.max() == 1
    assert sample(Network(), MANY[:0], shape, SCHEDULE, config, seed=0).shape == (0, *shape)


def test_leading_spacing_is_the_released_code_of_oc() -> None:
    """OC_LT, diffusion.py, GaussianDiffusionSamplerOld: reversed(range(0, T, skip)), to max(t - skip, 0)."""
    schedule = build_schedule(DiffusionConfig())
    denoise = gaussian_denoiser(schedule)
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    x_T = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    for steps, skip in ((50, 20), (100, 10), (1000, 1)):
        x = x_T
        for t in reversed(range(0, 1000, skip)):
            s = max(t - skip, 0)
            eps = denoise(x, torch.full((4,), t))
            x_0 = (x - math.sqrt(1 - abar[t]) * eps) / math.sqrt(abar[t])
            x = math.sqrt(abar[s]) * x_0 + math.sqrt(1 - abar[s]) * eps
        config = SamplingConfig(steps=steps, spacing="leading", clip_x0=False)
        found = SAMPLERS["ddim"](denoise, x_T, schedule, lambda _: x_T, config)
        torch.testing.assert_close(found, x, rtol=0, atol=1e-5)


def test_the_times_of_both_spacings() -> None:
    assert ddim_times("leading", 50, 1000) == [*range(980, -1, -20)]
    assert ddim_times("trailing", 50, 1000) == [*range(999, 0, -20), -1]
    assert ddim_times("leading", 3, 10) == [6, 3, 0]
    assert ddim_times("leading", 7, 10) == [8, 7, 5, 4, 2, 1, 0]
    with pytest.raises(ValueError, match="ends where it starts"):
        SamplingConfig(steps=1, spacing="leading")


def test_what_is_not_read_makes_no_difference() -> None:
    ddim = SamplingConfig(steps=5000, variance="fixed_small").effective(1000)
    assert ddim == SamplingConfig(steps=1000)
    ddpm = SamplingConfig(
        sampler="ddpm", steps=7, eta=0.5, variance="fixed_small", spacing="leading"
    ).effective(1000)
    assert ddpm == SamplingConfig(sampler="ddpm", steps=1000, variance="fixed_small")
    assert SamplingConfig(steps=7, eta=0.5).effective(1000) == SamplingConfig(steps=7, eta=0.5)


def test_occurrences() -> None:
    assert occurrences(torch.tensor([4, 2, 4, -1, 4, 2])).tolist() == [0, 0, 1, 0, 2, 1]
    assert occurrences(torch.tensor([], dtype=torch.int64)).tolist() == []
