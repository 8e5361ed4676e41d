"""Settings of a classifier's training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..config import Config
from .losses import AnyLoss, CrossEntropyConfig
from .networks import NetworkName


class ClassificationConfig(Config):
    """How the classifier is trained; the defaults are LDAM-DRW's with cross entropy."""

    network: NetworkName = "resnet32"
    """resnet8 to resnet110 (depth 6 n + 2) are He et al.'s for CIFAR, for images of at least 8 x 8
    pixels; resnet10, resnet18 and resnet50 those for ImageNet, for at least 33 x 33."""

    epochs: int = Field(200, ge=1)
    """Passes over the images; `lr_schedule` scales with it."""

    epoch_of: Literal["all", "real"] = "all"
    """Length of an epoch when images are added (the papers do not say). all: every training image, so
    that more images also mean more steps. real: the number of real ones, so that all classifiers take
    the same number of steps."""

    lr: float = Field(0.1, gt=0)
    """Highest learning rate of SGD."""

    lr_schedule: Literal["steps", "cosine"] = "steps"
    """steps: LDAM-DRW's, a warm-up over the first 1/40, x 0.01 after 8/10, x 0.0001 after 9/10, which at
    200 epochs are the epochs 5, 160 and 180. cosine: half a cosine down to 0, without a warm-up (Kang et
    al. 2020). The rate is the same in all of an epoch."""

    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD; not Nesterov's."""

    weight_decay: float = Field(2e-4, ge=0)
    """Weight decay of all parameters."""

    batch_size: int = Field(128, ge=1)
    """Images per step; the last batch of an epoch may be smaller."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 trains with convolutions and products in bfloat16, under autocast; weights, loss and batch
    norm's statistics stay in fp32, and so does the trained network's use. A GPU, and a CPU that knows
    bf16, take about half the time."""

    crop: Literal["padded", "resized"] = "padded"
    """padded: the image within a black frame is cut to its own size at random. resized: a random part of
    0.08 to 1 of the area and 3/4 to 4/3 of the shape, scaled to the image's size (Szegedy et al. 2015),
    as is usual for ImageNet."""

    pad: int | None = Field(None, ge=0)
    """Width of the frame of crop=padded. None: an eighth of the image's height, which is the recipe's 4
    for CIFAR."""

    colour_jitter: float = Field(0.0, ge=0, lt=1)
    """Brightness, contrast and saturation are multiplied by up to this much less or more than 1, in
    random order. 0.4 is Kang et al.'s for ImageNet-LT."""

    flip: bool | None = None
    """Mirror half of the training images left to right. None: where the diffusion model's training does
    (`data.flip`, or an augmentation that mirrors)."""

    normalise: Literal["data", "cifar"] = "data"
    """data: by mean and deviation of each channel over the real training images. cifar: by the
    recipe's constants, for RGB only (its deviations are a fifth smaller than CIFAR's)."""

    loss: AnyLoss = CrossEntropyConfig()
    """What is minimised; all but ce and focal make up for classes that are uneven."""

    generated_weight: float = Field(1.0, ge=0)
    """omega of DiffuLT eq. 4, the weight of a generated image where a real one has 1; its authors
    use 0.3 for CIFAR. Copies that stand in for generated images weigh as much."""
