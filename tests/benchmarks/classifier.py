"""How accurate our classifier is beside the numbers that the long-tail literature compares with.

    classifier.py CIFAR-10-LT.parquet [--epochs N] [--seeds 3] [--precision bf16]

It trains ResNet-32 by LDAM-DRW's recipe on CIFAR-10-LT or CIFAR-100-LT with imbalance 100 and tests on
CIFAR's own test images. A file is one with the columns image, label and split, or what `pack_images.py`
makes of it. A seed of all 200 epochs takes minutes on a GPU and half a day on a CPU's core, where a
shorter schedule has to be asked for; its accuracy is compared with nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
from images import read_images

from whipray.trainers.classification.config import ClassificationConfig
from whipray.trainers.classification.fit import train_and_test
from whipray.trainers.data import Splits
from whipray.trainers.devices import choose_device

PUBLISHED = {10: 0.7036, 100: 0.3832}
"""Number of classes -> accuracy of cross entropy at imbalance 100, exponential (Cao et al. 2019, table 2)."""
EPOCHS = 200


@dataclass(frozen=True)
class Accuracy:
    """On all test images, of one seed."""

    last: float
    best: float
    """Of the best epoch, chosen on the test images, as LDAM-DRW's code prints it."""


def recipe(epochs: int, precision: str = "fp32") -> ClassificationConfig:
    """LDAM-DRW's, with its steps at the same shares of the epochs."""
    return ClassificationConfig.model_validate(
        {"epochs": epochs, "precision": precision, "normalise": "cifar", "flip": True}
    )


def train(
    splits: Splits,
    config: ClassificationConfig,
    seed: int,
    on_phase: Callable[[str], None] = lambda _line: None,
) -> Accuracy:
    """Train and test one classifier."""
    classes = range(splits.train.num_classes)
    outcome = train_and_test(
        splits.train,
        splits.reference,
        {"all": classes},
        config,
        seed,
        choose_device(),
        on_phase=on_phase,
    )
    return Accuracy(outcome.scores.accuracy["overall"], outcome.best_accuracy)


def summary(found: list[Accuracy], classes: int, epochs: int) -> list[str]:
    """What is printed in the end: means over seeds with standard errors, in percent."""
    lines = []
    published = PUBLISHED[classes]
    for name, values in (
        ("after the last epoch", [each.last for each in found]),
        ("at the best epoch, chosen on the test images", [each.best for each in found]),
    ):
        line = f"{name}: {100 * mean(values):.2f} %"
        if len(values) > 1:
            error = stdev(values) / len(values) ** 0.5
            line += f" +- {100 * error:.2f} (standard error over {len(values)} seeds)"
            if epochs == EPOCHS:
                apart = abs(mean(values) - published) / error if error else float("inf")
                line += f", {apart:.1f} standard errors from the published {100 * published:.2f} %"
        lines.append(line)
    if epochs != EPOCHS:
        lines.append(
            f"a schedule of {epochs} epochs: not to be compared with the published "
            f"{100 * published:.2f} %, which is of {EPOCHS}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of the classifier on long-tailed CIFAR.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}, on a GPU")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    device = choose_device()
    if options.epochs is None and device.type == "cpu":
        parser.error(f"{EPOCHS} epochs take hours on a CPU: give --epochs")
    epochs: int = options.epochs or EPOCHS
    splits = read_images(options.file)
    classes = splits.train.num_classes
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"CIFAR-{classes}-LT, {len(splits.train.labels):,} training and "
        f"{len(splits.reference.labels):,} test images; ResNet-32, {epochs} epochs, "
        f"{options.precision}, {where}"
    )
    found = []
    for seed in range(options.seeds):
        found.append(train(splits, recipe(epochs, options.precision), seed))
        print(
            f"seed {seed}: last {100 * found[-1].last:.2f} %, best {100 * found[-1].best:.2f} %",
            flush=True,
        )
    print("\n".join(summary(found, classes, epochs)))


if __name__ == "__main__":
    main()
