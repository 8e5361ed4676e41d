"""The U-Net of DDPM (Ho et al. 2020, appendix B) with a label embedding, as CBDM and OC use it.

At the CIFAR size (base 128, mult 1 2 2 2, 2 blocks a level, attention at 16x16) it has 35.7 M
parameters. A label's embedding is added to the time embedding; the null label adds nothing.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from .base import Network, NetworkConfig, Stage, State, timestep_embedding
from .dropout import RowDropout
from .layers import check_levels, conv


class UNetConfig(NetworkConfig):
    """Size of the U-Net; the defaults are those of the papers for 32x32 images."""

    name: Literal["unet"] = "unet"
    base_channels: int = Field(128, ge=2)
    """Channels of the first level."""
    channel_mult: tuple[int, ...] = Field((1, 2, 2, 2), min_length=1)
    """Channels of each level, as multiples of the base; each further level halves the resolution."""
    blocks_per_level: int = Field(2, ge=1)
    attention_resolutions: tuple[int, ...] = (16,)
    """Image heights at which blocks have self-attention; the middle always has it."""
    attention_heads: int = Field(1, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    norm_groups: int = Field(32, ge=1)
    """Groups of each GroupNorm; must divide every level's channels."""
    initial_weights: Literal["ddpm", "released"] = "ddpm"
    """Of attention and of the augmentation's embedding; all others are the same. ddpm: as Ho et al. have
    it, q, k and v at unit gain and the output at about 0, so that attention adds nothing at first, as
    every other residual branch. released: as the released code of CBDM and OC, whose blocks initialise
    their attention a second time and set its output to unit gain too; and the embedding of nine
    augmentation numbers three times as large. Neither was seen to be better in 250 steps on digits; what
    300,000 make of it is not known, so recipes that name these papers' tables have theirs."""

    @model_validator(mode="after")
    def _divisible(self) -> UNetConfig:
        for mult in self.channel_mult:
            channels = self.base_channels * mult
            if channels % self.norm_groups or channels % self.attention_heads:
                raise ValueError(
                    f"{channels} channels are not divisible by norm_groups {self.norm_groups} "
                    f"and attention_heads {self.attention_heads}"
                )
        return self

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> UNet:
        """Build the network; see `NetworkConfig`."""
        return UNet(self, image_shape, num_classes)


class UNet(Network):
    """A U-Net over (B, C, H, W) images; H and W are divisible by 2^(levels - 1).

    Args:
        config: sizes.
        image_shape: (C, H, W).
        num_classes: labels are in [0, num_classes); negative ones are null.

    Raises:
        ValueError: an image size that does not fit the levels.
    """

    def __init__(
        self, config: UNetConfig, image_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        channels, height, width = image_shape
        check_levels(config.channel_mult, config.attention_resolutions, height, width)
        levels = len(config.channel_mult)
        base = config.base_channels
        embedding = nn.Sequential(
            nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base)
        )
        super().__init__(config, num_classes, embedding, features=base, width=4 * base)
        self.config = config
        self.conv_in = conv(channels, base, 3)

        def block(c_in: int, c_out: int, attention: bool) -> Block:
            return Block(c_in, c_out, 4 * base, attention, config)

        side, now = height, base
        skips = [now]
        self.down = nn.ModuleList()
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.blocks_per_level):
                self.down.append(block(now, base * mult, side in config.attention_resolutions))
                now = base * mult
                skips.append(now)
            if level < levels - 1:
                self.down.append(Downsample(now))
                side //= 2
                skips.append(now)
        self.middle = nn.ModuleList([block(now, now, True), block(now, now, False)])
        self.up = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for _ in range(config.blocks_per_level + 1):
                c_in = now + skips.pop()
                self.up.append(block(c_in, base * mult, side in config.attention_resolutions))
                now = base * mult
            if level > 0:
                self.up.append(Upsample(now))
                side *= 2
        self.conv_out = nn.Sequential(
            nn.GroupNorm(config.norm_groups, now),
            nn.SiLU(),
            conv(now, channels, 3, gain=1e-5),  # the untrained network predicts about zero
        )
        for module in (embedding[0], embedding[2]):
            assert isinstance(module, nn.Linear)
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)

    def features(self, values: Tensor) -> Tensor:
        """Return sines and cosines of the time or omega; see `Network`."""
        return timestep_embedding(values, self.config.base_channels)

    def initialise_augmentation(self, weight: Tensor) -> None:
        """Leave PyTorch's own initial weights where they are to be as released."""
        if self.config.initial_weights == "ddpm":
            super().initialise_augmentation(weight)

    def repeated_blocks(self) -> list[nn.Module]:
        """Return the blocks of the way down, the middle, and the way up."""
        return [*self.down, *self.middle, *self.up]

    def stages(self) -> list[Stage]:
        """Return the way down, the middle, and the way up; states are the skips so far, and h."""
        return [
            Stage([self.conv_in, self.down], self._encode),
            Stage([self.middle], self._bottleneck),
            Stage([self.up, self.conv_out], self._decode),
        ]

    def _encode(self, state: State, embedded: Tensor, dropout_rows: Tensor | None) -> State:
        h = self.conv_in(state[0])
        skips = [h]
        for module in self.down:
            h = self.call(module, h, embedded, dropout_rows)
            skips.append(h)
        return (*skips, h)

    def _bottleneck(self, state: State, embedded: Tensor, dropout_rows: Tensor | None) -> State:
        *skips, h = state
        for module in self.middle:
            h = self.call(module, h, embedded, dropout_rows)
        return (*skips, h)

    def _decode(self, state: State, embedded: Tensor, dropout_rows: Tensor | None) -> State:
        *skips, h = state
        for module in self.up:
            if isinstance(module, Block):
                h = torch.cat([h, skips.pop()], dim=1)
            h = self.call(module, h, embedded, dropout_rows)
        return (self.conv_out(h),)


class Block(nn.Module):
    """Twice GroupNorm, SiLU and a convolution, the embedding added in between; then attention, if any."""

    def __init__(
        self, c_in: int, c_out: int, c_embedding: int, attention: bool, config: UNetConfig
    ) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(_groups(config.norm_groups, c_in), c_in)
        self.conv_1 = conv(c_in, c_out, 3)
        self.project = nn.Linear(c_embedding, c_out)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        self.norm_2 = nn.GroupNorm(config.norm_groups, c_out)
        self.dropout = RowDropout(config.dropout)
        self.conv_2 = conv(c_out, c_out, 3, gain=1e-5)  # at first a block is its shortcut
        self.shortcut = conv(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attention = Attention(c_out, config) if attention else None

    def forward(self, x: Tensor, embedded: Tensor, dropout_rows: Tensor | None) -> Tensor:
        """Return (B, C_out, H, W) from x (B, C_in, H, W) and the embedding (B, C_embedding)."""
        h: Tensor = self.conv_1(F.silu(self.norm_1(x)))
        h = h + self.project(F.silu(embedded))[:, :, None, None]
        h = self.dropout(F.silu(self.norm_2(h)), dropout_rows)
        h = self.conv_2(h) + self.shortcut(x)
        return h if self.attention is None else self.attention(h)


class Attention(nn.Module):
    """Self-attention over all pixels."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.heads = config.attention_heads
        self.norm = nn.GroupNorm(config.norm_groups, channels)
        self.qkv = conv(channels, 3 * channels, 1)
        for matrix in self.qkv.weight.data.chunk(3):  # each by its own size, not that of the three
            nn.init.xavier_uniform_(matrix)
        gain = 1.0 if config.initial_weights == "released" else 1e-5
        self.out = conv(channels, channels, 1, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) with the attention's output added."""
        b, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, height * width)
        qkv = qkv.transpose(-1, -2)  # (B, 3, heads, H W, C / heads)
        if not x.is_cpu:  # a GPU's fused kernels need the last dimension dense
            qkv = qkv.contiguous()
        q, k, v = qkv.unbind(1)
        h = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(h.transpose(-1, -2).reshape(b, c, height, width))
        return x + out


class Downsample(nn.Module):
    """Halve the resolution with a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, embedded: Tensor, dropout_rows: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return (B, C, H / 2, W / 2)."""
        h: Tensor = self.conv(x)
        return h


class Upsample(nn.Module):
    """Double the resolution: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels, 3)

    def forward(self, x: Tensor, embedded: Tensor, dropout_rows: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return (B, C, 2 H, 2 W)."""
        h: Tensor = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return h


def _groups(wanted: int, channels: int) -> int:
    """Return at most `wanted` groups that divide `channels`.

    Skip connections concatenate levels of different width, and the sum may not be divisible.
    """
    return math.gcd(wanted, channels)
