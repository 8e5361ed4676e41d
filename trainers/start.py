"""Where a training's weights start from: another model, whole or frozen under LoRA's adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from torch import Tensor

from .backbones.low_rank import LowRankConfig
from .checkpoint import describe
from .config import Config
from .errors import UsageProblem
from .export import WEIGHTS, Card, read_exported

if TYPE_CHECKING:
    from .trainer_config import TrainerConfig


class LoRAConfig(LowRankConfig):
    """LoRA's general part, B^g A^g; the rest of the network is frozen."""

    layers: tuple[str, ...] = Field(("embedding", "down", "middle", "up"), min_length=1)
    """As `LowRankConfig.layers`; the default leaves out `head` and `tail`, whose matrices, as wide as
    an image has channels, can have no such rank."""
    rank: int | float = 16


class StartConfig(Config):
    """What a training starts from; its optimizer and warm-up start anew."""

    model: str
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION`, a run's `NAME`, a sweep's `SWEEP/NUMBER` or
    `SWEEP/pretrain`, or the path of a folder with an exported model (`./NAME` where it could be read as
    one of these); of a run, its last checkpoint's averaged weights."""
    labels: Literal["keep", "new"] = "keep"
    """new: make the label embedding anew, for data with other classes (CBDM table 2, third block)."""
    lora: LoRAConfig | None = None
    """Train low-rank adapters only (CALL section 5.3); None trains everything."""


@dataclass(frozen=True)
class Start:
    """A model to start from, read."""

    card: Card
    weights: dict[str, Tensor]
    hash: str
    """SHA-256 of its weights file."""


def read_start(folder: Path) -> Start:
    """Read an exported model.

    Raises:
        CheckpointProblem: files that are missing or cannot be read.
    """
    card, weights = read_exported(folder)
    return Start(card, weights, describe(folder / WEIGHTS).sha256)


def check_fits(
    card: Card,
    config: TrainerConfig,
    class_names: Sequence[str],
    image_shape: tuple[int, int, int],
) -> None:
    """Whether a training can start from a model, by what its card says.

    Not all of it shows in the shapes of the weights: attention heads, norm groups and the meaning of
    the output do not.

    Args:
        class_names: of the training data.
        image_shape: (C, H, W) of the training data.

    Raises:
        UsageProblem: another architecture, noise process, image shape, or other classes.
    """
    assert config.start is not None
    source = config.start.model
    for part, its, ours in (
        ("model", card.model, config.model),
        ("diffusion", card.diffusion, config.diffusion),
    ):
        for key, value in its.model_dump(exclude={"dropout"}).items():
            if getattr(ours, key) != value:
                raise UsageProblem(
                    f"{source} has {part}.{key}={value}, this training {getattr(ours, key)}",
                    f"set {part}.{key}={value}, or start from another model",
                )
    if card.image_shape != image_shape:
        raise UsageProblem(
            f"{source} makes images of {_sizes(card.image_shape)}, the data are "
            f"{_sizes(image_shape)} (C x H x W)",
            "change data.*, or start from another model",
        )
    if config.start.labels == "keep" and card.class_names != list(class_names):
        raise UsageProblem(
            f"{source} knows {_some(card.class_names)}, the data have {_some(class_names)}",
            "set start.labels=new to make the label embedding anew, or use the same classes",
        )


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', ..' if len(names) > 3 else ''})"
