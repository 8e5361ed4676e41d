"""What the transformers share: images as patches, self-attention, an MLP, and the groups of their blocks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from .base import Network, NetworkConfig, Stage, State
from .dropout import RowDropout

ImageShape = tuple[int, int, int]
"""(C, H, W)."""


class TransformerConfig(NetworkConfig):
    """Size of a transformer over patches."""

    patch_size: int = Field(4, ge=1)
    """Side of a patch, in pixels; must divide the image's height and width. Halving it makes four times as
    many tokens."""
    width: int = Field(384, ge=1)
    """Numbers of a token."""
    depth: int = Field(9, ge=3)
    """Blocks. `middle` is the central one (two, if their number is even), `down` those before, `up` those
    after it."""
    heads: int = Field(12, ge=1)
    """Attention heads of each block; must divide the width."""
    mlp_ratio: float = Field(2.0, gt=0)
    """Hidden numbers of a block's MLP, as a multiple of the width."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Of the attention's output, and of the MLP's hidden numbers and output."""

    @model_validator(mode="after")
    def _divisible(self) -> TransformerConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        return self

    def grid_of(self, image_shape: ImageShape) -> tuple[int, int]:
        """Return how many rows and columns of patches an image has.

        Raises:
            ValueError: the patches do not divide the image.
        """
        _, height, width = image_shape
        size = self.patch_size
        if height % size or width % size:
            sides = range(1, min(height, width) + 1)
            fitting = [side for side in sides if not height % side and not width % side]
            raise ValueError(
                f"model.patch_size {size} does not divide images of {height}x{width}: "
                f"set it to one of {', '.join(map(str, fitting))}"
            )
        return height // size, width // size

    def layer_groups(self) -> dict[str, list[str]]:
        """Return the names of the blocks in each of `Network.layer_groups`."""
        names = [f"blocks.{i}" for i in range(self.depth)]
        outer = (self.depth - 1) // 2
        return {
            "down": names[:outer],
            "middle": names[outer : self.depth - outer],
            "up": names[self.depth - outer :],
        }


def stages_of(network: Network, modules: Sequence[nn.Module]) -> list[Stage]:
    """Return modules (tokens, embedded, dropout_rows) -> tokens of a network as one stage each."""
    return [Stage([module], partial(_run, network, module)) for module in modules]


def _run(
    network: Network, module: nn.Module, state: State, embedded: Tensor, rows: Tensor | None
) -> State:
    return (network.call(module, state[0], embedded, rows),)


def to_patches(images: Tensor, size: int) -> Tensor:
    """Return patches (B, N, size^2 C) of images (B, C, H, W), N = H W / size^2.

    Patches go row by row over the image, the values of a patch row by row with the channels last.
    """
    b, c, height, width = images.shape
    rows, columns = height // size, width // size
    cut = images.reshape(b, c, rows, size, columns, size).permute(0, 2, 4, 3, 5, 1)
    return cut.reshape(b, rows * columns, size * size * c)


def to_images(patches: Tensor, size: int, image_shape: ImageShape) -> Tensor:
    """Return images (B, C, H, W) of patches (B, N, size^2 C), the inverse of `to_patches`."""
    c, height, width = image_shape
    b, rows, columns = len(patches), height // size, width // size
    cut = patches.reshape(b, rows, columns, size, size, c).permute(0, 5, 1, 3, 2, 4)
    return cut.reshape(b, c, height, width)


class Attention(nn.Module):
    """Self-attention over all tokens, softmax(q k^T / sqrt(d)) v for each head of d numbers."""

    def __init__(self, config: TransformerConfig, *, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=qkv_bias)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = RowDropout(config.dropout)

    def forward(self, x: Tensor, dropout_rows: Tensor | None) -> Tensor:
        """Return (B, N, width) from x (B, N, width)."""
        b, n, width = x.shape
        shape = b, n, self.heads, width // self.heads
        # views, whose last dimension is dense, as fused kernels need it; copies cost 1 to 5 % of a CPU's step
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        h = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, width / heads)
        out: Tensor = self.dropout(self.out(h.transpose(1, 2).reshape(b, n, width)), dropout_rows)
        return out


class MLP(nn.Module):
    """Two linear layers with a GELU in between, for each token by itself."""

    def __init__(self, config: TransformerConfig, *, gelu: Literal["none", "tanh"]) -> None:
        super().__init__()
        hidden = int(config.mlp_ratio * config.width)
        self.linear_1 = nn.Linear(config.width, hidden)
        self.linear_2 = nn.Linear(hidden, config.width)
        self.gelu = nn.GELU(approximate=gelu)
        self.dropout_1 = RowDropout(config.dropout)
        self.dropout_2 = RowDropout(config.dropout)

    def forward(self, x: Tensor, dropout_rows: Tensor | None) -> Tensor:
        """Return (B, N, width) from x (B, N, width)."""
        h = self.dropout_1(self.gelu(self.linear_1(x)), dropout_rows)
        out: Tensor = self.dropout_2(self.linear_2(h), dropout_rows)
        return out
