"""From bytes in memory to a training batch, CPU time.

The platform's way against torchvision's: both start from decoded 32x32 images, shuffle, mirror half of them and
scale to [-1, 1]. Then what a step asks of the host before a GPU has its images and small random numbers (the
noise is the GPU's): all of it where it is asked for, and with a thread that makes the next steps' ahead, what
is left to the training's thread and what the other one does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from measure import Result, cpu_seconds, hand_over, ratios
from PIL import Image
from torchvision import transforms
from workload import config_of, random_images

from whipray.trainers.data.batches import gather, to_float
from whipray.trainers.data.order import IndexOrder
from whipray.trainers.global_batches import GlobalBatches, Rows
from whipray.trainers.objectives import CBDMConfig
from whipray.trainers.objectives.base import keep_labels
from whipray.trainers.objectives.cbdm import CBDM
from whipray.trainers.processes import VPConfig
from whipray.trainers.randomness import BatchRandom

ROUNDS = 15
IMAGES = 512  # a round
BATCH = 64
CLASSES, STEPS, PAUSE_S = 1000, 20, 0.002
BESIDE, LAUNCHES = 128, 2_700  # rows, and kernels of a step on an H100
TARGETS_MS = {(128, 32): 0.25, (512, 32): 0.8}
PROCESS = VPConfig().build()

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


@dataclass(frozen=True)
class HostWork:
    """Milliseconds of CPU a step."""

    whole: list[float]
    """Without a thread."""
    left: list[float]
    """Of the training's thread, with one."""
    ahead: list[float]
    """Of the thread."""


def numbers(rng: BatchRandom, objective: CBDM) -> None:
    """The small random numbers of CBDM, which has the most: t, dropped labels and y'."""
    PROCESS.sample_times(rng)
    kept = keep_labels(rng, objective.config)
    objective.sample_y_prime(kept.nonzero()[:, 0], rng)


def host_work(rows: int, side: int) -> HostWork:
    """Measure steps of `rows` images of 1000 classes, with a pause between them in which a device would work."""
    train = random_images(20_000, CLASSES, side)
    config = config_of({"name": "cbdm", "label_drop": 0.1}, {}, model={}, batch=rows)
    objective = CBDMConfig(label_drop=0.1).build(train.class_counts.tolist())
    ahead, spot = (GlobalBatches(config, train, CPU) for _ in range(2))
    work = HostWork([], [], [])
    for number in range(ROUNDS * STEPS + STEPS):  # the first round warms up
        time.sleep(PAUSE_S)
        at = Rows(number * rows, 0, rows)
        start, process = time.thread_time(), time.process_time()
        numbers(ahead._prefetch.take(at).rng, objective)
        left = time.thread_time() - start
        time.sleep(PAUSE_S)  # the thread ends what that began
        other = time.process_time() - process - (time.thread_time() - start)
        start = time.thread_time()
        prepared = spot._prepare(at)
        numbers(replace(prepared.rng, ahead=None), objective)
        whole = time.thread_time() - start
        if number >= STEPS:
            for values, seconds in ((work.whole, whole), (work.left, left), (work.ahead, other)):
                values.append(1e3 * seconds)
    ahead.close()
    by_round = (
        [fmean(values[i * STEPS :][:STEPS]) for i in range(ROUNDS)]
        for values in (work.whole, work.left, work.ahead)
    )
    return HostWork(*by_round)


def beside_launches() -> dict[str, list[float]]:
    """Wall time of steps that only launch, as Python does all the time under a fast GPU: both threads want it."""
    train = random_images(20_000, CLASSES)
    config = config_of({"name": "cbdm", "label_drop": 0.1}, {}, model={}, batch=BESIDE)
    objective = CBDMConfig(label_drop=0.1).build(train.class_counts.tolist())
    ahead, spot = (GlobalBatches(config, train, CPU) for _ in range(2))
    little = torch.zeros(8)

    def launch() -> None:
        for _ in range(LAUNCHES):
            little.add_(1)

    def with_thread(number: int) -> None:
        numbers(ahead._prefetch.take(Rows(number * BESIDE, 0, BESIDE)).rng, objective)
        launch()

    def without(number: int) -> None:
        prepared = spot._prepare(Rows(number * BESIDE, 0, BESIDE))
        numbers(replace(prepared.rng, ahead=None), objective)
        launch()

    variants = {"with": with_thread, "without": without}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(2 * ROUNDS):
        for name, step in variants.items():
            start = time.perf_counter()
            for number in range(STEPS):
                step(round_ * STEPS + number)
            seconds[name].append((time.perf_counter() - start) / STEPS)
    ahead.close()
    return seconds


def host_results() -> list[Result]:
    """The table of sizes."""
    results = []
    for side in (32, 64):
        for rows in (64, 128, 512, 2048):
            work = host_work(rows, side)
            limit = TARGETS_MS.get((rows, side))
            what = f"host work of a step, {rows} rows, {side} px"
            results += [
                Result(f"{what}: without a thread", work.whole, "ms CPU"),
                Result(f"{what}: the training's thread", work.left, "ms CPU", at_most=limit),
                Result(f"{what}: the thread ahead", work.ahead, "ms CPU"),
            ]
    return results


def main() -> None:
    torch.set_num_threads(1)
    beside = beside_launches()
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
            *host_results(),
            Result(
                f"step of {LAUNCHES:,} launches, with the thread over without",
                ratios(beside["with"], beside["without"]),
                "x",
                at_most=1.02,
            ),
        ]
    )


if __name__ == "__main__":
    main()
