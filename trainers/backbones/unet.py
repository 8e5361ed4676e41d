"""The U-Net of DDPM (Ho et al. 2020, appendix B) with a label embedding, as CBDM and OC use it.

At the CIFAR size (base 128, mult 1 2 2 2, 2 blocks a level, attention at 16x16) it has 35.7 M
parameters. A label's embedding is added to the time embedding; the null label adds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..config import Config
from .low_rank import has_expert, theta_g


class UNetConfig(Config):
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
    guidance_embedding: bool = False
    """Whether the network takes omega as an input and returns the guided prediction (objective tcfg)."""

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


class UNet(nn.Module):
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
        super().__init__()
        channels, height, width = image_shape
        _check_image_size(config, height, width)
        levels = len(config.channel_mult)
        base = config.base_channels
        self.config = config
        self.base_channels = base
        self.num_classes = num_classes
        self.embedding = nn.Sequential(
            nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base)
        )
        self.labels = nn.Embedding(num_classes, 4 * base)
        self.guidance = nn.Linear(base, 4 * base) if config.guidance_embedding else None
        self.augmentation: nn.Linear | None = None
        self.conv_in = _conv(channels, base, 3)

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
            _conv(now, channels, 3, gain=1e-5),  # the untrained network predicts about zero
        )
        for module in (self.embedding[0], self.embedding[2]):
            assert isinstance(module, nn.Linear)
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)

    def add_augmentation_conditioning(self, numbers: int) -> None:
        """Add an input of `numbers` values per image that describe its augmentation; 0 is none.

        Without a bias, so that zeros change nothing and an exported network needs no such input.
        """
        self.augmentation = nn.Linear(numbers, 4 * self.base_channels, bias=False)
        if self.config.initial_weights == "ddpm":  # else PyTorch's own, as released
            nn.init.xavier_uniform_(self.augmentation.weight)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor,
        dropout_rows: Tensor | None = None,
        augmentation: Tensor | None = None,
        omega: Tensor | None = None,
        num_general: int = 0,
    ) -> Tensor:
        """Predict, (B + num_general, C, H, W) in x_t's dtype, or autocast's.

        Args:
            x_t: (B, C, H, W).
            t: (B,) in [0, T).
            labels: (B,) int64; a negative one is null and adds nothing to the embedding.
            dropout_rows: (B,) int64: the row whose dropout masks each row shares, for two copies of
                an image. None: every row has its own.
            augmentation: (B, numbers) float32, after `add_augmentation_conditioning`.
            omega: (B,) float32, with `guidance_embedding`; a negative value, or None, is no input.
            num_general: how many of the first rows theta_g (without the expert parts of
                `low_rank.py`) predicts as well; they come last. What theta and theta_g have in
                common is computed once, and both share the same dropout masks.
        """
        inputs = _Inputs(x_t, t, labels, dropout_rows, augmentation, omega)
        if not num_general:
            output: Tensor = self._decode(self._bottleneck(self._encode(inputs)))
            return output
        theta: Any = inputs
        of_theta_g: Any = None  # until the first layer with an expert part
        for stage, modules in (
            (self._encode, [self.embedding, self.labels, self.conv_in, self.down]),
            (self._bottleneck, [self.middle]),
            (self._decode, [self.up, self.conv_out]),
        ):
            if of_theta_g is None and any(map(has_expert, modules)):
                of_theta_g = theta.first(num_general)
            if of_theta_g is None:
                theta = stage(theta)
                continue
            with _reuse_dropout_masks(self):
                theta = stage(theta)
                with theta_g(self):
                    of_theta_g = stage(of_theta_g)
        if of_theta_g is None:
            raise ValueError("num_general is given, but no layer has an expert part")
        return torch.cat([theta, of_theta_g])

    def _encode(self, inputs: _Inputs) -> _Features:
        x_t, t, labels, dropout_rows, augmentation, omega = inputs
        has_label = (labels >= 0).to(x_t.dtype)[:, None]  # (B, 1)
        embedded = self.embedding(timestep_embedding(t, self.base_channels).to(x_t.dtype))
        embedded = embedded + has_label * self.labels(labels.clamp(min=0))  # (B, 4 base)
        if self.augmentation is not None and augmentation is not None:
            embedded = embedded + self.augmentation(augmentation.to(x_t.dtype))
        if self.guidance is not None and omega is not None:
            has_omega = (omega >= 0).to(x_t.dtype)[:, None]
            # scaled so that omega in [0, 1] spans the same sinusoids as 1,000 timesteps
            waves = timestep_embedding(1000 * omega.clamp(min=0), self.base_channels)
            embedded = embedded + has_omega * self.guidance(waves.to(x_t.dtype))
        h = self.conv_in(x_t)
        skips = [h]
        for module in self.down:
            h = module(h, embedded, dropout_rows)
            skips.append(h)
        return _Features(h, embedded, skips, dropout_rows)

    def _bottleneck(self, features: _Features) -> _Features:
        h, embedded, skips, dropout_rows = features
        for module in self.middle:
            h = module(h, embedded, dropout_rows)
        return _Features(h, embedded, skips, dropout_rows)

    def _decode(self, features: _Features) -> Tensor:
        h, embedded, skips, dropout_rows = features
        skips = list(skips)
        for module in self.up:
            if isinstance(module, Block):
                h = torch.cat([h, skips.pop()], dim=1)
            h = module(h, embedded, dropout_rows)
        output: Tensor = self.conv_out(h)
        return output


class _Inputs(NamedTuple):
    """The inputs of the network; see `UNet.forward`."""

    x_t: Tensor
    t: Tensor
    labels: Tensor
    dropout_rows: Tensor | None
    augmentation: Tensor | None
    omega: Tensor | None

    def first(self, rows: int) -> _Inputs:
        """Return the first rows."""
        return _Inputs(*(None if value is None else value[:rows] for value in self))  # type: ignore[arg-type]


class _Features(NamedTuple):
    """What the down path passes to the up path."""

    h: Tensor
    embedded: Tensor
    skips: list[Tensor]
    dropout_rows: Tensor | None

    def first(self, rows: int) -> _Features:
        """Return the first rows."""
        dropout_rows = None if self.dropout_rows is None else self.dropout_rows[:rows]
        skips = [skip[:rows] for skip in self.skips]
        return _Features(self.h[:rows], self.embedded[:rows], skips, dropout_rows)


@contextmanager
def _reuse_dropout_masks(network: nn.Module) -> Iterator[None]:
    """Reuse, in a second pass within this context, the dropout masks of the first pass's first rows."""
    dropouts = [module for module in network.modules() if isinstance(module, RowDropout)]
    for dropout in dropouts:
        dropout.reuse_mask = True
    try:
        yield
    finally:
        for dropout in dropouts:
            dropout.reuse_mask, dropout.cached_mask = False, None


class Block(nn.Module):
    """Twice GroupNorm, SiLU and a convolution, the embedding added in between; then attention, if any."""

    def __init__(
        self, c_in: int, c_out: int, c_embedding: int, attention: bool, config: UNetConfig
    ) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(_groups(config.norm_groups, c_in), c_in)
        self.conv_1 = _conv(c_in, c_out, 3)
        self.project = nn.Linear(c_embedding, c_out)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        self.norm_2 = nn.GroupNorm(config.norm_groups, c_out)
        self.dropout = RowDropout(config.dropout)
        self.conv_2 = _conv(c_out, c_out, 3, gain=1e-5)  # at first a block is its shortcut
        self.shortcut = _conv(c_in, c_out, 1) if c_in != c_out else nn.Identity()
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
        self.qkv = _conv(channels, 3 * channels, 1)
        for matrix in self.qkv.weight.data.chunk(3):  # each by its own size, not that of the three
            nn.init.xavier_uniform_(matrix)
        gain = 1.0 if config.initial_weights == "released" else 1e-5
        self.out = _conv(channels, channels, 1, gain=gain)

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


class RowDropout(nn.Module):
    """Dropout whose rows can share masks, also with the rows of a pass before."""

    reuse_mask = False
    cached_mask: Tensor | None = None

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, h: Tensor, rows: Tensor | None) -> Tensor:
        """Drop values of h (B, ...); `rows` as `dropout_rows` of `UNet.forward`."""
        if not self.training or self.probability == 0:
            return h
        if rows is None and not self.reuse_mask:
            return F.dropout(h, self.probability, True)
        if self.cached_mask is not None:
            mask = self.cached_mask[: len(h)]
        else:
            mask = torch.empty_like(h, dtype=torch.bool).bernoulli_(1 - self.probability)
            if rows is not None:
                mask = mask[rows]
            if self.reuse_mask:
                self.cached_mask = mask
        return (h / (1 - self.probability)).masked_fill(~mask, 0)


class Downsample(nn.Module):
    """Halve the resolution with a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, embedded: Tensor, dropout_rows: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return (B, C, H / 2, W / 2)."""
        h: Tensor = self.conv(x)
        return h


class Upsample(nn.Module):
    """Double the resolution: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels, 3)

    def forward(self, x: Tensor, embedded: Tensor, dropout_rows: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return (B, C, 2 H, 2 W)."""
        h: Tensor = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return h


def timestep_embedding(t: Tensor, channels: int) -> Tensor:
    """Return the sinusoidal embedding of Vaswani et al. 2017, section 3.5, (B, channels) float32."""
    half = channels // 2
    frequencies = torch.exp(
        torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(10000) / half)
    )
    angles = t.float()[:, None] * frequencies  # (B, half)
    embedded = torch.cat([angles.sin(), angles.cos()], dim=1)
    return F.pad(embedded, (0, channels - 2 * half))


def _check_image_size(config: UNetConfig, height: int, width: int) -> None:
    levels = len(config.channel_mult)
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise ValueError(
            f"a {height}x{width} image cannot be halved {levels - 1} times: "
            f"use fewer entries in model.channel_mult"
        )
    sides = [height // 2**level for level in range(levels)]
    wanted = config.attention_resolutions
    if wanted and not set(wanted) & set(sides):
        raise ValueError(
            f"model.attention_resolutions {list(wanted)} are none of the levels' heights {sides}"
        )


def _conv(c_in: int, c_out: int, size: int, *, stride: int = 1, gain: float = 1.0) -> nn.Conv2d:
    conv = nn.Conv2d(c_in, c_out, size, stride=stride, padding=size // 2)
    nn.init.xavier_uniform_(conv.weight, gain=gain)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _groups(wanted: int, channels: int) -> int:
    """Return at most `wanted` groups that divide `channels`.

    Skip connections concatenate levels of different width, and the sum may not be divisible.
    """
    return math.gcd(wanted, channels)
