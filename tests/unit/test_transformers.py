"""DiT and GenViT: their published sizes, their parts against their formulas, and images that do not fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.objectives import awake
from torch import Tensor, nn

from whipray.trainers.errors import UsageProblem
from whipray.trainers.networks import DiTConfig, Network, ViTConfig, dit, vit
from whipray.trainers.networks.low_rank import LowRankConfig, LowRankPart, add_parts
from whipray.trainers.networks.transformer import (
    Attention,
    TransformerConfig,
    to_images,
    to_patches,
)
from whipray.trainers.objectives import CALLConfig

DIT = DiTConfig(patch_size=2, width=16, depth=4, heads=2)
VIT = ViTConfig(patch_size=2, width=16, depth=4, heads=2)
BOTH = pytest.mark.parametrize("config", [DIT, VIT], ids=lambda c: c.name)
SHAPE = (2, 4, 8)  # 2 rows and 4 columns of patches
CLASSES_OF_GENVIT = 2 * 384 + 384 * 10 + 10  # its head for classes, LayerNorm and Linear


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def inputs(rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return numbers(rows, *SHAPE), torch.arange(rows) * 300.0, torch.arange(rows) - 1


def small(config: TransformerConfig) -> Network:
    network = config.build(SHAPE, 3)
    awake(network)
    return network.eval()


# -- published sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "patch_size", "released"), [(32, 4, 11_185_068), (128, 8, 17_109_948)]
)
def test_genvit_has_the_parameters_of_the_released_one(
    side: int, patch_size: int, released: int
) -> None:
    """Numbers of parameters as the logs of the released code for CIFAR-10 and CelebA have them."""
    with torch.device("meta"):
        network = ViTConfig(patch_size=patch_size).build((3, side, side), 100)
    counts = {name: p.numel() for name, p in network.named_parameters()}
    tokens = (side // patch_size) ** 2 + 1
    assert counts.pop("labels.weight") == 100 * 4 * tokens
    assert sum(counts.values()) == released - CLASSES_OF_GENVIT


@pytest.mark.parametrize(
    ("width", "depth", "heads", "millions"),
    [(384, 12, 6, 33), (768, 12, 12, 130), (1024, 24, 16, 458), (1152, 28, 16, 675)],
)
def test_dit_has_the_parameters_of_the_paper(
    width: int, depth: int, heads: int, millions: int
) -> None:
    """Peebles & Xie, table 4: DiT-S, B, L and XL."""
    with torch.device("meta"):
        network = DiTConfig(width=width, depth=depth, heads=heads).build((4, 32, 32), 1000)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions


def test_the_defaults_of_dit_are_those_of_s_2() -> None:
    config = DiTConfig()
    assert (config.patch_size, config.width, config.depth, config.heads) == (2, 384, 12, 6)


# -- patches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "size"), [((3, 6, 4), 2), ((1, 4, 12), 4), ((2, 3, 2), 1)])
def test_patches_are_squares_of_the_image_row_by_row(
    shape: tuple[int, int, int], size: int
) -> None:
    images = numbers(2, *shape)
    patches = to_patches(images, size)
    rows, columns = shape[1] // size, shape[2] // size
    assert patches.shape == (2, rows * columns, size * size * shape[0])
    for row in range(rows):
        for column in range(columns):
            square = images[..., row * size : (row + 1) * size, column * size :][..., :size]
            expected = square.permute(0, 2, 3, 1).flatten(1)  # channels last
            assert torch.equal(patches[:, row * columns + column], expected)
    assert torch.equal(to_images(patches, size, shape), images)
    assert torch.equal(
        to_patches(images.contiguous(memory_format=torch.channels_last), size), patches
    )


def test_positions_are_sines_and_cosines_of_column_and_row() -> None:
    rows, columns, width = 3, 5, 24
    found = dit.sin_cos_positions(rows, columns, width)
    assert found.shape == (rows * columns, width)
    for row in range(rows):
        for column in range(columns):
            expected = []
            for place in (column, row):
                angles = [place / 10_000 ** (4 * k / width) for k in range(width // 4)]
                expected += [*map(math.sin, angles), *map(math.cos, angles)]
            assert found[row * columns + column].tolist() == pytest.approx(expected, abs=1e-7)


def without_positions(network: Network) -> Network:
    """The same, which has no means to tell patches apart: neither positions nor their own scales."""
    with torch.no_grad():
        network.patch_in.positions.zero_()
        for block in network.blocks:
            if isinstance(block, vit.Block):
                block.time.weight.zero_()
                block.time.bias.zero_()
    return network


@BOTH
@pytest.mark.parametrize("positions", [False, True])
def test_patches_are_told_apart_by_their_positions_only(
    config: TransformerConfig, positions: bool
) -> None:
    network = small(config) if positions else without_positions(small(config))
    x_t, time, labels = inputs()
    order = torch.tensor([3, 0, 7, 1, 2, 5, 4, 6])
    shuffled = to_images(to_patches(x_t, 2)[:, order], 2, SHAPE)
    found = to_patches(network(shuffled, time, labels), 2)
    expected = to_patches(network(x_t, time, labels), 2)[:, order]
    apart = ((found - expected).norm() / expected.norm()).item()
    assert apart > 0.01 if positions else apart < 1e-5


# -- formulas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_attention_is_softmax_of_scaled_products(qkv_bias: bool) -> None:
    attention = awake(Attention(DIT, qkv_bias=qkv_bias)).double().eval()
    x = numbers(3, 5, 16).double()
    bias = attention.qkv.bias if qkv_bias else 0
    q, k, v = (x @ attention.qkv.weight.T + bias).chunk(3, dim=-1)
    heads = []
    for own in (slice(0, 8), slice(8, 16)):
        scores = q[..., own] @ k[..., own].transpose(1, 2) / math.sqrt(8)
        heads.append(scores.softmax(-1) @ v[..., own])
    expected = torch.cat(heads, -1) @ attention.out.weight.T + attention.out.bias
    torch.testing.assert_close(attention(x, None), expected)


def standardised(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def swish(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def test_a_block_of_dit_is_adaln_zero() -> None:
    block = awake(dit.Block(DIT)).double().eval()
    x, c = numbers(3, 8, 16).double(), numbers(3, 16).double()
    found = block(x, c, None)
    modulation = swish(c) @ block.modulation.weight.T + block.modulation.bias
    beta_1, gamma_1, alpha_1, beta_2, gamma_2, alpha_2 = modulation[:, None].split(16, dim=-1)
    x = x + alpha_1 * block.attention(standardised(x, 1e-6) * (1 + gamma_1) + beta_1, None)
    h = standardised(x, 1e-6) * (1 + gamma_2) + beta_2
    h = h @ block.mlp.linear_1.weight.T + block.mlp.linear_1.bias
    h = h / 2 * (1 + (math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)).tanh())
    assert h.shape[-1] == 4 * 16
    expected = x + alpha_2 * (h @ block.mlp.linear_2.weight.T + block.mlp.linear_2.bias)
    torch.testing.assert_close(found, expected)


def test_a_block_of_genvit_scales_and_shifts_whole_tokens_twice() -> None:
    block = awake(vit.Block(VIT, 9)).double().eval()
    x, c = numbers(3, 9, 16).double(), numbers(3, 36).double()
    found = block(x, c, None)
    scale, shift = (swish(c) @ block.time.weight.T + block.time.bias)[..., None].split(9, dim=1)
    x = x * (1 + scale) + shift
    h = standardised(x, 1e-5) * block.norm_1.weight + block.norm_1.bias
    x = x + block.attention(h, None)
    x = x * (1 + scale) + shift
    h = standardised(x, 1e-5) * block.norm_2.weight + block.norm_2.bias
    h = h @ block.mlp.linear_1.weight.T + block.mlp.linear_1.bias
    h = h / 2 * (1 + (h / math.sqrt(2)).erf())
    assert h.shape[-1] == 2 * 16
    expected = x + h @ block.mlp.linear_2.weight.T + block.mlp.linear_2.bias
    torch.testing.assert_close(found, expected)


def test_dit_begins_as_the_identity_and_its_output_as_zero() -> None:
    torch.manual_seed(0)
    network = DIT.build(SHAPE, 3)
    x = numbers(3, 8, 16)
    for block in network.blocks:
        assert torch.equal(block(x, numbers(3, 16), None), x)
    assert network(*inputs()).count_nonzero() == 0
    assert awake(network)(*inputs()).count_nonzero() == 3 * math.prod(SHAPE)


@pytest.mark.parametrize("name", ["dit", "vit"])
def test_initial_weights_are_the_published_ones(name: str) -> None:
    torch.manual_seed(0)
    config: Any = DiTConfig(depth=3) if name == "dit" else ViTConfig(depth=3)
    network = config.build((3, 32, 32), 100)
    block = network.blocks[1]
    xavier = (2 / (384 + 3 * 384)) ** 0.5  # q, k and v as one matrix
    weight = block.attention.qkv.weight
    assert weight.std().item() == pytest.approx(xavier, rel=0.01)
    uniform = weight.abs().max().item() <= 3**0.5 * xavier  # DiT's; GenViT's are normal
    assert uniform == (name == "dit")
    if name == "dit":
        for module in (network.embedding[0], network.embedding[2]):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert network.labels.weight.std().item() == pytest.approx(0.02, rel=0.02)
    biases = [m.bias for m in network.modules() if isinstance(m, nn.Linear) and m.bias is not None]
    assert all(bias.count_nonzero() == 0 for bias in biases)


def test_fixed_positions_are_no_weights() -> None:
    assert "patch_in.positions" not in DIT.build(SHAPE, 3).state_dict()
    assert "patch_in.positions" in VIT.build(SHAPE, 3).state_dict()  # learned


# -- low-rank parts and CALL ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "down", "middle", "up"),
    [(3, [0], [1], [2]), (4, [0], [1, 2], [3]), (9, [*range(4)], [4], [*range(5, 9)])],
)
@BOTH
def test_groups_are_the_first_the_central_and_the_last_blocks(
    config: TransformerConfig, depth: int, down: list[int], middle: list[int], up: list[int]
) -> None:
    for group, expected in (("down", down), ("middle", middle), ("up", up)):
        network = config.model_copy(update={"depth": depth}).build(SHAPE, 3)
        layers = add_parts(network, "expert", LowRankConfig(layers=(group,)), "where")
        assert {layer.rpartition("blocks.")[2].partition(".")[0] for layer in layers} == {
            str(block) for block in expected
        }
        of_a_block = [layer for layer in layers if layer.startswith(f"blocks.{expected[0]}.")]
        assert len(of_a_block) == 5  # qkv, out, the two of the MLP, and modulation or time
        part = network.get_submodule(f"blocks.{expected[0]}.attention.qkv.parts.expert")
        assert isinstance(part, LowRankPart)
        assert tuple(part.b.shape) == (3, 16, 1)  # q, k and v are three matrices


@BOTH
def test_theta_and_theta_g_share_all_blocks_before_the_reserved_ones(
    config: TransformerConfig,
) -> None:
    network = config.build(SHAPE, 3)
    CALLConfig().prepare(network)
    awake(network)
    rows_seen: list[list[int]] = [[] for _ in network.blocks]
    for block, rows in zip(network.blocks, rows_seen, strict=True):
        block.register_forward_pre_hook(lambda _, args, rows=rows: rows.append(len(args[0])))
    network(*inputs(), num_general=2)
    assert rows_seen == [[3], [3], [3], [3, 2]]


# -- what does not fit ---------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("shape", "fitting"), [((1, 8, 8), "1, 2, 4, 8"), ((3, 12, 32), "1, 2, 4")]
)
def test_a_patch_that_does_not_divide_the_image_is_refused(
    config: TransformerConfig, shape: tuple[int, int, int], fitting: str
) -> None:
    message = (
        rf"model\.patch_size 3 does not divide images of {shape[1]}x{shape[2]}: "
        rf"set it to one of {fitting}$"
    )
    with pytest.raises(ValueError, match=message):
        config.model_copy(update={"patch_size": 3}).build(shape, 3)


@pytest.mark.parametrize("model", [DiTConfig, ViTConfig])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "width 384 is not divisible by heads 5"),
        ({"patch_size": 0}, "greater than or equal to 1"),
        ({"depth": 2}, "greater than or equal to 3"),
        ({"mlp_ratio": 0}, "greater than 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(
    model: type[TransformerConfig], changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        model.model_validate({"name": model.__name__[:3].lower(), **changes})


def test_a_width_without_positions_is_refused() -> None:
    with pytest.raises(ValidationError, match="width 6 is not divisible by 4"):
        DiTConfig(width=6, heads=2)


@BOTH
def test_a_layer_or_rank_that_does_not_fit_is_refused(config: TransformerConfig) -> None:
    network = config.build(SHAPE, 3)
    with pytest.raises(UsageProblem, match=r"conv_out matches no layer.*give one of .*up"):
        add_parts(network, "expert", LowRankConfig(layers=("conv_out",)), "objective.reserve")
    with pytest.raises(UsageProblem, match=r"rank 17 is above min\(d, k\) = 16 of layer blocks\.3"):
        add_parts(network, "expert", LowRankConfig(layers=("up",), rank=17), "objective.reserve")
