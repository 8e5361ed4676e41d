"""A small exported model, without a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from whipray.trainers.export import ModelCard, write_exported
from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.processes import VPConfig

from .sampling import ddim


def export_small(
    folder: Path,
    names: Sequence[str] = ("cat", "dog", "owl"),
    counts: Sequence[int] = (9, 3, 1),
    shape: tuple[int, int, int] = (3, 8, 8),
) -> ModelCard:
    """Write a U-Net with weights of chance, which makes images that differ."""
    config = UNetConfig(
        base_channels=8,
        channel_mult=(1,),
        blocks_per_level=1,
        norm_groups=4,
        attention_resolutions=(),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet(config, shape, len(names))
        for parameter in network.parameters():  # its last layer is born at zero
            torch.nn.init.normal_(parameter, std=0.2)
    card = ModelCard(
        model=config,
        process=VPConfig(),
        sampling=ddim(2, 0.5),
        image_shape=shape,
        class_names=list(names),
        class_counts=list(counts),
        images_seen=64,
        checkpoint="0" * 16,
    )
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    write_exported(folder, card, weights)
    return card
