"""A trained classifier, and the file that keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ..data.packed import Images, Pixels
from ..errors import CheckpointProblem, DataProblem
from ..integrity import Altered, load_described_arrays, save_arrays
from .config import ClassificationConfig
from .networks import ClassifierNetwork, build_network
from .recipe import Normaliser

FORMAT = 1
"""Raise it when a file could be misread: another network under the same config, other names of tensors."""
BATCH = 500

Floats = NDArray[np.float32]


class _Description(BaseModel):
    """What a file says besides the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = FORMAT
    config: ClassificationConfig
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True)
class TrainedClassifier:
    """A network with the normalisation that it was trained with, on one device.

    An image's logits and features depend on that image alone: batch norm uses the running statistics.
    """

    network: ClassifierNetwork
    config: ClassificationConfig
    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    class_names: tuple[str, ...]
    normalise: Normaliser
    device: torch.device

    def __post_init__(self) -> None:
        # convolutions on the CPU take a fifth less time in this layout, and a GPU's bf16 ones too
        self.network.to(self.device).to(memory_format=torch.channels_last)

    def logits(self, images: Pixels) -> Floats:
        """Return the logits of each class, uint8 (N, C, H, W) -> float32 (N, K).

        Raises:
            DataProblem: images of another shape.
        """
        return self._apply(self.network, images)

    def features(self, images: Images) -> Floats:
        """Return the input of the last layer, uint8 (N, C, H, W) -> float32 (N, d).

        Raises:
            DataProblem: images of another shape.
        """
        return self._apply(self.network.features, images)

    def save(self, path: Path) -> None:
        """Write weights, config and normalisation to one file of safetensors, with their hash.

        Raises:
            DiskProblem: it cannot be written.
        """
        description = _Description(
            config=self.config,
            image_shape=self.image_shape,
            class_names=self.class_names,
            mean=tuple(self.normalise.mean.flatten().tolist()),
            deviation=tuple(self.normalise.deviation.flatten().tolist()),
        )
        weights = {name: t.detach().cpu().numpy() for name, t in self.network.state_dict().items()}
        save_arrays(weights, path, description.model_dump(mode="json"))

    @torch.inference_mode()
    def _apply(self, function: Callable[[Tensor], Tensor], images: Images) -> Floats:
        if images.shape[1:] != self.image_shape:
            raise DataProblem(
                f"images are {images.shape[1:]}, the classifier takes {self.image_shape}",
                "give images of the size and channels that it was trained on",
            )
        self.network.eval()
        parts = []
        # Of no images, an empty batch all the same: it gives the other dimension.
        for start in range(0, max(len(images), 1), BATCH):
            # copied: the array may be read-only
            batch = torch.tensor(images[start : start + BATCH], device=self.device)
            parts.append(function(self.normalise(batch)).float().cpu())
        return torch.cat(parts).numpy()


def load_classifier(path: Path, device: torch.device, where: str = "") -> TrainedClassifier:
    """Read what `TrainedClassifier.save` wrote.

    Args:
        where: address that messages name in place of `path`, of what it is a copy of.

    Raises:
        CheckpointProblem: a file that is missing, damaged or of another version.
    """
    where = where or str(path)
    try:
        weights, content = load_described_arrays(path)
        if (stored := content.get("format")) != FORMAT:
            raise CheckpointProblem(
                f"{where}: classifier format {stored}, this version reads {FORMAT}",
                "delete the file; the classifier is trained again",
            )
        description = _Description.model_validate_json(json.dumps(content))
        network = build_network(
            description.config.network,
            description.image_shape,
            len(description.class_names),
            description.config.loss.head_scale,
        )
        network.load_state_dict({name: torch.from_numpy(a) for name, a in weights.items()})
    except (Altered, ValueError, RuntimeError) as error:
        why = str(error) if isinstance(error, Altered) else type(error).__name__
        raise CheckpointProblem(
            f"{where}: not a whole classifier ({why})",
            "delete the file; the classifier is trained again",
        ) from error
    return TrainedClassifier(
        network.eval(),
        description.config,
        description.image_shape,
        description.class_names,
        Normaliser.by(description.mean, description.deviation, device),
        device,
    )
