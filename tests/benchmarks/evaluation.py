"""The metrics: FID against the matrix root, neighbours against their products, and 50,000 images.

    evaluation.py            # a part of `make bench`
    evaluation.py --large    # 50,000 x 2048 features on both sides: some twenty minutes

Features are those of no network: half of a random mixture's values are zero, as after a ReLU.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from measure import Result, cpu_seconds, hand_over, ratios
from scipy.linalg import sqrtm

from whipray.platform.evaluation.bootstrap import Floats32, Sample, resample
from whipray.platform.evaluation.config import EvaluationConfig
from whipray.platform.evaluation.metrics import METRICS
from whipray.platform.evaluation.metrics.fid import frechet_distance
from whipray.platform.evaluation.metrics.products import products, self_products

D = 2048
CLASS_IMAGES = 500
ROOT_ROUNDS = 3  # a matrix root takes most of a minute
NEIGHBOURS, ROUNDS = 4000, 5
LARGE, CLASSES, LOGITS, RESAMPLES = 50_000, 10, 1008, 200


def features(n: int, seed: int) -> Floats32:
    """(n, D), of about 200 directions and noise."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(200, D)).astype(np.float32) / 14
    found = generator.normal(size=(n, 200)).astype(np.float32) @ mixing
    found += 0.3 * generator.standard_normal((n, D), np.float32) + 0.02 * seed
    return np.maximum(found, 0, out=found)


def sample(n: int, resamples: int, seed: int) -> Sample:
    """Seed 1 is the real side."""
    logits = np.random.default_rng(seed).standard_normal((n, LOGITS), np.float32)
    labels = np.arange(n) % CLASSES
    side = "real" if seed else "generated"
    return resample(features(n, seed), logits, labels, resamples, 0, side)


def frechet_by_root(x: Floats32, y: Floats32) -> float:
    """As pytorch-fid has it: scipy's root of the product of covariances."""
    s, t = np.cov(x.T.astype(float)), np.cov(y.T.astype(float))
    apart = x.mean(0, dtype=float) - y.mean(0, dtype=float)
    return float(apart @ apart + np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t).real))


def fid() -> list[Result]:
    x, y = features(CLASS_IMAGES, 0), features(CLASS_IMAGES, 1)
    found: dict[str, float] = {}

    def own(_: int) -> None:
        found["own"] = frechet_distance(x, y)[0]

    def root(_: int) -> None:
        found["root"] = frechet_by_root(x, y)

    times = cpu_seconds({"own": own, "root": root}, ROOT_ROUNDS)
    apart = abs(found["own"] - found["root"])
    what = f"FID, {CLASS_IMAGES} images of {D} features"
    return [
        Result(what, times["own"], "s CPU"),
        Result(
            f"{what}, scipy's root over own", ratios(times["root"], times["own"]), "x", None, 100
        ),
        Result(f"{what}, difference of the two", [apart], "", 1e-3),
    ]


def neighbours() -> list[Result]:
    """Precision and recall, without and with resamples, against the products alone."""
    x, y = sample(NEIGHBOURS, RESAMPLES, 0), sample(NEIGHBOURS, RESAMPLES, 1)
    alone = [replace(side, weights=side.weights[:, :1]) for side in (x, y)]
    metric = METRICS["precision_recall"]

    def bare(_: int) -> None:
        tiles = chain(
            self_products(x.features), self_products(y.features), products(x.features, y.features)
        )
        for _tile in tiles:
            pass

    times = cpu_seconds(
        {
            "bare": bare,
            "estimate": lambda _: metric.compute(*alone, metric.settings(), 0),
            "resampled": lambda _: metric.compute(x, y, metric.settings(), 0),
        },
        ROUNDS,
    )
    what = f"precision and recall, {NEIGHBOURS} images of {D} features"
    return [
        Result(what, times["estimate"], "s CPU"),
        Result(f"{what}, over its products", ratios(times["estimate"], times["bare"]), "x", 1.3),
        Result(
            f"{what}, with {RESAMPLES} resamples", ratios(times["resampled"], times["bare"]), "x"
        ),
    ]


def large() -> list[Result]:
    """Every metric in a process of its own: wall time of each, and the highest memory of all."""
    script = [sys.executable, __file__, "--alone"]
    done = subprocess.run(script, stdout=subprocess.PIPE, text=True, check=True)
    return [Result(**result) for result in json.loads(done.stdout.splitlines()[-1])]


def alone() -> list[Result]:
    x, y = sample(LARGE, RESAMPLES, 0), sample(LARGE, RESAMPLES, 1)
    config = EvaluationConfig(prd={"runs": 1})  # each run takes the same again
    what = f"{LARGE} images of {D} features, {RESAMPLES} resamples"
    results = []
    for name, metric in METRICS.items():
        if metric.needs_nearest:
            continue
        start = time.perf_counter()
        values = metric.compute(x, y, metric.settings_in(config), config.seed)
        seconds = time.perf_counter() - start
        text = ", ".join(f"{output} {replicates[0]:.4g}" for output, replicates in values.items())
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of KiB
        print(f"{name}: {seconds:.0f} s, {memory:.2f} GiB so far; {text}", file=sys.stderr)
        run = ", 1 run" if name == "prd" else ""
        results.append(Result(f"{name}{run}, {what}", [seconds], "s"))
    return [*results, Result(f"memory, {what}", [memory], "GiB", 4.0)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure what the project promises of its metrics."
    )
    parser.add_argument("--large", action="store_true", help="50,000 images; on all cores")
    parser.add_argument("--alone", action="store_true", help="the same, in this process")
    options = parser.parse_args()
    if options.large or options.alone:
        hand_over(alone() if options.alone else large())
        return
    torch.set_num_threads(1)
    hand_over([*fid(), *neighbours()])


if __name__ == "__main__":
    main()
