"""A network by its name."""

from __future__ import annotations

from ...errors import DataProblem
from . import cifar_resnet, imagenet_resnet
from .base import ClassifierNetwork, NetworkName


def build_network(
    name: NetworkName, shape: tuple[int, int, int], classes: int, scale: float | None = None
) -> ClassifierNetwork:
    """Build a network with initial weights from the global generator.

    Args:
        name: resnet10, resnet18 and resnet50 are ImageNet's, the others CIFAR's.
        shape: (channels, height, width) of the images.
        scale: of a head of cosines; None for a linear one.

    Raises:
        DataProblem: the images are too small for it.
    """
    depth, (channels, *sizes) = int(name.removeprefix("resnet")), shape
    large = depth in imagenet_resnet.BLOCKS
    smallest = imagenet_resnet.MIN_SIZE if large else cifar_resnet.MIN_SIZE
    if min(sizes) < smallest:
        fits = large and min(sizes) >= cifar_resnet.MIN_SIZE
        raise DataProblem(
            f"images are {sizes[0]} x {sizes[1]}, and {name} needs at least {smallest} x {smallest} pixels",
            "set classification.network=resnet32" if fits else "scale the images up",
        )
    network = imagenet_resnet.ImageNetResNet if large else cifar_resnet.CifarResNet
    return network(depth, channels, classes, scale)
