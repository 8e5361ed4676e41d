"""DDPM++: its size as published, and its output against a reading of its own in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from whipray.trainers.networks import DDPMPP, DDPMPPConfig
from whipray.trainers.networks.ddpmpp import Attention

SMALL = DDPMPPConfig(
    base_channels=20,
    channel_mult=(1, 2, 1),
    blocks_per_level=2,
    attention_resolutions=(4, 8),
    dropout=0,
)
CLASSES = 3
SIDE = 16


def awake(network: DDPMPP) -> DDPMPP:
    """Random weights everywhere: the initial ones silence most layers."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
    return network


@pytest.mark.parametrize(
    ("channel_mult", "side", "published", "attention"),
    [((2, 2, 2), 32, 55_733_891, 4 + 1 + 1), ((1, 2, 2, 2), 64, 61_805_571, 4 + 1 + 1)],
)
def test_published_sizes(
    channel_mult: tuple[int, ...], side: int, published: int, attention: int
) -> None:
    """Published without labels and with nine augmentation numbers: 55.7 M at 32 px, 61.8 M at 64 px."""
    with torch.device("meta"):
        network = DDPMPPConfig(channel_mult=channel_mult).build((3, side, side), 10)
        network.add_augmentation_conditioning(9)
    counts = {name: p.numel() for name, p in network.named_parameters()}
    assert counts.pop("labels.weight") == 10 * 128
    assert sum(counts.values()) == published
    # of the blocks at height 16: all on the way down, the last on the way up; and the middle's first
    assert sum(isinstance(module, Attention) for module in network.modules()) == attention


class Reading:
    """DDPM++ in float64, written from the papers for this test, on the weights of a network."""

    def __init__(self, network: DDPMPP) -> None:
        self.w = {name: p.detach().double() for name, p in network.state_dict().items()}

    def affine(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def conv(self, x: Tensor, name: str) -> Tensor:
        """Zero padding; the kernel's offsets one by one."""
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        reach = weight.shape[-1] // 2
        height, width = x.shape[-2:]
        padded = F.pad(x, (reach,) * 4)
        total = bias[None, :, None, None]
        for i in range(weight.shape[-2]):
            for j in range(weight.shape[-1]):
                window = padded[:, :, i : i + height, j : j + width]
                total = total + torch.einsum("oc,bchw->bohw", weight[:, :, i, j], window)
        return total

    def norm(self, x: Tensor, name: str) -> Tensor:
        """At most 32 groups of at least 4 channels, variance + 1e-6."""
        b, c, height, width = x.shape
        groups = min(32, c // 4)
        grouped = x.reshape(b, groups, -1)
        mean = grouped.mean(2, keepdim=True)
        variance = ((grouped - mean) ** 2).mean(2, keepdim=True)
        scaled = ((grouped - mean) / (variance + 1e-6).sqrt()).reshape(b, c, height, width)
        shape = (1, c, 1, 1)
        return scaled * self.w[f"{name}.weight"].view(shape) + self.w[f"{name}.bias"].view(shape)

    def block(self, x: Tensor, e: Tensor, name: str, change: str = "") -> Tensor:
        def resampled(h: Tensor) -> Tensor:
            if change == "half":
                corners = [h[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
                return sum(corners) / 4
            return h.repeat_interleave(2, 2).repeat_interleave(2, 3) if change == "double" else h

        h = self.conv(resampled(silu(self.norm(x, f"{name}.norm_1"))), f"{name}.conv_1")
        h = h + self.affine(e, f"{name}.project")[:, :, None, None]
        h = self.conv(silu(self.norm(h, f"{name}.norm_2")), f"{name}.conv_2")
        x = resampled(x)
        if f"{name}.shortcut.weight" in self.w:
            x = self.conv(x, f"{name}.shortcut")
        x = (x + h) / math.sqrt(2)
        if f"{name}.attention.qkv.weight" in self.w:
            b, c, height, width = x.shape
            normed = self.norm(x, f"{name}.attention.norm")
            q, k, v = self.conv(normed, f"{name}.attention.qkv").flatten(2).chunk(3, dim=1)
            shares = (q.transpose(1, 2) @ k / math.sqrt(c)).softmax(-1)  # (B, HW of q, HW of k)
            mixed = (v @ shares.transpose(1, 2)).reshape(b, c, height, width)
            x = (x + self.conv(mixed, f"{name}.attention.out")) / math.sqrt(2)
        return x

    def embedding(self, time: Tensor, label: int, numbers: Tensor) -> Tensor:
        """Of one row: (1, 4 base)."""
        base = SMALL.base_channels
        angles = [float(time) * 10_000 ** (-k / (base // 2 - 1)) for k in range(base // 2)]
        e = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)
        if label >= 0:
            one_hot = torch.eye(CLASSES, dtype=torch.float64)[label] * math.sqrt(CLASSES)
            e = e + one_hot @ self.w["labels.weight"]
        e = e + self.w["augmentation.weight"] @ numbers.double()
        e = silu(self.affine(e[None], "embedding.0"))
        return silu(self.affine(e, "embedding.2"))

    def __call__(self, x: Tensor, time: Tensor, label: int, numbers: Tensor) -> Tensor:
        """Of one row: x (1, C, H, W). Levels of 20, 40 and 20 channels, two blocks each."""
        e = self.embedding(time, label, numbers)
        h = self.conv(x.double(), "conv_in")
        skips = [h]
        for i, change in enumerate(["", "", "half", "", "", "half", "", ""]):
            h = self.block(h, e, f"down.{i}", change)
            skips.append(h)
        h = self.block(self.block(h, e, "middle.0"), e, "middle.1")
        for i, change in enumerate(["", "", "", "double", "", "", "", "double", "", "", ""]):
            if not change:
                h = torch.cat([h, skips.pop()], 1)
            h = self.block(h, e, f"up.{i}", change)
        assert not skips
        return self.conv(silu(self.norm(h, "conv_out.0")), "conv_out.2")


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def test_output_is_that_of_the_papers_network() -> None:
    network = SMALL.build((2, SIDE, SIDE), CLASSES)
    network.add_augmentation_conditioning(9)
    awake(network).eval()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 2, SIDE, SIDE, generator=generator)
    time, labels = torch.tensor([-1.55, 0.3, 700.0]), torch.tensor([2, -1, 0])
    numbers = torch.randn(3, 9, generator=generator)
    output = network(x, time, labels, augmentation=numbers)
    reading = Reading(network)
    for i, label in enumerate(labels.tolist()):
        expected = reading(x[[i]], time[i], label, numbers[i])
        assert expected.std() > 0.1
        torch.testing.assert_close(output[[i]].double(), expected, rtol=0, atol=2e-4)


def test_attention_is_where_the_papers_have_it() -> None:
    network = SMALL.build((2, SIDE, SIDE), CLASSES)
    places = [
        name.removesuffix(".attention")
        for name, module in network.named_modules()
        if isinstance(module, Attention)
    ]
    down = ["down.3", "down.4", "down.6", "down.7"]  # both blocks at heights 8 and 4
    assert places == [*down, "middle.0", "up.2", "up.6"]  # the last block of each level


def test_initial_weights() -> None:
    """Xavier's uniform; times 1e-5 where a branch ends, times sqrt .2 for q, k and v together."""
    torch.manual_seed(0)
    network = DDPMPPConfig(blocks_per_level=1).build((3, 32, 32), 100)
    weights = network.state_dict()
    for name, fans, gain in (
        ("down.0.conv_1", 9 * (128 + 256), 1),
        ("down.0.shortcut", 128 + 256, 1),
        ("down.0.project", 512 + 256, 1),
        ("down.0.conv_2", 9 * (256 + 256), 1e-5),
        ("middle.0.attention.qkv", 256 + 3 * 256, 0.2**0.5),
        ("middle.0.attention.out", 256 + 256, 1e-5),
        ("conv_out.2", 9 * (256 + 3), 1e-5),
        ("labels", 100 + 128, 1),
        ("embedding.2", 512 + 512, 1),
    ):
        bound = gain * (6 / fans) ** 0.5
        weight = weights[f"{name}.weight"]
        assert weight.abs().max().item() == pytest.approx(bound, rel=0.01), name
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03), name
        if name != "labels":
            assert not weights[f"{name}.bias"].any(), name


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((1, 18, 16), "18x16 image cannot be halved 2 times: use fewer entries in model.channel_m"),
        ((1, 64, 64), r"attention_resolutions \[4, 8\] are none of the levels' heights \[64, 32, "),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shape: tuple[int, int, int], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        SMALL.build(shape, CLASSES)
