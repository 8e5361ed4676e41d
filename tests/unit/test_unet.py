"""The U-Net: its size, and its parts against their formulas; what every network keeps is in test_network_contract."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.networks.base import timestep_embedding
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
