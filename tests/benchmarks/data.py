"""From bytes in memory to a training batch: the platform's way against torchvision's, CPU time.

Both start from decoded 32x32 images, shuffle, mirror half of them and scale to [-1, 1].
"""

from __future__ import annotations

import torch
from measure import Result, cpu_seconds, hand_over, ratios
from PIL import Image
from torchvision import transforms
from workload import random_images

from whipray.trainers.data.batches import gather, to_float
from whipray.trainers.data.order import IndexOrder
from whipray.trainers.randomness import BatchRandom

ROUNDS = 15
IMAGES = 512  # a round
BATCH = 64

PACKED = random_images(IMAGES)
ORDER = IndexOrder(PACKED.labels, PACKED.num_classes, "natural", 0)
CPU = torch.device("cpu")

PIXELS = PACKED.images.transpose(0, 2, 3, 1).copy()  # (N, H, W, C), as torchvision's CIFAR has them
CHAIN = transforms.Compose(
    [
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ]
)


def batched(number: int) -> None:
    """As `Training` does it, random numbers included."""
    for first in range(number * IMAGES, (number + 1) * IMAGES, BATCH):
        indices = ORDER.indices(first, BATCH)
        flip = BatchRandom(0, first // BATCH, 0, BATCH, CPU).uniform("flip")[:, 0] < 0.5
        to_float(gather(PACKED, indices, CPU), flip)


def one_by_one(number: int) -> None:  # noqa: ARG001
    """As a data set and a collating loader do it, without the loader's own cost."""
    order = torch.randperm(IMAGES).tolist()
    for first in range(0, IMAGES, BATCH):
        torch.stack([CHAIN(Image.fromarray(PIXELS[i])) for i in order[first : first + BATCH]])


def main() -> None:
    torch.set_num_threads(1)
    times = cpu_seconds({"own": batched, "torchvision": one_by_one}, ROUNDS)
    hand_over(
        [
            Result("data, batched", [1e6 * s / IMAGES for s in times["own"]], "µs CPU an image"),
            Result(
                "data, torchvision over batched",
                ratios(times["torchvision"], times["own"]),
                "x",
                at_least=8.0,
            ),
        ]
    )


if __name__ == "__main__":
    main()
