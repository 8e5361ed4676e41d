"""Low-rank parts: where they go, of what rank, and that merging them changes nothing."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from support.objectives import awake
from torch import Tensor, nn

from whipray.trainers.errors import UsageProblem
from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.networks.low_rank import (
    LowRankConfig,
    LowRankPart,
    add_parts,
    has_expert,
    merge,
    theta_g,
)

SMALL = UNetConfig(
    base_channels=8,
    channel_mult=(1, 2),
    blocks_per_level=1,
    attention_resolutions=(4,),
    norm_groups=4,
    dropout=0.3,
)
LAYERS = [
    ("up",),
    ("*",),
    ("conv_out", "middle.*.attention.*", "embedding", "down.2.shortcut", "conv_in"),
]


def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(SMALL, (3, 8, 8), 3)


def ranked(*layers: str, rank: float = 1) -> LowRankConfig:
    return LowRankConfig(layers=layers, rank=rank)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    x_t = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return x_t, torch.arange(3) * 300, torch.arange(3) - 1


def parts_of(network: nn.Module) -> dict[str, LowRankPart]:
    return {name: m for name, m in network.named_modules() if isinstance(m, LowRankPart)}


# -- size ---------------------------------------------------------------------------------------------------


def test_the_paper_reserves_63_matrices_and_2_5_million_numbers() -> None:
    with torch.device("meta"):
        network = UNet(UNetConfig(), (3, 32, 32), 100)
        before = sum(p.numel() for p in network.up.parameters() if p.ndim > 1)
        add_parts(network, "expert", LowRankConfig(), "objective.reserve")
    parts = parts_of(network).values()
    added = sum(p.numel() for part in parts for p in part.parameters())
    assert sum(len(part.a) for part in parts) == 63
    assert before == pytest.approx(22.3e6, rel=5e-3)
    assert added == pytest.approx(2.5e6, rel=0.02)
    assert added / before == pytest.approx(0.113, abs=5e-4)
    assert {part.a.shape[1] for part in parts} == {12, 25}  # a tenth of 128 and of 256


def test_q_k_and_v_are_three_matrices_and_a_kernel_is_c_out_by_the_rest() -> None:
    network = unet()
    add_parts(network, "expert", ranked("up.0", rank=2), "where")
    shapes = {
        name: (tuple(part.b.shape), tuple(part.a.shape)) for name, part in parts_of(network).items()
    }
    assert shapes["up.0.attention.qkv.parts.expert"] == ((3, 16, 2), (3, 2, 16))
    assert shapes["up.0.conv_1.parts.expert"] == ((1, 16, 2), (1, 2, 32 * 9))
    assert shapes["up.0.project.parts.expert"] == ((1, 16, 2), (1, 2, 32))


@pytest.mark.parametrize(
    ("rank", "d", "k", "r"),
    [
        (0.1, 128, 1152, 12),
        (0.1, 256, 128, 12),
        (0.1, 9, 90, 1),
        (0.29, 100, 100, 29),
        (3, 4, 8, 3),
    ],
)
def test_rank_is_a_share_rounded_down_or_a_number(rank: float, d: int, k: int, r: int) -> None:
    assert LowRankConfig(rank=rank).rank_of(d, k) == r


# -- what a layer computes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", LAYERS)
def test_nothing_changes_at_first(layers: tuple[str, ...]) -> None:
    network = awake(unet()).eval()
    expected = network(*inputs())
    add_parts(network, "general", ranked(*layers, rank=2), "where")
    add_parts(network, "expert", ranked(*layers, rank=1), "where")
    assert torch.equal(network(*inputs()), expected)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("general", [False, True])
def test_merging_changes_no_output_and_leaves_a_plain_unet(
    layers: tuple[str, ...], general: bool
) -> None:
    network, plain = unet(), unet().eval()
    if general:
        add_parts(network, "general", ranked("*", rank=0.9), "pretrained.lora")
    add_parts(network, "expert", ranked(*layers), "objective.reserve")
    awake(network).eval()
    found = {}
    for general_only in (False, True):
        tensors = {name: p.detach() for name, p in network.named_parameters()}
        weights = merge(tensors, general_only=general_only)
        assert [(name, w.shape) for name, w in weights.items()] == [
            (name, w.shape) for name, w in plain.state_dict().items()
        ]
        plain.load_state_dict(weights)
        found[general_only] = plain(*inputs())
    assert torch.equal(found[False], network(*inputs()))
    with theta_g(network):
        assert torch.equal(found[True], network(*inputs()))
    assert torch.equal(found[False], network(*inputs()))  # and out again
    assert (found[False] - found[True]).norm() > 1e-3 * found[True].norm()


def test_parts_are_products_added_to_the_matrix() -> None:
    """W + B^g A^g + B^e A^e, each product in float64, one of q, k and v after the other."""
    network = unet()
    add_parts(network, "general", ranked("up.0.attention.qkv", rank=3), "where")
    add_parts(network, "expert", ranked("up.0.attention.qkv", rank=2), "where")
    awake(network)
    tensors = {name: p.detach().double() for name, p in network.named_parameters()}
    layer = "up.0.attention.qkv"
    for general_only in (False, True):
        expected = tensors[f"{layer}.weight"][:, :, 0, 0].clone()
        for part in ("general",) if general_only else ("general", "expert"):
            b, a = tensors[f"{layer}.parts.{part}.b"], tensors[f"{layer}.parts.{part}.a"]
            expected += torch.cat([b[m] @ a[m] for m in range(3)])
        merged = merge(tensors, general_only=general_only)[f"{layer}.weight"][:, :, 0, 0]
        torch.testing.assert_close(merged, expected)


def test_the_first_gradient_moves_b_and_nothing_is_frozen() -> None:
    network = unet()
    add_parts(network, "expert", ranked("up"), "where")
    for name, p in network.named_parameters():
        if ".parts." not in name:
            nn.init.normal_(p, std=0.3)
    network.eval()(*inputs()).square().mean().backward()
    for name, part in parts_of(network).items():
        bound = part.a.shape[2] ** -0.5  # LoRA's: Kaiming's uniform bound with a = sqrt 5
        assert bound / 2 < part.a.abs().max() <= bound, name
        assert part.b.grad.count_nonzero() > 0, name
        assert part.a.grad.count_nonzero() == 0, name
    assert all(p.grad is not None for p in network.parameters())


# -- which layers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("conv_out", ["conv_out.2"]),
        ("up.*.attention.*", ["up.0.attention.out", "up.0.attention.qkv"]),
        ("up.0.atten*", ["up.0.attention.out", "up.0.attention.qkv"]),
        ("up.*.attention", ["up.0.attention.out", "up.0.attention.qkv"]),
        ("middle.1", ["middle.1.conv_1", "middle.1.conv_2", "middle.1.project"]),
        ("conv_in", ["conv_in"]),
    ],
)
def test_layers_are_named_or_matched(pattern: str, found: list[str]) -> None:
    network = unet()
    chosen = add_parts(network, "expert", ranked(pattern), "where")
    if pattern.startswith("up"):
        chosen = [name for name in chosen if name.startswith("up.0.")]
    assert chosen == found
    assert has_expert(network)
    assert not has_expert(network.down)


def test_a_star_is_every_linear_and_conv() -> None:
    network = unet()
    every = {n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert set(add_parts(network, "expert", ranked("*"), "where")) == every
    after = {n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert after == every


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ranked("up", "attic"), r"reserve\.layers: attic matches no layer .*give one of .*middle"),
        (ranked("up.*.attn.*"), r"reserve\.layers: up\.\*\.attn\.\* matches no layer"),
        (ranked("labels"), r"labels matches no layer"),  # a table, not a matrix product
        (ranked("up", rank=17), r"reserve\.rank 17 is above min\(d, k\) = (8|16) of layer up\."),
        (ranked("conv_out", rank=4), r"rank 4 is above min\(d, k\) = 3 of layer conv_out\.2"),
    ],
)
def test_layers_and_ranks_that_cannot_be_are_refused(config: LowRankConfig, message: str) -> None:
    with pytest.raises(UsageProblem, match=message) as problem:
        add_parts(unet(), "expert", config, "objective.reserve")
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("rank", [3, 4, 0.9])
def test_an_expert_is_of_lower_rank_than_its_general_part(rank: float) -> None:
    network = unet()
    add_parts(network, "general", ranked("up", rank=3), "pretrained.lora")
    add_parts(network, "expert", ranked("up", rank=2), "objective.reserve")
    network = unet()
    add_parts(network, "general", ranked("up", rank=3), "pretrained.lora")
    message = r"objective\.reserve\.rank \d+ is not below LoRA's 3 .*pretrained\.lora\.rank"
    with pytest.raises(UsageProblem, match=message):
        add_parts(network, "expert", ranked("up", rank=rank), "objective.reserve")


@pytest.mark.parametrize("rank", [0, -1, 1.0, 2.5, 0.0, -0.1, "a"])
def test_a_rank_is_a_whole_number_or_a_share(rank: object) -> None:
    with pytest.raises(ValidationError):
        LowRankConfig.model_validate({"rank": rank})
