"""The classifier: its losses beside the CPU's, its speed, and its accuracy in the time that is left."""

from __future__ import annotations

import time

import numpy as np
import torch
from classifier import EPOCHS, PUBLISHED, recipe, train
from images import read_images

from whipray.trainers.classification.config import ClassificationConfig
from whipray.trainers.classification.fit import train_classifier
from whipray.trainers.classification.losses import LDAMConfig
from whipray.trainers.data import PackedImages, Splits

from .setting import Setting, parse
from .timing import peak_memory, synchronize

TOLERANCES = {"fp32": 1e-3, "bf16": 2e-2}
"""Relative, of a mean loss over few steps."""
STEPS = 5
TIMED_STEPS = 60


def evenly(images: PackedImages, count: int) -> PackedImages:
    """So many of the images, from the first to the last: they lie class by class."""
    return images.select(np.linspace(0, len(images.labels) - 1, count).astype(np.int64))


def losses_beside_the_cpu(setting: Setting, images: PackedImages) -> None:
    """The mean loss of the first steps on this device, beside the CPU's in fp32."""
    few = evenly(images, 32 * STEPS)

    def loss(config: ClassificationConfig, device: torch.device) -> float:
        found: list[float] = []
        train_classifier(
            few, config, 0, device, after_epoch=lambda _epoch, loss, _trained: found.append(loss)
        )
        return found[0]

    for precision, limit in TOLERANCES.items():
        config = recipe(1, precision).model_copy(
            update={"batch_size": 32, "lr": 0.01, "loss": LDAMConfig()}
        )
        exact = loss(config.model_copy(update={"precision": "fp32"}), torch.device("cpu"))
        gap = abs(loss(config, setting.device) / exact - 1)
        what = f"ResNet-32, LDAM, {precision}: mean loss of {STEPS} steps beside the CPU's in fp32"
        setting.say(what, {"relative": gap}, f"at most {limit:g}", gap <= limit)


def images_per_second(setting: Setting, images: PackedImages, precision: str) -> float:
    """Of whole steps, with crops and transfers; the first ones are not counted."""
    steps = 3 if setting.toy else TIMED_STEPS
    some = evenly(images, 128 * steps)
    times: list[float] = []

    def note(*_: object) -> None:
        synchronize(setting.device)
        times.append(time.perf_counter())

    config = recipe(4, precision)
    train_classifier(some, config, 0, setting.device, after_epoch=note)
    speed = len(some.labels) / min(np.diff(times))
    numbers = {"images/s": speed, **peak_memory(setting.device)}
    setting.say(f"ResNet-32, {precision}, 128", numbers)
    return speed


def accuracy(setting: Setting, splits: Splits, speed: float) -> None:
    """One seed in as many epochs as there is time for, up to all of them."""
    # a test image takes a third of a training image, and some time is kept for what is not foreseen
    each = (len(splits.train.labels) + len(splits.reference.labels) / 3) / speed
    epochs = 2 if setting.toy else min(EPOCHS, int(0.8 * setting.left() / each) // 10 * 10)
    classes = splits.train.num_classes
    what = f"CIFAR-{classes}-LT, {epochs} of {EPOCHS} epochs, one seed: accuracy"
    if epochs < 2:
        setting.say(what, {}, "no time was left")
        return
    start = time.perf_counter()
    found = train(splits, recipe(epochs), 0)
    numbers = {
        "% at the last epoch": 100 * found.last,
        "% at the best on the test images": 100 * found.best,
        "s": time.perf_counter() - start,
    }
    published = f"published with {EPOCHS} epochs: {100 * PUBLISHED[classes]:.1f} %"
    setting.say(what, numbers, published)


def main(setting: Setting) -> None:
    splits = setting.splits() if setting.images is None else read_images(setting.images)
    if setting.toy:
        few = evenly(splits.train, 256)
        splits = Splits(few, few)
    losses_beside_the_cpu(setting, splits.train)
    speed = images_per_second(setting, splits.train, "fp32")
    images_per_second(setting, splits.train, "bf16")
    accuracy(setting, splits, speed)


if __name__ == "__main__":
    main(parse("classifier"))
