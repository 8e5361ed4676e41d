"""The feature network of an evaluation: a small residual network trained on the reference images.

Its training is not `fit.py`'s, which follows LDAM-DRW: this one is short, and what it trains is kept
by the hash of its weights, so that every change of a number here makes all evaluations new.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.batches import crop
from ..data.long_tail import MOST_UNEVEN
from ..data.packed import PackedImages
from .small_resnet_config import SmallResNetConfig

WIDTH, FEATURES = 32, 64
BATCH = 64


class SmallResNet(nn.Module):
    """Convolutions down to 4 x 4, mean over positions, one linear layer.

    Args:
        shape: (channels, height, width) of the images, at least 8 x 8.
        classes: number of logits.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, size = shape[0], min(shape[1:])
        stride = max(1, size // 16)  # the residual part starts at 16 x 16: what a CPU can bear
        kernel = max(3, 2 * stride - 1)  # no pixel is skipped
        self.stem = nn.Conv2d(channels, WIDTH, kernel, stride, padding=kernel // 2)
        blocks, size = [_Residual(WIDTH, WIDTH, 1)], size // stride
        while size >= 8 or len(blocks) == 1:
            blocks.append(_Residual(WIDTH if len(blocks) == 1 else FEATURES, FEATURES, 2))
            size //= 2
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.GroupNorm(8, FEATURES)
        self.head = nn.Linear(FEATURES, classes)

    def features(self, images: Tensor) -> Tensor:
        """Return features, uint8 (N, C, H, W) -> float32 (N, 64), each at least zero."""
        x = self.blocks(self.stem(images.float() / 127.5 - 1))
        return F.relu(self.norm(x)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, uint8 (N, C, H, W) -> (N, K)."""
        return self.head(self.features(images))  # type: ignore[no-any-return]


class _Residual(nn.Module):
    """Two 3 x 3 convolutions around a shortcut, normalised first (He et al. 2016)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(8, out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.match = nn.Conv2d(channels, out, 1, bias=False) if out != channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv1(F.relu(self.norm1(x)))
        y = self.conv2(F.relu(self.norm2(y)))
        shortcut: Tensor = self.match(self.pool(x))
        return y + shortcut


def train_small_resnet(
    reference: PackedImages,
    config: SmallResNetConfig,
    device: torch.device,
    on_phase: Callable[[str], None],
) -> tuple[SmallResNet, NDArray[np.int64], NDArray[np.int64]]:
    """Train a network on four fifths of every class.

    The same reference, config, device and number of threads give the same bits; the global random
    state is left as it was.

    Returns:
        the network, and the indices of the images that it was and was not trained on.
    """
    generator = torch.Generator().manual_seed(config.seed)
    trained, held_out = _split(reference.labels, generator)
    with (
        torch.random.fork_rng(devices=[]),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.default_generator.manual_seed(config.seed)  # first weights
        network = SmallResNet(reference.image_shape, reference.num_classes).to(device)
        images = torch.tensor(
            np.asarray(reference.images), device=device
        )  # copied: it may be read-only
        labels = torch.tensor(reference.labels, device=device)
        _optimise(network, images[trained], labels[trained], config, generator, on_phase)
    return network, trained.numpy(), held_out.numpy()


def _optimise(
    network: SmallResNet,
    images: Tensor,
    labels: Tensor,
    config: SmallResNetConfig,
    generator: torch.Generator,
    on_phase: Callable[[str], None],
) -> None:
    """Train by AdamW with one cycle over all epochs; smoothed labels keep the features graded."""
    batches = max(1, len(images) // BATCH)
    counts = torch.bincount(labels)
    # Real images that are not even: every class weighs alike, as it does in what is measured.
    uneven = counts.max() > MOST_UNEVEN * counts.min()
    weight = len(labels) / (len(counts) * counts) if uneven else None
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.epochs * batches
    )
    for epoch in range(config.epochs):
        on_phase(f"training the feature network: epoch {epoch + 1} of {config.epochs}")
        for rows in torch.randperm(len(images), generator=generator).tensor_split(batches):
            batch = _augment(images[rows.to(images.device)], config, generator)
            targets = labels[rows.to(labels.device)]
            loss = F.cross_entropy(network(batch), targets, weight, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def _augment(images: Tensor, config: SmallResNetConfig, generator: torch.Generator) -> Tensor:
    """Shift every image by whole pixels of its own, edges repeated, and mirror half with `flips`."""
    rows, (height, width) = len(images), images.shape[2:]
    corners = torch.randint(2 * config.shift + 1, (2, rows), generator=generator)
    top, left = corners.to(images.device)
    mirrored = None
    if config.flips:
        mirrored = torch.rand(rows, generator=generator).to(images.device) < 0.5
    padded = F.pad(images.float(), (config.shift,) * 4, mode="replicate")
    return crop(padded, top, left, (height, width), mirrored)


def _split(labels: NDArray[np.int64], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the indices of four fifths and one fifth (at least one image) of every class."""
    train, held_out = [], []
    for c in np.unique(labels):
        rows = torch.from_numpy(np.flatnonzero(labels == c))
        rows = rows[torch.randperm(len(rows), generator=generator)]
        border = max(1, len(rows) // 5)
        held_out.append(rows[:border])
        train.append(rows[border:])
    return torch.cat(train), torch.cat(held_out)
