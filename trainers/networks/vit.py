"""GenViT (Yang et al. 2022, arXiv 2208.07791), the transformer in CBDM's table 5 ("Diffuse-ViT").

A plain vision transformer, from whose tokens, but for the class token, a linear layer makes pixels. In every
block a map of its own (`time`) of the embedding c of time and label gives one scale and one shift for each
token, which act on the token itself, before the attention and again before the MLP ("ffnt" in the released code):

    s, b = W SiLU(c) + b_0
    x = x (1 + s) + b;   x = x + Attention(LN(x))
    x = x (1 + s) + b;   x = x + MLP(LN(x))

With N patches c has 4 (N + 1) numbers, s and b have N + 1 each. For 3x32x32 images the defaults have 11.2 M
parameters, as released (its linear layer for classes is left out, which generation does not use).

GenViT is unconditional. CBDM makes it conditional without a formula; here a label's embedding is added to
that of the time, as in its U-Net, and the null label adds nothing. The sines and cosines of the time have
frequencies 10000^(-k / 192), not 10000^(-k / 191) as released.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
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


class ViTConfig(TransformerConfig):
    """Size of GenViT; the defaults are those of the paper for 32x32 images, without dropout as there."""

    name: Literal["vit"] = "vit"

    def build(self, image_shape: ImageShape, num_classes: int) -> ViT:
        """Build the network; see `NetworkConfig`."""
        return ViT(self, image_shape, num_classes)


class ViT(Network):
    """GenViT over (B, C, H, W) images; H and W are divisible by the patch size.

    Args:
        config: sizes.
        image_shape: (C, H, W).
        num_classes: labels are in [0, num_classes); negative ones are null.

    Raises:
        ValueError: an image that the patches do not divide.
    """

    def __init__(self, config: ViTConfig, image_shape: ImageShape, num_classes: int) -> None:
        rows, columns = config.grid_of(image_shape)
        tokens = rows * columns + 1  # the class token is the first
        width = 4 * tokens
        embedding = nn.Sequential(
            nn.Linear(config.width, width), nn.GELU(), nn.Linear(width, width)
        )
        super().__init__(config, num_classes, embedding, features=config.width, width=width)
        self.config = config
        self.layer_groups = config.layer_groups()
        self.patch_in = PatchIn(config, image_shape[0], tokens)
        self.blocks = nn.ModuleList(Block(config, tokens) for _ in range(config.depth))
        self.patch_out = PatchOut(config, image_shape)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)  # q, k and v as one matrix, as released
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # The scales of all blocks multiply, so conditions start small: with labels of std 1, PyTorch's
        # own, the output of the untrained network would be some 50 times that for the null label.
        nn.init.normal_(self.labels.weight, std=0.02)
        if self.guidance is not None:
            nn.init.normal_(self.guidance.weight, std=0.02)

    def features(self, values: Tensor) -> Tensor:
        """Return sines and cosines of the time or omega; see `Network`."""
        return timestep_embedding(values, self.config.width)

    def repeated_blocks(self) -> list[nn.Module]:
        """Return the blocks between the patches."""
        return [*self.blocks]

    def stages(self) -> list[Stage]:
        """Return each block as a stage, whose state is the tokens."""
        return stages_of(self, [self.patch_in, *self.blocks, self.patch_out])


class PatchIn(nn.Module):
    """A token for each patch behind the class token, and a learned position for each."""

    def __init__(self, config: ViTConfig, channels: int, tokens: int) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.linear = nn.Linear(config.patch_size**2 * channels, config.width)
        self.class_token = nn.Parameter(torch.randn(1, config.width))
        self.positions = nn.Parameter(torch.randn(tokens, config.width))

    def forward(self, x_t: Tensor, embedded: Tensor, dropout_rows: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return tokens (B, 1 + N, width) from x_t (B, C, H, W)."""
        patches = self.linear(to_patches(x_t, self.patch_size))
        class_token = self.class_token.to(patches.dtype).expand(len(patches), -1, -1)
        return torch.cat([class_token, patches], dim=1) + self.positions


class Block(nn.Module):
    """Attention and an MLP, each token scaled and shifted by c before both."""

    def __init__(self, config: ViTConfig, tokens: int) -> None:
        super().__init__()
        self.time = nn.Linear(4 * tokens, 2 * tokens)
        self.norm_1 = nn.LayerNorm(config.width)
        self.attention = Attention(config, qkv_bias=False)
        self.norm_2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config, gelu="none")

    def forward(self, x: Tensor, embedded: Tensor, dropout_rows: Tensor | None) -> Tensor:
        """Return tokens (B, 1 + N, width) from tokens x and c (B, 4 (1 + N))."""
        scale, shift = self.time(F.silu(embedded)).unsqueeze(-1).chunk(2, dim=1)  # (B, 1 + N, 1)
        x = x * (1 + scale) + shift
        x = x + self.attention(self.norm_1(x), dropout_rows)
        x = x * (1 + scale) + shift
        tokens: Tensor = x + self.mlp(self.norm_2(x), dropout_rows)
        return tokens


class PatchOut(nn.Module):
    """The pixels of each token; those of the class token are not used."""

    def __init__(self, config: ViTConfig, image_shape: ImageShape) -> None:
        super().__init__()
        self.patch_size, self.image_shape = config.patch_size, image_shape
        self.linear = nn.Linear(config.width, config.patch_size**2 * image_shape[0])

    def forward(self, x: Tensor, embedded: Tensor, dropout_rows: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return (B, C, H, W) from tokens x (B, 1 + N, width)."""
        return to_images(self.linear(x[:, 1:]), self.patch_size, self.image_shape)
