"""The U-Net: its size, its parts against their formulas, and what labels and dropout do in it."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.networks.base import timestep_embedding
from whipray.trainers.networks.dropout import RowDropout
from whipray.trainers.networks.low_rank import LowRankConfig, add_parts, theta_g
from whipray.trainers.networks.unet import Attention, Block

SMALL = UNetConfig(
    base_channels=8,
    channel_mult=(1, 2),
    blocks_per_level=1,
    attention_resolutions=(4,),
    attention_heads=2,
    norm_groups=4,
    dropout=0.3,
)


def awake(network: nn.Module) -> nn.Module:
    """Random weights everywhere: the initial ones silence most layers."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.5 if p.ndim < 2 else 0.3))
    return network


def inputs(rows: int = 3, side: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(rows, 1, side, side, generator=generator)
    return x_t, torch.arange(rows) * 300, torch.arange(rows) % 3


def test_cifar_size_has_the_papers_35_7_million_parameters() -> None:
    network = UNet(UNetConfig(), (3, 32, 32), 100)
    counts = {name: p.numel() for name, p in network.named_parameters()}
    assert counts.pop("labels.weight") == 100 * 512
    assert sum(counts.values()) == 35_746_307
    # attention: two blocks down and three up at 16x16, and the middle
    assert sum(isinstance(module, Attention) for module in network.modules()) == 6
    assert sum(isinstance(module, Block) for module in network.modules()) == 4 * 2 + 2 + 4 * 3


@pytest.mark.parametrize(
    ("shape", "changes"),
    [((1, 8, 8), {}), ((3, 16, 8), {"channel_mult": (1, 2, 3)}), ((2, 4, 4), {"norm_groups": 8})],
)
def test_output_is_as_the_input_and_starts_at_zero(
    shape: tuple[int, int, int], changes: dict[str, object]
) -> None:
    torch.manual_seed(0)
    network = UNet(SMALL.model_copy(update=changes), shape, 3).eval()
    x_t = torch.randn(2, *shape)
    output = network(x_t, torch.tensor([0, 999]), torch.tensor([2, -1]))
    assert output.shape == x_t.shape
    assert output.dtype == torch.float32
    assert output.abs().max() < 1e-3
    output = awake(network)(x_t, torch.tensor([0, 999]), torch.tensor([2, -1]))
    assert output.std() > 0.05
    assert output.isfinite().all()


def test_rows_do_not_see_one_another() -> None:
    network = awake(UNet(SMALL, (1, 8, 8), 3)).eval()
    x_t, t, labels = inputs()
    whole = network(x_t, t, labels)
    for i in range(3):
        alone = network(x_t[[i]], t[[i]], labels[[i]])
        torch.testing.assert_close(alone, whole[[i]], rtol=1e-4, atol=1e-5)


def test_t_and_the_label_are_both_heard() -> None:
    network = awake(UNet(SMALL, (1, 8, 8), 3)).eval()
    x_t, t, labels = inputs()
    base = network(x_t, t, labels)
    assert (network(x_t, t + 5, labels) - base).abs().amax((1, 2, 3)).min() > 1e-3
    assert (network(x_t, t, (labels + 1) % 3) - base).abs().amax((1, 2, 3)).min() > 1e-3


def test_the_null_label_adds_nothing() -> None:
    network = awake(UNet(SMALL, (1, 8, 8), 3)).eval()
    x_t, t, labels = inputs()
    null = torch.full_like(labels, -1)
    unconditional = network(x_t, t, null)
    assert (network(x_t, t, labels) - unconditional).abs().amax((1, 2, 3)).min() > 1e-3
    unconditional.sum().backward()
    assert network.labels.weight.grad.count_nonzero() == 0
    with torch.no_grad():
        network.labels.weight.mul_(100)
        assert torch.equal(network(x_t, t, null), unconditional)
        network.labels.weight.zero_()
        assert torch.equal(network(x_t, t, labels), unconditional)


def test_a_label_is_added_to_the_time_embedding() -> None:
    network = awake(UNet(SMALL, (1, 8, 8), 3)).eval()
    x_t, t, labels = inputs()
    with torch.no_grad():
        labelled = network(x_t, t, torch.full_like(labels, 1))
        network.embedding[2].bias += network.labels.weight[1]
        moved = network(x_t, t, torch.full_like(labels, -1))
    torch.testing.assert_close(moved, labelled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("sides", "found"), [((), 1), ((8,), 1 + 3), ((4,), 1 + 3), ((4, 8), 1 + 6)]
)
def test_attention_stands_where_it_was_asked_for(sides: tuple[int, ...], found: int) -> None:
    config = SMALL.model_copy(update={"attention_resolutions": sides})
    network = UNet(config, (1, 8, 8), 3)
    seen: list[int] = []
    for module in network.modules():
        if isinstance(module, Attention):
            module.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-1]))
    network(*inputs())
    assert len(seen) == found
    assert set(seen) <= {4, *sides}  # 4: the middle


def released_attention(channels: int) -> dict[str, Tensor]:
    """CBDM-pytorch, model.py: AttnBlock.initialize, then ResBlock.initialize over all its modules."""
    weights = {name: torch.empty(channels, channels, 1, 1) for name in ("q", "k", "v", "out")}
    nn.init.xavier_uniform_(weights["out"], gain=1e-5)
    for weight in weights.values():
        nn.init.xavier_uniform_(weight)
    return weights


@pytest.mark.parametrize("initial_weights", ["ddpm", "released"])
def test_initial_weights_of_attention(initial_weights: str) -> None:
    """Standard deviations at the papers' size: .0625 for q, k and v, and for `out` as released."""
    torch.manual_seed(0)
    network = UNet(UNetConfig(initial_weights=initial_weights), (3, 32, 32), 10)
    network.add_augmentation_conditioning(9)
    released = {name: weight.std().item() for name, weight in released_attention(256).items()}
    for module in network.modules():
        if not isinstance(module, Attention):
            continue
        for name, matrix in zip("qkv", module.qkv.weight.chunk(3), strict=True):
            assert matrix.std().item() == pytest.approx(released[name], rel=0.02)
        out = released["out"] if initial_weights == "released" else 1e-5 * released["out"]
        assert module.out.weight.std().item() == pytest.approx(out, rel=0.02)
    uniform = (6 / (9 + 512)) ** 0.5 if initial_weights == "ddpm" else 9**-0.5  # its bound
    embedding = network.augmentation.weight
    assert embedding.std().item() == pytest.approx(uniform / 3**0.5, rel=0.03)
    assert embedding.abs().max().item() == pytest.approx(uniform, rel=0.01)


def test_attention_is_softmax_of_scaled_products() -> None:
    attention = awake(Attention(8, SMALL)).double()
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = attention(x)
    normed = attention.norm(x)
    weight, bias = attention.qkv.weight[:, :, 0, 0], attention.qkv.bias
    q, k, v = (torch.einsum("oc,bchw->bohw", weight, normed) + bias[:, None, None]).chunk(3, dim=1)
    heads = []
    for channels in (slice(0, 4), slice(4, 8)):
        scores = torch.einsum("bcij,bckl->bijkl", q[:, channels], k[:, channels]) / math.sqrt(4)
        shares = scores.flatten(3).softmax(3).reshape(scores.shape)
        heads.append(torch.einsum("bijkl,bckl->bcij", shares, v[:, channels]))
    torch.testing.assert_close(found, x + attention.out(torch.cat(heads, 1)))


def test_time_embedding_is_sines_and_cosines() -> None:
    t = torch.tensor([0, 1, 999])
    found = timestep_embedding(t, 9).double()
    assert found.shape == (3, 9)
    for row, time in enumerate(t.tolist()):
        angles = [time * 10_000 ** (-k / 4) for k in range(4)]
        expected = [*map(math.sin, angles), *map(math.cos, angles), 0.0]
        assert found[row].tolist() == pytest.approx(expected, abs=1e-4)


# -- dropout -----------------------------------------------------------------------------------------


def test_rows_wear_the_masks_they_are_told_to() -> None:
    dropout = RowDropout(0.25)
    torch.manual_seed(0)
    rows = torch.tensor([0, 1, 2, 1, 1])
    out = dropout(torch.full((5, 4, 32, 32), 2.0), rows)
    assert torch.equal(out[3], out[1])
    assert torch.equal(out[4], out[1])
    assert not torch.equal(out[0], out[1])
    assert not torch.equal(out[2], out[1])
    values = out[:3].unique().tolist()
    assert values == pytest.approx([0, 2 / 0.75])
    share = (out[:3] == 0).float().mean().item()
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / out[:3].numel()) ** 0.5)


def test_dropout_is_off_in_evaluation_and_on_in_training() -> None:
    network = awake(UNet(SMALL, (1, 8, 8), 3))
    same = torch.zeros(2, dtype=torch.int64)
    x_t, t, labels = (part[same] for part in inputs())  # one image twice
    torch.manual_seed(0)
    for rows, equal in ((None, False), (torch.tensor([0, 1]), False), (same, True)):
        first, second = network.train()(x_t, t, labels, rows)
        assert ((first - second).abs().max() < 1e-5).item() == equal
    silent = network.eval()(x_t, t, labels)
    assert torch.equal(network(x_t, t, labels, same), silent)
    assert not torch.equal(network.train()(x_t, t, labels, same), silent)


# -- further conditions of the network ----------------------------------------------------------------


def test_augmentation_is_heard_and_zeros_say_nothing() -> None:
    network = UNet(SMALL, (1, 8, 8), 3)
    network.add_augmentation_conditioning(9)
    awake(network).eval()
    numbers = torch.eye(3, 9)
    unconditioned = network(*inputs())
    conditioned = network(*inputs(), augmentation=numbers)
    assert (conditioned - unconditioned).abs().amax((1, 2, 3)).min() > 1e-3
    assert torch.equal(network(*inputs(), augmentation=0 * numbers), unconditioned)
    assert network.augmentation.bias is None  # so that a network for sampling can go without


def test_omega_is_heard_where_it_is_told() -> None:
    config = SMALL.model_copy(update={"guidance_embedding": True})
    network = awake(UNet(config, (1, 8, 8), 3)).eval()
    unconditioned = network(*inputs())
    assert torch.equal(network(*inputs(), omega=torch.full((3,), -1.0)), unconditioned)
    conditioned = network(*inputs(), omega=torch.tensor([0.0, -1.0, 1.0]))
    apart = (conditioned - unconditioned).abs().amax((1, 2, 3))
    assert apart[0] > 1e-3  # 0 is an input too: the plain prediction is to be learnt
    assert apart[1] < 1e-5
    assert apart[2] > 1e-3
    near, far = (network(*inputs(), omega=torch.full((3,), w)) for w in (0.3, 0.8))
    assert (near - far).abs().amax((1, 2, 3)).min() > 1e-3


# -- theta and theta_g in one pass -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "layers", ["up", "middle", "conv_out", "down", "embedding", "up.*.attention"]
)
@pytest.mark.parametrize("general", [1, 2, 3])
def test_one_pass_predicts_by_theta_and_by_theta_g(layers: str, general: int) -> None:
    network = UNet(SMALL, (1, 8, 8), 3)
    network.add_augmentation_conditioning(2)
    add_parts(network, "expert", LowRankConfig(layers=(layers,), rank=1), "where")
    awake(network).eval()
    conditioned = {"augmentation": torch.arange(6.0).reshape(3, 2)}
    both = network(*inputs(), **conditioned, num_general=general)
    assert both.shape == (3 + general, 1, 8, 8)
    assert torch.equal(both[:3], network(*inputs(), **conditioned))
    with theta_g(network):
        expected = network(*inputs(), **conditioned)[:general]
    torch.testing.assert_close(both[3:], expected, rtol=1e-4, atol=1e-5)
    assert (both[3:] - both[:general]).abs().amax((1, 2, 3)).min() > 1e-3


def test_theta_g_of_a_network_without_experts_is_a_mistake() -> None:
    network = UNet(SMALL, (1, 8, 8), 3)
    add_parts(network, "general", LowRankConfig(layers=("up",), rank=1), "where")
    with pytest.raises(ValueError, match="no layer has an expert part"):
        network(*inputs(), num_general=3)


# -- precision and errors ------------------------------------------------------------------------------


def test_bfloat16_autocast_runs_forwards_and_backwards() -> None:
    network = awake(UNet(SMALL, (1, 8, 8), 3)).eval()
    exact = network(*inputs()).detach()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(*inputs())
    output.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert 0 < (output.float() - exact).norm() / exact.norm() < 0.05


def test_an_empty_batch_passes() -> None:
    """Under ZeRO 3 every worker goes through the network, also one with no rows to offer."""
    network = awake(UNet(SMALL, (1, 8, 8), 3))
    assert network(*(part[:0] for part in inputs())).shape == (0, 1, 8, 8)


@pytest.mark.parametrize(
    "changes", [{"norm_groups": 3}, {"attention_heads": 3}, {"base_channels": 12}]
)
def test_sizes_that_do_not_divide_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="not divisible"):
        UNetConfig.model_validate({**SMALL.model_dump(), "norm_groups": 8, **changes})


@pytest.mark.parametrize("shape", [(1, 9, 8), (1, 8, 10)])
def test_images_that_cannot_be_halved_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be halved 2 times"):
        UNet(SMALL.model_copy(update={"channel_mult": (1, 1, 1)}), shape, 3)


def test_attention_where_no_level_is_is_refused() -> None:
    config = SMALL.model_copy(update={"attention_resolutions": (16,)})
    with pytest.raises(ValueError, match=r"attention_resolutions \[16\] .* heights \[8, 4\]"):
        UNet(config, (1, 8, 8), 3)
