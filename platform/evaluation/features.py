"""The feature network: a small classifier trained on the reference images, and its features.

Published Inception weights are made for photographs of 299 x 299 pixels and cannot always be had.
This network fits the data set at hand, needs nothing but its reference images, and names itself in
every result. Numbers are comparable only with those made by the same network (the same hash).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...trainers.config import Config
from ...trainers.errors import CheckpointProblem, DataProblem

if TYPE_CHECKING:
    from ...trainers.data.packed import PackedImages

NAME = "whipray-resnet-64"
VERSION = 1
"""Raise it when the network or its training changes: cached networks are then trained again."""

WIDTH, FEATURES = 32, 64
BATCH = 64
CPU = torch.device("cpu")


class FeatureConfig(Config):
    """How the feature network is trained."""

    epochs: int = Field(30, ge=1)
    """Passes over the reference images; 30 are seconds for 740 digits, minutes for 10,000 CIFAR
    images on a CPU."""

    learning_rate: float = Field(2e-3, gt=0)
    """Peak of the one-cycle schedule of AdamW."""

    weight_decay: float = Field(0.05, ge=0)
    """Of AdamW."""

    shift: int = Field(1, ge=0)
    """Largest shift of an image while training, pixels."""

    flips: bool = False
    """Mirror images while training; off, because digits and letters have a left and a right."""

    seed: int = Field(0, ge=0)
    """Of the split, the first weights, the order and the augmentation."""


@dataclass(frozen=True)
class Card:
    """What a feature network is: goes into every result that it had a part in."""

    name: str
    hash: str
    """16 hex digits over the weights."""
    trained_on: str
    """Fingerprint of the reference images."""
    images_trained: int
    images_held_out: int
    held_out_accuracy: float
    """On the fifth of the reference images that it was not trained on, in [0, 1]."""
    shape: tuple[int, int, int]
    """(channels, height, width) of the images that it takes."""
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Extracted:
    """What the network sees in N images."""

    features: NDArray[np.float64]  # (N, 64)
    probabilities: NDArray[np.float64]  # (N, classes)

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The most likely class of each image, (N,)."""
        found: NDArray[np.int64] = self.probabilities.argmax(1).astype(np.int64)
        return found


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


class _Network(nn.Module):
    """Convolutions down to 4 x 4, mean over positions, one linear layer."""

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
        """uint8 (N, C, H, W) -> float32 (N, 64), each at least zero."""
        x = self.blocks(self.stem(images.float() / 127.5 - 1))
        return F.relu(self.norm(x)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))  # type: ignore[no-any-return]


class FeatureNet:
    """A trained network with its card. Make one with `fit_or_load`."""

    def __init__(self, network: _Network, card: Card, device: torch.device) -> None:
        self.card = card
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = device
        self._seen: dict[str, Extracted] = {}

    @classmethod
    def fit(
        cls,
        reference: PackedImages,
        config: FeatureConfig,
        device: torch.device = CPU,
        say: Callable[[str], None] = lambda _line: None,
    ) -> FeatureNet:
        """Train on four fifths of every class and measure on the rest.

        The same reference, config, device and number of threads give the same bits; the global
        random state is left as it was.

        Raises:
            DataProblem: a class with fewer than two reference images, or images under 8 x 8.
        """
        _check_reference(reference)
        generator = torch.Generator().manual_seed(config.seed)
        train, held_out = _split(reference.labels, generator)
        with (
            torch.random.fork_rng(devices=[]),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        ):
            torch.default_generator.manual_seed(config.seed)  # first weights
            network = _Network(reference.image_shape, reference.num_classes).to(device)
            images = torch.tensor(reference.images, device=device)  # copied: it may be read-only
            labels = torch.tensor(reference.labels, device=device)
            _train(network, images[train], labels[train], config, generator, say)
        net = cls(
            network,
            Card(
                name=NAME,
                hash=_hash(network.state_dict()),
                trained_on=reference.fingerprint(),
                images_trained=len(train),
                images_held_out=len(held_out),
                held_out_accuracy=0.0,
                shape=reference.image_shape,
                class_names=tuple(reference.class_names),
            ),
            device,
        )
        predicted = net.extract(reference.images[held_out.numpy()]).predictions
        accuracy = float((predicted == reference.labels[held_out.numpy()]).mean())
        net.card = replace(net.card, held_out_accuracy=accuracy)
        return net

    @classmethod
    def fit_or_load(
        cls,
        reference: PackedImages,
        cache_dir: Path,
        config: FeatureConfig | None = None,
        device: torch.device = CPU,
        say: Callable[[str], None] = lambda _line: None,
    ) -> FeatureNet:
        """The network for this reference and config, from the cache or trained now.

        All who share the folder get one network, also when several train it at the same time: the
        first to finish is kept, and everybody reads it back. Machines that share no folder may
        differ in the last bits and so in the hash; copy the folder to compare across them.

        Raises:
            DataProblem: as `fit`.
            CheckpointProblem: a cached network that is damaged.
        """
        config = config or FeatureConfig()
        key = json.dumps([NAME, VERSION, reference.fingerprint(), config.model_dump()])
        folder = cache_dir / f"features-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        if not folder.exists():
            cls.fit(reference, config, device, say).save(folder)
        return cls.load(folder, device)

    def save(self, folder: Path) -> None:
        """Write `network.safetensors` and `card.json`; a folder that is there already is kept."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            weights = {k: v.cpu().contiguous() for k, v in self._network.state_dict().items()}
            save_file(weights, partial / "network.safetensors")
            (partial / "card.json").write_text(json.dumps(asdict(self.card), indent=1))
            partial.chmod(0o755)
            os.rename(partial, folder)  # whole or not at all, and never over another one
        except OSError:
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path, device: torch.device = CPU) -> FeatureNet:
        """Read what `save` wrote.

        Raises:
            CheckpointProblem: files that are missing, damaged or not those of the card.
        """
        try:
            found: dict[str, Any] = json.loads((folder / "card.json").read_text())
            found["shape"], found["class_names"] = (
                tuple(found["shape"]),
                tuple(found["class_names"]),
            )
            card = Card(**found)
            weights = load_file(folder / "network.safetensors")
            with torch.random.fork_rng(devices=[]):
                network = _Network(card.shape, len(card.class_names))
            network.load_state_dict(weights)
            intact = _hash(weights) == card.hash
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise _damaged(folder, type(error).__name__) from error
        if not intact:
            raise _damaged(folder, "its weights do not match its card")
        return cls(network, card, device)

    @torch.no_grad()
    def extract(self, images: NDArray[np.uint8], batch_size: int = 256) -> Extracted:
        """Features (N, 64) and class probabilities (N, classes), float64.

        Args:
            images: uint8 (N, C, H, W) of the card's shape.

        Raises:
            DataProblem: images of another type or shape.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self.card.shape:
            raise DataProblem(
                f"images are {images.dtype} {images.shape[1:]}, the feature network takes uint8 "
                f"{self.card.shape}",
                "use images of the reference's size, channels first, with values 0 to 255",
            )
        features, probabilities = [], []
        for start in range(0, len(images), batch_size):
            batch = torch.tensor(images[start : start + batch_size], device=self._device)
            found = self._network.features(batch)
            features.append(found.double().cpu())
            probabilities.append(self._network.head(found).double().softmax(1).cpu())
        return Extracted(
            torch.cat(features or [torch.empty(0, FEATURES, dtype=torch.float64)]).numpy(),
            torch.cat(
                probabilities or [torch.empty(0, len(self.card.class_names), dtype=torch.float64)]
            ).numpy(),
        )

    def of_reference(self, reference: PackedImages, batch_size: int = 256) -> Extracted:
        """As `extract`, kept: a search evaluates many samples against one reference."""
        key = reference.fingerprint()
        if key not in self._seen:
            self._seen[key] = self.extract(reference.images, batch_size)
        return self._seen[key]


def _train(
    network: _Network,
    images: Tensor,
    labels: Tensor,
    config: FeatureConfig,
    generator: torch.Generator,
    say: Callable[[str], None],
) -> None:
    """AdamW with one cycle over all epochs; labels are smoothed, so that features stay graded."""
    batches = max(1, len(images) // BATCH)
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.epochs * batches
    )
    for epoch in range(config.epochs):
        say(f"training the feature network: epoch {epoch + 1} of {config.epochs}")
        for rows in torch.randperm(len(images), generator=generator).tensor_split(batches):
            batch = _augment(images[rows.to(images.device)], config, generator)
            targets = labels[rows.to(labels.device)]
            loss = F.cross_entropy(network(batch), targets, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _augment(images: Tensor, config: FeatureConfig, generator: torch.Generator) -> Tensor:
    """Shift every image by its own whole pixels, edges repeated, and flip half if asked."""
    n, channels, height, width = images.shape
    shift = config.shift
    corner = torch.randint(2 * shift + 1, (2, n), generator=generator).to(images.device)
    padded = F.pad(images.float(), (shift,) * 4, mode="replicate")
    y = corner[0, :, None] + torch.arange(height, device=images.device)  # (n, H)
    x = corner[1, :, None] + torch.arange(width, device=images.device)  # (n, W)
    if config.flips:
        flip = torch.rand(n, generator=generator).to(images.device) < 0.5
        x = torch.where(flip[:, None], x.flip(1), x)
    row = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return padded[row, channel, y[:, None, :, None], x[:, None, None, :]]


def _split(labels: NDArray[np.int64], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of four fifths and one fifth (at least one image) of every class."""
    train, held_out = [], []
    for c in np.unique(labels):
        rows = torch.from_numpy(np.flatnonzero(labels == c))
        rows = rows[torch.randperm(len(rows), generator=generator)]
        border = max(1, len(rows) // 5)
        held_out.append(rows[:border])
        train.append(rows[border:])
    return torch.cat(train), torch.cat(held_out)


def _hash(weights: Mapping[str, Tensor]) -> str:
    """16 hex digits over names, shapes and values."""
    digest = hashlib.sha256(NAME.encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_reference(reference: PackedImages) -> None:
    counts = reference.class_counts
    if counts.min() < 2:
        c = int(counts.argmin())
        raise DataProblem(
            f"the reference has {counts[c]} images of class {c} ({reference.class_names[c]})",
            "give at least 2 real images of every class; 50 and more make the numbers useful",
        )
    if min(reference.images.shape[2:]) < 8:
        raise DataProblem(
            f"reference images are {reference.images.shape[2]} x {reference.images.shape[3]}",
            "the feature network needs at least 8 x 8 pixels; scale the images up",
        )


def _damaged(folder: Path, why: str) -> CheckpointProblem:
    return CheckpointProblem(
        f"{folder}: not a whole feature network ({why})", "delete the folder; it is trained again"
    )
