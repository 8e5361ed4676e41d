"""Averages of a width that is chosen after the training, against sums over the whole trajectory."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from support.checkpoints import make_checkpoint, save_averages
from torch import nn

from whipray.trainers.averaging import (
    MOMENTS,
    TOO_FAR,
    Profile,
    combine,
    fit,
    fit_or_refuse,
    gamma_of,
    inner_products,
    thinned,
    width_of,
)
from whipray.trainers.checkpoint import verify
from whipray.trainers.errors import CheckpointProblem, UsageProblem
from whipray.trainers.optimizer import AdamWithEMA, OptimizerConfig

PAIR = (0.05, 0.10)
BATCH = 32
STEPS = 400


def shares_of_steps(gamma: float, steps: int) -> NDArray[np.float64]:
    """What each of `steps` weights is in the average: the integral of the profile over its step."""
    ends = (np.arange(steps + 1) / steps) ** (gamma + 1)
    return np.diff(ends)


def averages_of(walk: NDArray[np.float64], width: float, steps: int) -> NDArray[np.float64]:
    """The average of the first weights of a trajectory (steps, numbers)."""
    return np.asarray(shares_of_steps(gamma_of(width), steps) @ walk[:steps])


def kept_at(*moments: int) -> list[Profile]:
    return [Profile(moment, width) for moment in moments for width in PAIR]


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.0694, 11.37), (0.10, 6.94)])
def test_the_exponents_are_the_papers(width: float, gamma: float) -> None:
    assert gamma_of(width) == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.2, 0.288])
def test_a_width_is_the_standard_deviation_of_its_profile(width: float) -> None:
    assert width_of(gamma_of(width)) == pytest.approx(width, rel=1e-9)
    shares = shares_of_steps(gamma_of(width), 20_000)
    at = (np.arange(20_000) + 0.5) / 20_000
    mean = shares @ at
    assert math.sqrt(shares @ (at - mean) ** 2) == pytest.approx(width, rel=1e-4)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Profile(700, 0.05), Profile(1000, 0.10)),
        (Profile(1000, 0.05), Profile(700, 0.10)),
        (Profile(1000, 0.10), Profile(1000, 0.2)),
    ],
)
def test_inner_products_are_integrals(a: Profile, b: Profile) -> None:
    at = (np.arange(200_000) + 0.5) / 200  # 0 to 1000 images
    values = [
        np.where(at < p.images_seen, (g + 1) * at**g / p.images_seen ** (g + 1.0), 0)
        for p in (a, b)
        for g in [gamma_of(p.width)]
    ]
    integral = float((values[0] * values[1]).sum()) / 200
    assert inner_products([a], [b])[0, 0] == pytest.approx(integral, rel=1e-5)


def test_the_optimizer_keeps_the_weighted_sum_of_all_weights() -> None:
    """float64 sums over the trajectory, with shares in closed form, not by the recursion."""
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    config = OptimizerConfig(lr=0.05, ema_profiles=PAIR)
    adam = AdamWithEMA(model.parameters(), config)
    walk = []
    for step in range(1, STEPS + 1):
        adam.zero_grad()
        model(torch.randn(4, 5)).square().mean().backward()
        adam.decays.update(config.decays_at(step * BATCH, BATCH))
        adam.step()
        walk.append(model.weight.detach().double().numpy().copy())
    trajectory = np.stack(walk).reshape(STEPS, -1)
    for width in PAIR:
        expected = averages_of(trajectory, width, STEPS)
        state = adam.state[model.weight][f"ema_{width:g}"].numpy().reshape(-1)
        np.testing.assert_allclose(state, expected, rtol=1e-4, atol=2e-6)
    of_half_life = adam.state[model.weight]["ema"]  # at its default, still near the start
    assert not torch.allclose(of_half_life, adam.state[model.weight]["ema_0.1"], atol=1e-2)


def test_eight_moments_of_two_widths_form_the_widths_between() -> None:
    """Weights that jump independently: the share of their deviation that is wrong is `Fit.error`."""
    rng = np.random.default_rng(0)
    walk = rng.standard_normal((STEPS, 3000))
    moments = [STEPS * (k + 1) // 8 for k in range(8)]
    kept = {p: averages_of(walk, p.width, p.images_seen) for p in kept_at(*moments)}
    measured = {}
    for width in (0.04, *PAIR, 0.075, 0.15, 0.2):
        found = fit(list(kept), Profile(STEPS, width))
        formed = sum(share * kept[profile] for profile, share in found.shares.items())
        exact = averages_of(walk, width, STEPS)
        measured[width] = float(np.linalg.norm(formed - exact) / np.linalg.norm(exact))
        assert measured[width] == pytest.approx(found.error, rel=0.15, abs=1e-9)
        assert sum(found.shares.values()) == pytest.approx(1)
    assert measured[0.05] == measured[0.10] == 0
    assert max(measured[width] for width in (0.04, 0.075)) < 0.04
    assert max(measured[width] for width in (0.15, 0.2)) < 0.09


@pytest.mark.parametrize("width", PAIR)
def test_a_width_that_is_kept_is_that_average_alone(width: float) -> None:
    kept = kept_at(100, 200, 300)
    found = fit(kept, Profile(300, width))
    assert dict(found.shares) == {Profile(300, width): 1.0}


def test_a_width_that_cannot_be_formed_is_refused_with_the_widths_that_can() -> None:
    kept = kept_at(100, 200)
    with pytest.raises(UsageProblem) as caught:
        fit_or_refuse(kept, Profile(200, 0.25))
    what, fix = caught.value.what, caught.value.fix
    assert what.startswith("sampling.ema_width=0.25 cannot be formed from averages of widths 0.05,")
    assert "at 2 moments: 73% of its profile would be missing" in what
    assert fix.startswith("choose a width from 0.05 to 0.12, or train with a smaller")
    for width in (0.05, 0.12):
        assert fit_or_refuse(kept, Profile(200, width)).error < TOO_FAR
    with pytest.raises(UsageProblem, match="keeps no averages to form it from"):
        fit_or_refuse([], Profile(200, 0.1))


@pytest.mark.parametrize("checkpoints", [20, 60, 400])
def test_the_moments_that_stay_form_every_width_at_any_time(checkpoints: int) -> None:
    moments: list[int] = []
    for moment in range(1, checkpoints + 1):
        before = moments
        moments = thinned([*moments, moment])
        assert len(moments) <= MOMENTS
        assert moments[-2:] == [*before, moment][-2:]
        if moment in (checkpoints * 2 // 3, checkpoints):
            for width in (0.05, 0.075, 0.12, 0.2):
                assert fit(kept_at(*moments), Profile(moment, width)).error < TOO_FAR / 2
    for width in (0.03, 0.25):
        assert fit(kept_at(*moments), Profile(checkpoints, width)).error < TOO_FAR


def test_combining_reads_every_share_from_its_moment(tmp_path: Path) -> None:
    kept, expected = {}, torch.zeros(64, dtype=torch.float64)
    shares = {Profile(100, 0.05): -0.5, Profile(100, 0.1): 0.3, Profile(200, 0.1): 1.2}
    generator = torch.Generator().manual_seed(0)
    for moment in (100, 200):
        folder = make_checkpoint(tmp_path, moment)
        values = {width: torch.randn(64, generator=generator) for width in PAIR}
        save_averages(folder, values)
        averages = verify(folder).averages()
        assert averages is not None
        kept[moment] = (folder, averages)
        for width in PAIR:
            expected += shares.get(Profile(moment, width), 0) * values[width].double()
    combined = combine(shares, kept)
    assert list(combined) == ["layer0"]
    assert torch.equal(combined["layer0"], expected.float())
    save_file({"other": torch.zeros(1)}, kept[200][0] / "averages-0.safetensors")
    with pytest.raises(CheckpointProblem, match=r"averages-0\.safetensors: cannot be read"):
        combine(shares, kept)


def test_the_same_width_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="the same width twice: keep one of the two"):
        OptimizerConfig(ema_profiles=(0.1, 0.05, 0.1))
    with pytest.raises(ValueError, match=r"ema_profiles\.0"):
        OptimizerConfig(ema_profiles=(0.3,))
