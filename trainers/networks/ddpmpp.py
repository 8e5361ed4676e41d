"""DDPM++, the U-Net of EDM for 32 and 64 pixels (Song et al. 2021, appendix H; Karras et al. 2022, table 7).

It differs from DDPM's U-Net (`unet.py`) in that sums of a block and its shortcut are divided by
sqrt 2, blocks halve and double the resolution themselves, only the last block of a level on the way up has
attention, and the label and the augmentation are added to the features of the time, before the layers
that embed it. Its scale is not adapted to the embedding; that is ADM's.

The published configurations, C classes adding 128 C parameters to the count:

    32 px (CIFAR)        channel_mult (2, 2, 2)       dropout .13                       55.7 M
    64 px (FFHQ, AFHQ)   channel_mult (1, 2, 2, 2)    dropout .05 (FFHQ), .25 (AFHQ)    61.8 M
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from .base import Network, NetworkConfig, Stage, State
from .dropout import RowDropout
from .layers import check_levels, conv

Resample = Literal["half", "double"] | None


class DDPMPPConfig(NetworkConfig):
    """Size of DDPM++; the defaults are EDM's for CIFAR."""

    name: Literal["ddpmpp"] = "ddpmpp"
    base_channels: int = Field(128, ge=4)
    """Of the first convolution, and of the features of the time; channels of levels are multiples of it."""
    channel_mult: tuple[int, ...] = Field((2, 2, 2), min_length=1)
    """Channels of each level, as multiples of the base; each further level halves the resolution."""
    blocks_per_level: int = Field(4, ge=1)
    attention_resolutions: tuple[int, ...] = (16,)
    """Image heights at which blocks have self-attention; the middle always has it."""
    dropout: float = Field(0.13, ge=0, lt=1)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> DDPMPP:
        """Build the network; see `NetworkConfig`."""
        return DDPMPP(self, image_shape, num_classes)


class DDPMPP(Network):
    """DDPM++ over (B, C, H, W) images; H and W are divisible by 2^(levels - 1).

    Args:
        config: sizes.
        image_shape: (C, H, W).
        num_classes: labels are in [0, num_classes); negative ones are null.

    Raises:
        ValueError: an image size that does not fit the levels.
    """

    def __init__(
        self, config: DDPMPPConfig, image_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        channels, height, width = image_shape
        check_levels(config.channel_mult, config.attention_resolutions, height, width)
        base, attention_at = config.base_channels, config.attention_resolutions
        embedding = nn.Sequential(
            _linear(base, 4 * base), nn.SiLU(), _linear(4 * base, 4 * base), nn.SiLU()
        )
        super().__init__(config, num_classes, embedding, features=base, width=base)
        self.config = config
        self.labels = ScaledLabels(num_classes, base)
        if self.guidance is not None:
            self.guidance = _linear(base, base)
        self.conv_in = conv(channels, base, 3)

        block = partial(Block, c_embedding=4 * base, dropout=config.dropout)
        side, now = height, base
        skips = [now]
        self.down = nn.ModuleList()
        for level, mult in enumerate(config.channel_mult):
            if level > 0:
                side //= 2
                self.down.append(block(now, now, resample="half"))
                skips.append(now)
            for _ in range(config.blocks_per_level):
                self.down.append(block(now, base * mult, attention=side in attention_at))
                now = base * mult
                skips.append(now)
        self.middle = nn.ModuleList([block(now, now, attention=True), block(now, now)])
        self.up = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for position in range(config.blocks_per_level + 1):
                last = position == config.blocks_per_level
                c_in, attention = now + skips.pop(), last and side in attention_at
                self.up.append(block(c_in, base * mult, attention=attention))
                now = base * mult
            if level > 0:
                side *= 2
                self.up.append(block(now, now, resample="double"))
        self.conv_out = nn.Sequential(_norm(now), nn.SiLU(), conv(now, channels, 3, gain=1e-5))

    def features(self, values: Tensor) -> Tensor:
        """Return sines and cosines at frequencies from 1 to 1 / 10,000, both included; see `Network`."""
        half = self.config.base_channels // 2
        exponents = torch.arange(half, device=values.device, dtype=torch.float32) / max(half - 1, 1)
        angles = values.float()[:, None] * 10_000**-exponents  # (B, half)
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        return F.pad(waves, (0, self.config.base_channels - 2 * half))

    def embed(self, features: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """Embed the features of the time with the conditions added to them; see `Network`."""
        for condition in conditions:
            features = features + condition
        embedded: Tensor = self.embedding(features)
        return embedded

    def repeated_blocks(self) -> list[nn.Module]:
        """Return the blocks of the way down, the middle, and the way up."""
        return [*self.down, *self.middle, *self.up]

    def stages(self) -> list[Stage]:
        """Return one stage for each block; states are the skips so far, and h."""
        return [
            Stage([self.conv_in], self._enter),
            *(Stage([block], partial(self._go_down, block)) for block in self.down),
            *(Stage([block], partial(self._stay, block)) for block in self.middle),
            *(
                Stage([block], partial(self._stay if block.resample else self._go_up, block))
                for block in self.up
            ),
            Stage([self.conv_out], self._leave),
        ]

    def _enter(self, state: State, embedded: Tensor, dropout_rows: Tensor | None) -> State:  # noqa: ARG002
        h = self.conv_in(state[-1])
        return (h, h)

    def _go_down(
        self, block: nn.Module, state: State, embedded: Tensor, rows: Tensor | None
    ) -> State:
        h = self.call(block, state[-1], embedded, rows)
        return (*state[:-1], h, h)

    def _stay(self, block: nn.Module, state: State, embedded: Tensor, rows: Tensor | None) -> State:
        return (*state[:-1], self.call(block, state[-1], embedded, rows))

    def _go_up(
        self, block: nn.Module, state: State, embedded: Tensor, rows: Tensor | None
    ) -> State:
        *skips, skip, h = state
        return (*skips, self.call(block, torch.cat([h, skip], dim=1), embedded, rows))

    def _leave(self, state: State, embedded: Tensor, dropout_rows: Tensor | None) -> State:  # noqa: ARG002
        return (self.conv_out(state[-1]),)


class ScaledLabels(nn.Embedding):
    """A linear map of sqrt(C) times one-hot labels; its bias would add to that of the layer after it."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__(num_classes, width)
        nn.init.xavier_uniform_(self.weight)

    def forward(self, labels: Tensor) -> Tensor:
        """Return (B, width) from labels (B,)."""
        return math.sqrt(self.num_embeddings) * super().forward(labels)


class Block(nn.Module):
    """Twice GroupNorm, SiLU and a convolution beside a shortcut; then attention, if any.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        c_embedding: width of the embedding.
        dropout: probability.
        attention: whether self-attention comes last.
        resample: what the block does to the resolution, in its first convolution and its shortcut.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        c_embedding: int,
        dropout: float,
        attention: bool = False,
        resample: Resample = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm_1 = _norm(c_in)
        self.conv_1 = conv(c_in, c_out, 3)
        self.project = _linear(c_embedding, c_out)
        self.norm_2 = _norm(c_out)
        self.dropout = RowDropout(dropout)
        self.conv_2 = conv(c_out, c_out, 3, gain=1e-5)  # at first a block is its shortcut
        plain = c_in == c_out and resample is None
        self.shortcut = nn.Identity() if plain else conv(c_in, c_out, 1)
        self.attention = Attention(c_out) if attention else None

    def forward(self, x: Tensor, embedded: Tensor, dropout_rows: Tensor | None) -> Tensor:
        """Return (B, C_out, H', W') from x (B, C_in, H, W) and the embedding (B, C_embedding)."""
        h: Tensor = self.conv_1(_resampled(F.silu(self.norm_1(x)), self.resample))
        h = h + self.project(embedded)[:, :, None, None]
        h = self.dropout(F.silu(self.norm_2(h)), dropout_rows)
        h = (self.conv_2(h) + self.shortcut(_resampled(x, self.resample))) * math.sqrt(0.5)
        return h if self.attention is None else self.attention(h)


class Attention(nn.Module):
    """Self-attention of one head over all pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv = conv(channels, 3 * channels, 1, gain=math.sqrt(0.2))
        self.out = conv(channels, channels, 1, gain=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) with the attention's output added, over sqrt 2."""
        b, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, 1, c, height * width)
        qkv = qkv.transpose(-1, -2)  # (B, 3, one head, H W, C)
        if not x.is_cpu:  # a GPU's fused kernels need the last dimension dense
            qkv = qkv.contiguous()
        q, k, v = qkv.unbind(1)
        h = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(h.transpose(-1, -2).reshape(b, c, height, width))
        return (x + out) * math.sqrt(0.5)


def _resampled(x: Tensor, resample: Resample) -> Tensor:
    """Halve (mean of 2 x 2 pixels) or double (nearest neighbour) the resolution: EDM's filter [1, 1]."""
    if resample == "half":
        return F.avg_pool2d(x, 2)
    if resample == "double":
        return F.interpolate(x, scale_factor=2, mode="nearest")
    return x


def _linear(c_in: int, c_out: int) -> nn.Linear:
    made = nn.Linear(c_in, c_out)
    nn.init.xavier_uniform_(made.weight)
    nn.init.zeros_(made.bias)
    return made


def _norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of 32 groups, fewer where they would have less than 4 channels each."""
    groups = max(g for g in range(1, max(1, min(32, channels // 4)) + 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)
