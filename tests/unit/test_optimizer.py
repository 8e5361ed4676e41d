"""Adam is torch's Adam; the average beside it follows its recursion."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn

from whipray.platform.config.experiment import load_experiment, with_values
from whipray.trainers.errors import UsageProblem
from whipray.trainers.optimizer import AdamWithEMA, OptimizerConfig, too_long

STEPS = 60


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def loss_of(model: nn.Module, step: int) -> Tensor:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
    return (model(x) - x[:, :2] ** 2).square().mean()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_weights_follow_torch_and_the_average_its_recursion(weight_decay: float) -> None:
    config = OptimizerConfig(lr=1e-2, weight_decay=weight_decay, betas=(0.8, 0.95), eps=1e-7)
    mine, theirs = network(), network()
    adam = AdamWithEMA(mine.parameters(), config)
    reference = torch.optim.AdamW(
        theirs.parameters(), lr=1e-2, betas=(0.8, 0.95), eps=1e-7, weight_decay=weight_decay
    )
    average = [p.detach().double().clone() for p in theirs.parameters()]  # the initial weights
    for step in range(STEPS):
        decay = 0.9 + 0.001 * step  # it is set anew for every step
        lr = 1e-2 * min(1, (step + 1) / 10)
        for optimizer, model in ((adam, mine), (reference, theirs)):
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad()
            loss_of(model, step).backward()
        adam.decays["ema"] = decay
        adam.step()
        reference.step()
        for p, q, ema in zip(mine.parameters(), theirs.parameters(), average, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
            ema.mul_(decay).add_((1 - decay) * p.detach().double())
            torch.testing.assert_close(adam.state[p]["ema"].double(), ema, rtol=1e-5, atol=1e-6)


def test_one_step_by_hand() -> None:
    """Kingma & Ba algorithm 1 at step 1: both bias corrections cancel, so p moves by lr sign(g)."""
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    adam = AdamWithEMA([p], OptimizerConfig(lr=0.1))
    adam.decays["ema"] = 0.75
    p.grad = torch.tensor([3.0, -0.02])
    adam.step()
    assert p.tolist() == pytest.approx([0.9, -1.9], abs=1e-5)
    assert adam.state[p]["ema"].tolist() == pytest.approx([0.975, -1.975], abs=1e-5)


def test_the_average_starts_as_the_initial_weights() -> None:
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    adam = AdamWithEMA(model.parameters(), OptimizerConfig(lr=0.1))
    adam.decays["ema"] = 1.0
    for step in range(3):
        adam.zero_grad()
        loss_of(model, step).backward()
        adam.step()
    for p, initial in zip(model.parameters(), before, strict=True):
        assert torch.equal(adam.state[p]["ema"], initial)
        assert not torch.equal(p, initial)


def test_a_parameter_without_gradient_waits() -> None:
    used, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    adam = AdamWithEMA([used, idle], OptimizerConfig(lr=0.1))
    used.grad = torch.ones(2)
    adam.step()
    assert torch.equal(idle, torch.ones(2))
    idle.grad = torch.ones(2)
    adam.decays["ema"] = 1.0
    adam.step()
    assert torch.equal(adam.state[idle]["ema"], torch.ones(2))


def test_state_carries_the_average_on() -> None:
    model = network()
    adam = AdamWithEMA(model.parameters(), OptimizerConfig(lr=1e-2))
    adam.decays["ema"] = 0.9
    for step in range(5):
        adam.zero_grad()
        loss_of(model, step).backward()
        adam.step()
    twin = copy.deepcopy(model)
    other = AdamWithEMA(twin.parameters(), OptimizerConfig(lr=1e-2))
    other.load_state_dict(copy.deepcopy(adam.state_dict()))
    other.decays["ema"] = 0.9
    for optimizer, some in ((adam, model), (other, twin)):
        optimizer.zero_grad()
        loss_of(some, 5).backward()
        optimizer.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(adam.state[p]["ema"], other.state[q]["ema"])


# -- schedules ---------------------------------------------------------------------------------------


def test_defaults_are_cbdms_at_batch_64() -> None:
    config = OptimizerConfig()
    assert config.ema_decay_at(64_000, batch=64) == pytest.approx(0.9999, abs=1e-8)
    assert config.lr_at(5_000 * 64, batch=64) == 2e-4
    assert (config.betas, config.eps, config.weight_decay) == ((0.9, 0.999), 1e-8, 0)
    assert config.clip == 1


@pytest.mark.parametrize("batch", [1, 32, 500])
def test_after_a_half_life_half_is_left(batch: int) -> None:
    config = OptimizerConfig(ema_half_life_images=16_000)
    left = 1.0
    for seen in range(batch, 16_000 + batch, batch):
        left *= config.ema_decay_at(seen, batch)
    assert left == pytest.approx(0.5)


def test_the_ramp_shortens_the_half_life_at_first() -> None:
    config = OptimizerConfig(ema_half_life_images=1000, ema_ramp=0.05)
    assert config.ema_decay_at(100, batch=10) == pytest.approx(0.5 ** (10 / 5))
    assert config.ema_decay_at(20_000, batch=10) == pytest.approx(0.5 ** (10 / 1000))
    assert config.ema_decay_at(10**7, batch=10) == pytest.approx(0.5 ** (10 / 1000))
    assert config.ema_decay_at(0, batch=10) == 0


def test_warm_up_is_linear_and_then_over() -> None:
    config = OptimizerConfig(lr=0.4, warmup_images=1000)
    found = [config.lr_at(seen, batch=8) for seen in (0, 250, 999, 1000, 10**9)]
    assert found == pytest.approx([0, 0.1, 0.3996, 0.4, 0.4])
    assert OptimizerConfig(lr=0.4, warmup_images=0).lr_at(0, batch=8) == 0.4


@pytest.mark.parametrize("batch", [1, 48, 128])
def test_steps_are_steps_of_any_batch(batch: int) -> None:
    config = OptimizerConfig(lr=0.4, warmup_steps=100, ema_decay=0.99)
    found = [config.lr_at(step * batch, batch) for step in (1, 50, 100, 1000)]
    assert found == pytest.approx([0.004, 0.2, 0.4, 0.4])
    assert config.ema_decay_at(7 * batch, batch) == pytest.approx(0.99, abs=1e-12)
    ramp = OptimizerConfig(ema_decay=0.99, ema_ramp=0.05)
    assert ramp.ema_decay_at(100 * batch, batch) == pytest.approx(0.5 ** (1 / 5))
    assert ramp.ema_decay_at(10**6 * batch, batch) == pytest.approx(0.99)


def test_the_later_layer_says_whether_steps_or_images_count() -> None:
    def optimizer(*overrides: str) -> OptimizerConfig:
        return load_experiment("cifar100-lt-cbdm", list(overrides)).value.optimizer

    recipes = optimizer()
    assert (recipes.warmup_steps, recipes.warmup_images) == (5000, None)
    images = optimizer("optimizer.warmup_images=9600", "optimizer.ema_half_life_images=5e4")
    assert (images.warmup_steps, images.warmup_images) == (None, 9600)
    assert (images.ema_decay, images.ema_half_life_images) == (None, 5e4)
    with pytest.raises(UsageProblem, match="warmup_images and warmup_steps are both given"):
        optimizer("optimizer.warmup_images=1", "optimizer.warmup_steps=1")
    whole = load_experiment("cifar100-lt-cbdm", []).value  # as a trial of a sweep changes it
    assert (
        with_values(whole, {"optimizer.warmup_images": 64}, "trial").optimizer.warmup_steps is None
    )


@pytest.mark.parametrize(
    ("options", "images", "lines"),
    [
        ({}, 19_200_064, []),
        (
            {},
            100_000,
            ["rises over 320,000 images, this run sees 100,000: set .*images=10000", "86%"],
        ),
        (
            {"warmup_steps": 5000, "ema_decay": 0.9999},
            64 * 8000,
            ["warmup_steps=800$", "45%.*=0.9991"],
        ),
        ({"warmup_images": 3200, "ema_half_life_images": 12000, "ema_ramp": 0.1}, 32_000, []),
        ({"warmup_images": 0, "ema_ramp": 0.05}, 100_000, []),
        ({"warmup_images": 0, "ema_half_life_images": 6000}, 22_400, ["8%"]),
    ],
)
def test_a_run_shorter_than_its_schedule_is_named(
    options: dict[str, float], images: int, lines: list[str]
) -> None:
    found = too_long(OptimizerConfig.model_validate(options), images, batch=64)
    assert len(found) == len(lines)
    for line, pattern in zip(found, lines, strict=True):
        assert re.search(pattern, line)


def test_what_a_long_average_keeps_of_the_first_weights_is_what_the_steps_keep() -> None:
    config = OptimizerConfig(warmup_images=0, ema_decay=0.97, ema_ramp=1.0)
    left = 1.0
    for step in range(1, 21):
        left *= config.ema_decay_at(10 * step, batch=10)
    assert 0.05 < left < 0.2
    assert f"{left:.0%} the first ones" in too_long(config, 200, batch=10)[0]
