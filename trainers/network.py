"""The network of a training: its layers, its pre-trained weights, and what the objective adds to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .checkpoint import check_architecture
from .errors import UsageProblem
from .export import ModelCard, Pretrained
from .networks import Network
from .networks.low_rank import add_parts
from .trainer_config import TrainerConfig


def build_network(
    config: TrainerConfig,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    pretrained: Pretrained | None,
) -> Network:
    """Build the network for the beginning of a training; with LoRA, frozen weights need no gradient.

    Args:
        image_shape: (C, H, W).
        pretrained: the model that `config.pretrained` names, None without it.

    Raises:
        UsageProblem: sizes, layers or ranks that do not fit, or classes other than the pretrained model's.
        CheckpointProblem: the pretrained model is of another architecture.
    """
    network = _build(config, image_shape, len(class_names))
    if config.pretrained is not None:
        assert pretrained is not None
        check_fits(pretrained.card, config, class_names, image_shape)
        new = config.pretrained.labels == "new"
        weights = dict(pretrained.weights)
        if new:
            weights["labels.weight"] = network.labels.weight.detach()
        check_architecture(weights, dict(network.named_parameters()))
        network.load_state_dict(weights)
    _adapt(network, config)
    return network


def build_plain_network(
    config: TrainerConfig, image_shape: tuple[int, int, int], num_classes: int
) -> Network:
    """Build a network of the same layers and sizes, whatever its weights; no random state changes.

    Args:
        image_shape: (C, H, W).

    Raises:
        UsageProblem: sizes, layers or ranks that do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        network = _build(config, image_shape, num_classes)
        _adapt(network, config)
    return network


def _build(config: TrainerConfig, image_shape: tuple[int, int, int], num_classes: int) -> Network:
    try:
        return config.model.build(image_shape, num_classes)
    except ValueError as error:
        raise UsageProblem(str(error), "change model.* or the image size") from error


def _adapt(network: Network, config: TrainerConfig) -> None:
    """Add what LoRA, the objective and the augmentation need."""
    if config.pretrained is not None and config.pretrained.lora is not None:
        network.requires_grad_(False)
        network.labels.requires_grad_(config.pretrained.labels == "new")  # it is not trained yet
        add_parts(network, "general", config.pretrained.lora, "pretrained.lora")
    config.objective.prepare(network)
    if config.augmentation.numbers:
        network.add_augmentation_conditioning(config.augmentation.numbers)


def check_fits(
    card: ModelCard,
    config: TrainerConfig,
    class_names: Sequence[str],
    image_shape: tuple[int, int, int],
) -> None:
    """Check that a training can start from a model, by the model's card.

    The shapes of the weights do not show everything: attention heads, norm groups and the meaning of
    the output are missing.

    Args:
        class_names: of the training data.
        image_shape: (C, H, W) of the training data.

    Raises:
        UsageProblem: another architecture, noise process, image shape, or other classes.
    """
    assert config.pretrained is not None
    source = config.pretrained.model
    free = {"dropout", "initial_weights", *config.process.free}
    for part, its, ours in (
        ("model", card.model, config.model),
        ("process", card.process, config.process),
    ):
        for key, value in its.model_dump(exclude=free).items():
            own = getattr(ours, key, None)
            if own != value and not (own is None and key in config.process.measures):
                raise UsageProblem(
                    f"{source} has {part}.{key}={value}, this training {own}",
                    f"set {part}.{key}={value}, or start from another model",
                )
    if card.image_shape != image_shape:
        raise UsageProblem(
            f"{source} generates images of {_sizes(card.image_shape)}, the data are "
            f"{_sizes(image_shape)} (C x H x W)",
            "change data.*, or start from another model",
        )
    if config.pretrained.labels == "keep" and card.class_names != list(class_names):
        raise UsageProblem(
            f"{source} has {_summary(card.class_names)}, the data have {_summary(class_names)}",
            "set pretrained.labels=new to initialise the label embedding anew, or use the same classes",
        )


def check_guide(
    card: ModelCard, name: str, class_names: Sequence[str], image_shape: tuple[int, int, int]
) -> None:
    """Check that a model can be the guide of another one; process and network may differ.

    Args:
        card: of the guide.
        name: of the guide, for the message.
        class_names: of the model that is guided.
        image_shape: (C, H, W), likewise.

    Raises:
        UsageProblem: other classes, or another image shape.
    """
    if card.class_names != list(class_names):
        raise UsageProblem(
            f"guide {name} has {_summary(card.class_names)}, the model {_summary(class_names)}",
            "set sampling.guidance.guide to a model of the same classes",
        )
    if card.image_shape != image_shape:
        raise UsageProblem(
            f"guide {name} generates images of {_sizes(card.image_shape)}, the model of "
            f"{_sizes(image_shape)} (C x H x W)",
            "set sampling.guidance.guide to a model of the same image shape",
        )


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _summary(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', ..' if len(names) > 3 else ''})"
