"""The network of a training: a U-Net, what it starts from, and what its objective adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .backbones import UNet
from .backbones.low_rank import add_parts
from .checkpoint import check_architecture
from .errors import UsageProblem
from .start import Start, check_fits

if TYPE_CHECKING:
    from .trainer_config import TrainerConfig


def build_network(
    config: TrainerConfig,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    start: Start | None,
) -> UNet:
    """The network at the beginning of a training; with LoRA, what is frozen requires no gradient.

    Args:
        image_shape: (C, H, W).
        start: the model that `config.start` names, None without it.

    Raises:
        UsageProblem: sizes, layers or ranks that do not fit, or classes other than the start's.
        CheckpointProblem: the start is of another architecture.
    """
    try:
        network = UNet(config.model, image_shape, len(class_names))
    except ValueError as error:
        raise UsageProblem(str(error), "change model.* or the image size") from error
    if config.start is not None:
        assert start is not None
        check_fits(start.card, config, class_names, image_shape)
        new = config.start.labels == "new"
        weights = dict(start.weights)
        if new:
            weights["labels.weight"] = network.labels.weight.detach()
        check_architecture(weights, dict(network.named_parameters()))
        network.load_state_dict(weights)
        if config.start.lora is not None:
            network.requires_grad_(False)
            network.labels.requires_grad_(new)  # nobody has trained it yet
            add_parts(network, "general", config.start.lora, "start.lora")
    config.objective.prepare(network)
    if config.augmentation.numbers:
        network.listen_to_augmentation(config.augmentation.numbers)
    return network
