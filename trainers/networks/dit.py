"""DiT (Peebles & Xie 2023), whose blocks SiT (Ma et al. 2024) has too: a transformer over patches.

The embedding c of time and label sets the scale, shift and gate of each block (adaLN-Zero, DiT section 3.2):

    beta_1, gamma_1, alpha_1, beta_2, gamma_2, alpha_2 = W SiLU(c) + b        W = 0 and b = 0 at first
    x = x + alpha_1 Attention(LN(x) (1 + gamma_1) + beta_1)
    x = x + alpha_2 MLP(LN(x) (1 + gamma_2) + beta_2)

So at first each block is the identity, and the output of the network 0. For latents of 4x32x32 and patches
of 2x2, DiT-S (width 384, depth 12, 6 heads) has 33 M parameters, DiT-B (768, 12, 12) 130 M, DiT-L (1024, 24,
16) 458 M and DiT-XL (1152, 28, 16) 675 M.

Unlike the published network this one has no row for the null label, which adds nothing to c, as in every
network here; what that row learns can be learned by the last bias of the time embedding. Nor has it outputs
for a variance, as SiT has none that it uses.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from .base import Network, Stage, timestep_embedding
from .transformer import (
    MLP,
    Attention,
    ImageShape,
    TransformerConfig,
    stages_of,
    to_images,
    to_patches,
)

FEATURES = 256
"""Sines and cosines of the time."""


class DiTConfig(TransformerConfig):
    """Size of DiT; the defaults are those of DiT-S/2, whose widths are 384 (S), 768 (B), 1024 (L), 1152 (XL)."""

    name: Literal["dit"] = "dit"
    patch_size: int = Field(2, ge=1)
    """Side of a patch, in pixels; must divide the image's height and width. The paper has 2, 4 and 8."""
    depth: int = Field(12, ge=3)
    """Blocks: 12 (S, B), 24 (L), 28 (XL)."""
    heads: int = Field(6, ge=1)
    """Attention heads of each block: 6 (S), 12 (B), 16 (L, XL); must divide the width."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Hidden numbers of a block's MLP, as a multiple of the width."""

    @model_validator(mode="after")
    def _positions_fit(self) -> DiTConfig:
        if self.width % 4:
            raise ValueError(
                f"width {self.width} is not divisible by 4: sines and cosines of a patch's row and column"
            )
        return self

    def build(self, image_shape: ImageShape, num_classes: int) -> DiT:
        """Build the network; see `NetworkConfig`."""
        return DiT(self, image_shape, num_classes)


class DiT(Network):
    """DiT over (B, C, H, W) images; H and W are divisible by the patch size.

    Args:
        config: sizes.
        image_shape: (C, H, W).
        num_classes: labels are in [0, num_classes); negative ones are null.

    Raises:
        ValueError: an image that the patches do not divide.
    """

    def __init__(self, config: DiTConfig, image_shape: ImageShape, num_classes: int) -> None:
        rows, columns = config.grid_of(image_shape)
        width = config.width
        embedding = nn.Sequential(nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        super().__init__(config, num_classes, embedding, features=FEATURES, width=width)
        self.config = config
        self.layer_groups = config.layer_groups()
        self.patch_in = PatchIn(config, image_shape[0], rows, columns)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.patch_out = PatchOut(config, image_shape)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)  # q, k and v as one matrix, as published
                nn.init.zeros_(module.bias)
        for module in (embedding[0], embedding[2], self.labels):
            assert isinstance(module, nn.Linear | nn.Embedding)
            nn.init.normal_(module.weight, std=0.02)
        modulations = [block.modulation for block in self.blocks if isinstance(block, Block)]
        for zero in (*modulations, self.patch_out.modulation, self.patch_out.linear):
            nn.init.zeros_(zero.weight)

    def features(self, values: Tensor) -> Tensor:
        """Return sines and cosines of the time or omega; see `Network`."""
        return timestep_embedding(values, FEATURES)

    def repeated_blocks(self) -> list[nn.Module]:
        """Return the blocks between the patches."""
        return [*self.blocks]

    def stages(self) -> list[Stage]:
        """Return each block as a stage, whose state is the tokens."""
        return stages_of(self, [self.patch_in, *self.blocks, self.patch_out])


class PatchIn(nn.Module):
    """A token for each patch, and its position."""

    positions: Tensor

    def __init__(self, config: DiTConfig, channels: int, rows: int, columns: int) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.linear = nn.Linear(config.patch_size**2 * channels, config.width)
        positions = sin_cos_positions(rows, columns, config.width)
        self.register_buffer("positions", positions, persistent=False)  # fixed, so not a weight

    def forward(self, x_t: Tensor, embedded: Tensor, dropout_rows: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return tokens (B, N, width) from x_t (B, C, H, W)."""
        tokens: Tensor = self.linear(to_patches(x_t, self.patch_size))
        return tokens + self.positions


class Block(nn.Module):
    """Attention and an MLP, each scaled, shifted and gated by c."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.modulation = nn.Linear(config.width, 6 * config.width)
        self.attention = Attention(config, qkv_bias=True)
        self.mlp = MLP(config, gelu="tanh")

    def forward(self, x: Tensor, embedded: Tensor, dropout_rows: Tensor | None) -> Tensor:
        """Return tokens (B, N, width) from tokens x and c (B, width)."""
        modulation = self.modulation(F.silu(embedded)).unsqueeze(1)  # (B, 1, 6 width)
        beta_1, gamma_1, alpha_1, beta_2, gamma_2, alpha_2 = modulation.chunk(6, dim=-1)
        h = _normalise(x) * (1 + gamma_1) + beta_1
        x = x + alpha_1 * self.attention(h, dropout_rows)
        h = _normalise(x) * (1 + gamma_2) + beta_2
        tokens: Tensor = x + alpha_2 * self.mlp(h, dropout_rows)
        return tokens


class PatchOut(nn.Module):
    """The pixels of each token, scaled and shifted by c before."""

    def __init__(self, config: DiTConfig, image_shape: ImageShape) -> None:
        super().__init__()
        self.patch_size, self.image_shape = config.patch_size, image_shape
        self.modulation = nn.Linear(config.width, 2 * config.width)
        self.linear = nn.Linear(config.width, config.patch_size**2 * image_shape[0])

    def forward(self, x: Tensor, embedded: Tensor, dropout_rows: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return (B, C, H, W) from tokens x (B, N, width) and c (B, width)."""
        beta, gamma = self.modulation(F.silu(embedded)).unsqueeze(1).chunk(2, dim=-1)
        pixels = self.linear(_normalise(x) * (1 + gamma) + beta)  # (B, N, patch_size^2 C)
        return to_images(pixels, self.patch_size, self.image_shape)


def sin_cos_positions(rows: int, columns: int, width: int) -> Tensor:
    """Return sines and cosines of a patch's column, then of its row, (rows columns, width) float32.

    Each is sin and cos of p 10000^(-4 k / width), k = 0 .. width / 4 - 1 (Vaswani et al. 2017, section
    3.5, in two dimensions).
    """
    exponents = torch.arange(width // 4, dtype=torch.float64) * (-4 / width)

    def waves(places: int) -> Tensor:
        angles = torch.arange(places, dtype=torch.float64)[:, None] * 10000.0**exponents
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # (places, width / 2)

    of_column = waves(columns).expand(rows, -1, -1)
    of_row = waves(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([of_column, of_row], dim=-1).flatten(0, 1).float()


def _normalise(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)
