"""How much work a step is: multiplications and additions of network passes, known before anything runs.

A step trains or uses another network than the next, so passes alone do not compare.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ....trainers.classification.networks.build import build_network
from ....trainers.network import build_plain_network
from ....trainers.previews import TRAINING_PASSES
from ...config.experiment import Experiment
from ...runs.work import passes_of_image


class WorkOf:
    """The work of one experiment's networks, in operations.

    Args:
        image_shape: (C, H, W).
        classes: number of them.
    """

    def __init__(
        self, experiment: Experiment, image_shape: tuple[int, int, int], classes: int
    ) -> None:
        self.experiment, self.image_shape, self.classes = experiment, image_shape, classes

    def training(self, images: int) -> float:
        """Return the work of training the diffusion model on so many images."""
        return float(TRAINING_PASSES) * images * self._of_diffusion

    def generating(self, images: int, class_counts: list[int]) -> float:
        """Return the work of generating images.

        Args:
            class_counts: training images of each class, on which guidance may depend.
        """
        return float(images) * passes_of_image(self.experiment, class_counts) * self._of_diffusion

    def passes(self, passes: float) -> float:
        """Return the work of so many passes through the diffusion model."""
        return passes * self._of_diffusion

    def classifying(self, images: int) -> float:
        """Return the work of one classifier on so many images an epoch, without its tests."""
        epochs = self.experiment.classification.epochs
        return float(TRAINING_PASSES) * epochs * images * self._of_classifier

    def using_classifier(self, images: int) -> float:
        """Return the work of one pass of images through a classifier."""
        return float(images) * self._of_classifier

    def training_images(self, work: float) -> float:
        """Return on how many images the diffusion model is trained with as much work."""
        return work / (TRAINING_PASSES * self._of_diffusion)

    @cached_property
    def _of_diffusion(self) -> int:
        with torch.device("meta"):
            network = build_plain_network(self.experiment, self.image_shape, self.classes)
            one = (
                torch.empty(1, *self.image_shape),
                torch.empty(1),
                torch.zeros(1, dtype=torch.int64),
            )
        return _operations(network, *one)

    @cached_property
    def _of_classifier(self) -> int:
        config = self.experiment.classification
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            network = build_network(config.network, self.image_shape, self.classes)
            return _operations(network, torch.empty(1, *self.image_shape))


@torch.no_grad()
def _operations(network: nn.Module, *inputs: torch.Tensor) -> int:
    """Return the multiplications and additions of one pass."""
    with FlopCounterMode(display=False) as counter:
        network.eval()(*inputs)
    return int(counter.get_total_flops())
