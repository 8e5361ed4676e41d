"""Distances to training images of the same class, against the matrix products that they are made of.

CIFAR-10-LT filled up to 5000 images of each class, in one thread: pixels of 32 x 32 RGB, and features of
64 and 512 values. The products are of float32 arrays that are there already, in the same blocks. And the
memory of 50,000 images of one class with 10,847 training images, the numbers of CIFAR-100-LT.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch
from measure import Result, cpu_seconds, hand_over, ratios

from whipray.platform.balancing.distances import COLUMNS, ROWS, nearest_in_class

ROUNDS = 5
REAL = np.array([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])
KINDS = {"pixels": 3072, "64 features": 64, "512 features": 512}
PEAK = """
import resource
import numpy as np
from whipray.platform.balancing.distances import nearest_in_class
rng = np.random.default_rng(0)
images, train = (rng.integers(0, 256, (n, 3, 32, 32), np.uint8) for n in (50_000, 10_847))
nearest_in_class(images, np.zeros(50_000, np.int64), train, np.zeros(10_847, np.int64))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def ratio_of(kind: str) -> list[float]:
    """CPU time of the distances over that of their products, in each round."""
    size, generated = KINDS[kind], 5000 - REAL
    of_pixels = kind == "pixels"
    rng = np.random.default_rng(0)

    def values(n: int) -> np.ndarray:
        if of_pixels:
            return rng.integers(0, 256, (n, size), np.uint8)
        return rng.standard_normal((n, size), np.float32)

    images, train = values(generated.sum()), values(REAL.sum())
    labels, own = np.repeat(np.arange(10), generated), np.repeat(np.arange(10), REAL)
    x, y = torch.from_numpy(images).float(), torch.from_numpy(train).float()
    pairs = list(zip(x.split(generated.tolist()), y.split(REAL.tolist()), strict=True))

    def products(_pass: int) -> None:
        for a, b in pairs:
            for rows in a.split(ROWS):
                for columns in b.split(COLUMNS):
                    rows @ columns.T

    seconds = cpu_seconds(
        {
            "distances": lambda _pass: nearest_in_class(images, labels, train, own) and None,
            "products": products,
        },
        ROUNDS,
    )
    return ratios(seconds["distances"], seconds["products"])


def main() -> None:
    torch.set_num_threads(1)
    results = [
        Result(f"nearest training image of the same class, {kind}", ratio_of(kind), "x", 1.3)
        for kind in KINDS
    ]
    peak = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True
    ).stdout
    results.append(
        Result("memory of 50,000 images and 10,847 training images", [float(peak)], "GiB", 4)
    )
    hand_over(results)


if __name__ == "__main__":
    main()
