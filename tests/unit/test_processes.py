"""Noise processes against their papers, read again in float64 (`support.processes`)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy import integrate, stats
from support.objectives import COUNTS, CPU, SHAPE, Tiny, images_and_labels
from support.processes import PROCESSES, abar_of, read_again, times_of
from torch import Tensor

from whipray.trainers.data import Digits
from whipray.trainers.data.packed import PackedImages
from whipray.trainers.errors import DataProblem
from whipray.trainers.objectives import DDPMConfig
from whipray.trainers.processes import (
    AnyProcess,
    EDMConfig,
    FlowConfig,
    Process,
    ProcessConfig,
    VPConfig,
    edm,
)
from whipray.trainers.randomness import BatchRandom

TIMES = {
    "vp": [0, 1, 250, 500, 998, 999],
    "edm": [1e-5, 0.002, 0.3, 1.0, 5.0, 80.0, 2000.0],
    "flow": [1e-5, 0.01, 0.3, 0.5, 0.99, 1 - 1e-5],
}
each_process = pytest.mark.parametrize("config", PROCESSES.values(), ids=PROCESSES)


def times_for(config: Any) -> Tensor:
    dtype = torch.int64 if config.name == "vp" else torch.float64
    return torch.tensor(TIMES[config.name], dtype=dtype)


def pair(rows: int) -> tuple[Tensor, Tensor]:
    """x_0 and eps, float32."""
    generator = torch.Generator().manual_seed(1)
    x_0 = torch.rand(rows, 3, 4, 4, generator=generator) * 2 - 1
    return x_0, torch.randn(x_0.shape, generator=generator)


# -- noise, target and image ------------------------------------------------------------------------------


@each_process
def test_noise_target_and_image_are_the_papers(config: Any) -> None:
    """Also at the ends of each clock; a perfect output gives back the image."""
    process, t = config.build(), times_for(config)
    x_0, eps = pair(len(t))
    x_t, target = process.perturb(x_0, t, eps), process.target(x_0, t, eps)
    image, (given, time) = process.to_x0(target, x_t, t), process.network_input(x_t, t)
    for tensor in (x_t, target, image, given, time):
        assert tensor.dtype == torch.float32
    for coefficient in (process.alpha(t), process.sigma(t), *process.skip_and_out(t)):
        assert (coefficient.dtype, coefficient.shape) == (torch.float64, t.shape)
    for i, at in enumerate(t.tolist()):
        read = read_again(config, at)
        assert process.alpha(t)[i].item() == pytest.approx(read.alpha, rel=1e-9)
        assert process.sigma(t)[i].item() == pytest.approx(read.sigma, rel=1e-9)
        own_x_t, own_eps = read.x_t(x_0[i].double(), eps[i].double()), eps[i].double()
        own_target = read.target(x_0[i].double(), own_eps)
        size = abs(read.alpha) + abs(read.sigma)
        torch.testing.assert_close(x_t[i].double(), own_x_t, rtol=0, atol=1e-6 * size)
        torch.testing.assert_close(target[i].double(), own_target, rtol=0, atol=1e-6)
        torch.testing.assert_close(given[i].double(), read.scale * own_x_t, rtol=1e-6, atol=1e-6)
        assert time[i].item() == pytest.approx(read.time, rel=1e-6)
        # rounding of x_t and of the output, by what each is multiplied with
        determinant = abs(read.a * read.sigma - read.b * read.alpha)
        rounding = (abs(read.b) * own_x_t.abs() + read.sigma * own_target.abs()) / determinant
        assert ((image[i].double() - x_0[i]).abs() <= 4e-7 * rounding + 1e-7).all()


@each_process
def test_an_imperfect_output_means_the_image_and_noise_of_the_definition(config: Any) -> None:
    process, t = config.build(), times_for(config)[1:-1]
    x_0, eps = pair(len(t))
    x_t = process.perturb(x_0, t, eps)
    output, shifted = torch.full_like(x_t, 0.3), torch.full_like(x_t, 0.4)
    slopes = process.eps_per_output(t)
    for i, at in enumerate(t.tolist()):
        read = read_again(config, at)
        expected = read.x_0_of(output[i].double(), x_t[i].double())
        found = process.to_x0(output, x_t, t)[i].double()
        torch.testing.assert_close(
            found, expected, rtol=2e-6, atol=2e-6 * float(x_t[i].abs().max())
        )
        moved = (read.eps_of(o[i].double(), x_t[i].double()) for o in (output, shifted))
        first, second = moved
        slope = ((second - first) / 0.1).abs().mean().item()
        assert slopes[i].item() == pytest.approx(slope, rel=1e-4)


@each_process
def test_noised_images_have_the_moments_of_the_process(config: Any) -> None:
    process, n = config.build(), 20_000
    eps = torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    for t in times_for(config):
        x_t = process.perturb(torch.full_like(eps, 0.7), t.expand(n), eps).double()
        read = read_again(config, t.item())
        error = 4 * read.sigma / n**0.5  # 4 standard errors
        assert x_t.mean().item() == pytest.approx(read.alpha * 0.7, abs=error + 1e-6)
        assert x_t.std().item() == pytest.approx(read.sigma, rel=4 / (2 * n) ** 0.5, abs=1e-6)


@pytest.mark.parametrize("sigma_data", [0.5, 0.31])
def test_edms_loss_is_lambda_times_the_error_of_d(sigma_data: float) -> None:
    """Karras et al. 2022, table 1: lambda || c_skip x + c_out F(c_in x; c_noise) - y ||^2, summed by hand."""
    config, network, batch = EDMConfig(sigma_data=sigma_data), Tiny(), images_and_labels(16)
    process, rng = config.build(), BatchRandom(2, 0, 0, 16, CPU)

    def predictor(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return network(*process.network_input(x_t, t), labels)

    loss = DDPMConfig(label_drop=0).build(COUNTS)(predictor, batch, process, rng, 0)
    expected, eps = 0.0, rng.normal("eps", SHAPE).double()
    for i, sigma in enumerate(times_of(config, rng)):
        y = batch.images[i].double()
        x, total = y + sigma * eps[i], sigma**2 + sigma_data**2
        F = network.exactly(
            (x / total**0.5)[None], torch.tensor([math.log(sigma) / 4]), batch.labels[i : i + 1]
        )[0]
        D = sigma_data**2 / total * x + sigma * sigma_data / total**0.5 * F
        weight = total / (sigma * sigma_data) ** 2
        expected += weight * float((D - y).square().mean().detach()) / 16
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)


def test_the_targets_of_edm_have_unit_variance() -> None:
    """Which is what c_out is for: a network that says 0 has a loss of 1 at every sigma."""
    process, n = EDMConfig(sigma_data=0.5).build(), 100_000
    generator = torch.Generator().manual_seed(0)
    x_0 = 0.5 * torch.randn(n, 1, 1, 1, generator=generator)
    eps = torch.randn(n, 1, 1, 1, generator=generator)
    for sigma in (0.002, 0.5, 80.0):
        target = process.target(x_0, torch.full((n,), sigma, dtype=torch.float64), eps)
        assert target.square().mean().item() == pytest.approx(1, abs=0.02)


# -- times ------------------------------------------------------------------------------------------------


@each_process
def test_times_have_their_distribution_and_belong_to_rows(config: Any) -> None:
    process = config.build()
    whole = process.sample_times(BatchRandom(4, 1, 0, 512, CPU))
    assert whole.dtype == (torch.int64 if config.name == "vp" else torch.float64)
    assert whole.device == CPU
    assert whole.tolist() == pytest.approx(
        times_of(config, BatchRandom(4, 1, 0, 512, CPU)), rel=1e-7
    )
    shares = [(0, 8), (8, 100), (108, 404)]
    parts = [process.sample_times(BatchRandom(4, 1, *share, CPU)) for share in shares]
    assert torch.equal(torch.cat(parts), whole)
    for other in (BatchRandom(4, 2, 0, 512, CPU), BatchRandom(5, 1, 0, 512, CPU)):
        assert (process.sample_times(other) != whole).float().mean() > 0.9
    progress = process.progress(whole)
    assert ((progress >= 0) & (progress <= 1)).all()


class Given:
    """Random numbers of our choice in place of uniform ones."""

    def __init__(self, *values: float) -> None:
        self.values = torch.tensor(values, dtype=torch.float64)[:, None]

    def uniform(self, _stream: str) -> Tensor:
        return self.values

    def integers(self, _stream: str, high: int) -> Tensor:
        return (self.values[:, 0] * high).long()


@each_process
def test_the_outermost_random_numbers_give_times_that_can_be_trained_on(config: Any) -> None:
    process = config.build()
    t = process.sample_times(Given(0.0, 2.0**-53, 1 - 2.0**-53))
    x_0, eps = pair(3)
    x_t, target = process.perturb(x_0, t, eps), process.target(x_0, t, eps)
    outputs = (*process.network_input(x_t, t), target, process.to_x0(target, x_t, t))
    for tensor in (*outputs, process.progress(t), process.eps_per_output(t)):
        assert tensor.isfinite().all()
    assert (process.sigma(t) > 0).all()
    assert (process.alpha(t) > 0).all()


@pytest.mark.parametrize(
    ("config", "median", "above_1"),
    [
        (VPConfig(), 3.43, 0.741),
        (EDMConfig(), math.exp(-1.2), 0.159),
        (EDMConfig(p_mean=-0.8, p_std=1.6), math.exp(-0.8), 0.308),
        (FlowConfig(), 1.0, 0.5),
        (FlowConfig(times="logit_normal", location=-1.0), math.exp(-1.0), 0.159),
    ],
)
def test_how_noisy_trained_images_are(config: Any, median: float, above_1: float) -> None:
    process: Process = config.build()
    t = process.sample_times(BatchRandom(0, 0, 0, 100_000, CPU))
    ratio = process.sigma(t) / process.alpha(t)
    assert ratio.median().item() == pytest.approx(median, rel=0.03)
    assert (ratio > 1).double().mean().item() == pytest.approx(above_1, abs=0.005)


# -- how far along a time is --------------------------------------------------------------------------------


@each_process
def test_progress_is_read_the_same_and_rises(config: Any) -> None:
    process, t = config.build(), times_for(config)
    found = process.progress(t)
    assert found.dtype == torch.float64
    expected = [read_again(config, at).progress for at in t.tolist()]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)
    assert (found.diff() > 0).all() or (found[-2:] == 1).all()
    if config.name == "edm":
        outer = process.progress(torch.tensor([1e-300, 1e-30, 1e30, 1e150], dtype=torch.float64))
        assert outer.tolist() == pytest.approx([0, 0, 1, 1], abs=1e-9)


def test_edms_progress_is_ddpms_time_of_the_same_noise() -> None:
    abar = abar_of(VPConfig())
    sigma = np.sqrt(1 / abar - 1)  # of t = 0 .. 999, which have had t + 1 steps of noise
    found = EDMConfig().build().progress(torch.from_numpy(sigma))
    assert np.abs(found.numpy() - np.arange(1, 1001) / 1000).max() < 0.0034


@pytest.mark.parametrize(
    ("p_mean", "p_std", "mean"), [(-1.2, 1.2, 0.134), (-0.8, 1.6, 0.201), (-0.4, 1.0, 0.219)]
)
def test_edm_trains_at_little_progress_and_at_even_quantiles(
    p_mean: float, p_std: float, mean: float
) -> None:
    """The mean weight of CBDM's regulariser, tau being 1: DDPM's is 0.5."""
    by_vp = EDMConfig(p_mean=p_mean, p_std=p_std)
    process = by_vp.build()
    law = stats.norm(p_mean, p_std)
    exact, _ = integrate.quad(
        lambda x: law.pdf(x) * read_again(by_vp, math.exp(x)).progress,
        p_mean - 7 * p_std,
        p_mean + 7 * p_std,
        limit=200,
    )
    assert exact == pytest.approx(mean, abs=5e-4)
    rng = BatchRandom(0, 0, 0, 50_000, CPU)
    assert process.progress(process.sample_times(rng)).mean().item() == pytest.approx(
        mean, abs=3e-3
    )
    even = by_vp.model_copy(update={"progress": "quantile"}).build()
    u = even.progress(even.sample_times(rng))
    assert torch.allclose(u, rng.uniform("t")[:, 0], rtol=0, atol=1e-12)


# -- levels of samplers ---------------------------------------------------------------------------------------


@each_process
def test_every_ratio_of_a_sampler_has_its_time(config: Any) -> None:
    process: Process = config.build()
    low, high = process.ratios
    assert 0 < low < 0.03
    assert high > 10
    for ratio in np.geomspace(low, high, 41):
        level = process.level(process.time_of(float(ratio)))
        assert level.ratio == pytest.approx(ratio, rel=1e-6)
        assert level.ratio == level.sigma / level.alpha
    clock = process.clock(20)
    assert len(clock) == 20
    assert sorted(clock, reverse=True) == list(clock)
    assert process.level(clock[0]).alpha < 0.1 * process.level(clock[0]).sigma  # pure noise
    if config.name != "vp":
        assert process.level(clock[-1]).sigma < 0.06


@pytest.mark.parametrize("schedule", ["linear", "cosine", "scaled_linear"])
def test_vp_has_a_time_between_its_whole_ones(schedule: str) -> None:
    config = VPConfig(schedule=schedule)
    process, abar = config.build(), abar_of(config)
    whole = torch.arange(1000)
    assert torch.allclose(process.alpha(whole.double()), process.alpha(whole), rtol=1e-12)
    assert torch.allclose(process.sigma(whole.double()), process.sigma(whole), rtol=1e-9)
    for t in (0, 1, 400, 990):
        sigma, after = (math.sqrt(1 / abar[i] - 1) for i in (t, t + 1))
        assert process.time_of(sigma) == pytest.approx(t, abs=1e-6)
        between = process.level(t + 0.25)  # ln alpha is linear
        expected = abar[t] ** 0.375 * abar[t + 1] ** 0.125
        assert between.alpha == pytest.approx(expected, rel=1e-9)
        assert between.alpha**2 + between.sigma**2 == pytest.approx(1, rel=1e-12)
        assert sigma < between.ratio < after


# -- the schedules of vp --------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "cosine", "scaled_linear"])
@pytest.mark.parametrize("timesteps", [1000, 2000])
def test_schedules_follow_their_closed_forms(schedule: str, timesteps: int) -> None:
    config = VPConfig(schedule=schedule, timesteps=timesteps)
    process, abar = config.build(), abar_of(config)
    assert process.alphas_bar.dtype == process.betas.dtype == torch.float64
    np.testing.assert_allclose(process.alphas_bar, abar, rtol=1e-9)
    betas = 1 - abar / np.concatenate([[1.0], abar[:-1]])
    np.testing.assert_allclose(process.betas, betas, rtol=1e-8)
    assert process.betas.max() <= 0.999
    t = torch.arange(timesteps)
    assert torch.equal(process.alpha(t), process.alphas_bar.sqrt())
    assert torch.equal(process.sigma(t), (1 - process.alphas_bar).sqrt())


def test_known_values_of_the_schedules() -> None:
    linear = VPConfig().build()
    assert linear.sigma(torch.tensor(0)).item() == pytest.approx(0.01)  # beta_1 = 1e-4
    assert linear.alphas_bar[-1].item() == pytest.approx(4.036e-5, rel=1e-3)
    sigma = (1 / linear.alphas_bar - 1).sqrt()
    crossings = [int((sigma < level).sum()) for level in (1, 5, 20)]
    assert crossings == pytest.approx([259, 566, 769], abs=1)
    latent = VPConfig(schedule="scaled_linear", beta_start=8.5e-4, beta_end=0.012).build()
    first, last = latent.ratios  # of latent diffusion, as its samplers print them
    assert (first, last) == (pytest.approx(0.0292, abs=1e-4), pytest.approx(14.6146, abs=1e-3))


@pytest.mark.parametrize(
    ("config", "values", "said"),
    [
        (VPConfig, {"beta_start": 0.03, "beta_end": 0.02}, "beta_start must not exceed beta_end"),
        (VPConfig, {"timesteps": 100}, r"0\.60, so x_T is not noise: raise process\.beta_end or"),
        (EDMConfig, {"sigma_min": 80.0}, "sigma_min must be below sigma_max"),
        (EDMConfig, {"sigma_data": 0.0}, "greater than 0"),
        (EDMConfig, {"p_std": 0.0}, "greater than 0"),
        (FlowConfig, {"scale": 0.0}, "greater than 0"),
    ],
)
def test_what_cannot_be_is_refused(
    config: type[ProcessConfig], values: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        config(**values)


@each_process
def test_a_process_is_known_by_its_name(config: Any) -> None:
    assert TypeAdapter(AnyProcess).validate_json(config.model_dump_json()) == config


# -- sigma_data ---------------------------------------------------------------------------------------------


def packed(images: Any) -> PackedImages:
    return PackedImages(images, np.zeros(len(images), dtype=np.int64), ("a",))


def test_sigma_data_is_measured_on_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = EDMConfig(sigma_data=None)
    generator = np.random.default_rng(0)
    faint = np.full((3, 1, 5, 5), 200, dtype=np.uint8)
    faint[1, 0, 2, 2] = 201  # one pixel, by one grey level
    for images in (
        generator.integers(0, 256, (7, 3, 5, 5), dtype=np.uint8),
        generator.integers(90, 93, (7, 3, 5, 5), dtype=np.uint8),
        faint,
    ):
        scaled = images.astype(np.float64) / 127.5 - 1
        for chunk in (edm.CHUNK_BYTES, 64):
            monkeypatch.setattr(edm, "CHUNK_BYTES", chunk)
            found = asked.measured(packed(images))
            assert found.sigma_data == pytest.approx(scaled.std(), rel=1e-9)
            assert found == asked.model_copy(update={"sigma_data": found.sigma_data})
    given = EDMConfig(sigma_data=0.4)
    assert given.measured(packed(images)) is given
    for process in (VPConfig(), FlowConfig()):
        assert process.measured(packed(images)) is process


def test_constant_images_have_no_sigma_data() -> None:
    images = packed(np.full((4, 3, 2, 2), 17, dtype=np.uint8))
    with pytest.raises(DataProblem) as caught:
        EDMConfig(sigma_data=None).measured(images)
    assert caught.value.what.startswith("process.sigma_data cannot be measured: all pixels")
    assert "process.sigma_data=0.5" in caught.value.fix


def test_digits_are_not_photographs(tmp_path: Any) -> None:
    train = Digits().load(tmp_path).train
    measured = EDMConfig(sigma_data=None).measured(train).sigma_data
    assert measured == pytest.approx((train.images / 127.5 - 1).std())
    assert measured > 0.6  # EDM's 0.5 is that of photographs
