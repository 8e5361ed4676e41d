"""How often the 95 % intervals hold the truth, and how often equal models are called different.

    calibration.py                     # every setting, some minutes
    calibration.py --repetitions 100   # a quick look
    calibration.py 10x2x74-normal      # one setting: classes x generated x real images a class, law

Features have class means of a normal law and noise of the setting's law; both models are drawn from
one law, so that every difference is a false positive. Half of the pairs share 81 % of their noise, as
evaluations of two checkpoints from one seed do. The truth is the mean over the repetitions. Columns:
repetitions, share of intervals that hold the truth, mean half width over 1.96 true standard
deviations, false differences of models with noise of their own, and of models that share it. With 400
repetitions the standard errors are 0.8 % of the coverage and 1.5 % of the false differences.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
import torch
from scipy import stats

from whipray.platform.evaluation.arrays import Floats
from whipray.platform.evaluation.bootstrap import Estimate, Sample, resample
from whipray.platform.evaluation.compare import difference
from whipray.platform.evaluation.metrics import METRICS, OUTPUTS

D, CONFIDENCE, RESAMPLES, SHARED = 16, 0.95, 200, 0.9
SPREAD, SHIFT = 2.5, 0.3
"""Standard deviation of the class means, and how far the models are from the truth, in noises."""

LAWS: dict[str, Callable[[Floats], Floats]] = {
    "normal": lambda z: z,
    "gamma": lambda z: (stats.gamma(0.5).ppf(stats.norm.cdf(z)) - 0.5) / sqrt(0.5),
    "t5": lambda z: stats.t(5).ppf(stats.norm.cdf(z)) / sqrt(5 / 3),
    "t3": lambda z: stats.t(3).ppf(stats.norm.cdf(z)) / sqrt(3),
}
"""Law -> standard normal numbers to numbers of the law, of variance 1."""

SETTINGS = [
    *(f"{size}-{law}" for size in ("1x20x20", "1x100x100") for law in LAWS),
    *(f"10x{n}x74-{law}" for n in (2, 4, 10, 40) for law in ("normal", "gamma")),
    *(f"10x{n}x{n}-{law}" for n in (10, 100) for law in LAWS),
]
NAMES = ("kid", "fid", "precision_recall", "inception_score", "agreement")


@dataclass(frozen=True)
class Setting:
    """Sizes and law of one simulation."""

    classes: int
    generated: int
    real: int
    law: str

    @classmethod
    def parse(cls, text: str) -> Setting:
        """Return the setting of a text such as `10x2x74-normal`."""
        sizes, _, law = text.partition("-")
        classes, generated, real = map(int, sizes.split("x"))
        return cls(classes, generated, real, law)


@dataclass(frozen=True)
class Calibration:
    """What was counted for one value at one setting, of the repetitions in which it was defined."""

    repetitions: int
    covered: float
    width: float
    """Mean half width over 1.96 true standard deviations."""
    independent: float
    """False positives of models with noise of their own."""
    paired: float
    """False positives of models that share noise."""


def measure(
    setting: Setting, repetitions: int, names: Sequence[str] = NAMES
) -> dict[str, Calibration]:
    """Return the calibration of every value that is defined at a setting."""
    estimates: dict[str, list[Estimate]] = defaultdict(list)
    wrong: dict[tuple[str, bool], list[bool]] = defaultdict(list)
    means = np.random.default_rng(0).normal(0, SPREAD / sqrt(D), (setting.classes, D))
    for repetition in range(repetitions):
        rng = np.random.default_rng([repetition, setting.classes, setting.generated])
        z = rng.normal(size=(setting.classes * setting.real, D))
        real = _sample(z, means, setting, 0, repetition)
        own = rng.normal(size=(2, setting.classes * setting.generated, D))
        shared = rng.normal(size=own.shape[1:])
        paired = repetition % 2 == 1
        noise = SHARED * shared + sqrt(1 - SHARED**2) * own if paired else own
        models = [_sample(z, means, setting, SHIFT, repetition) for z in noise]
        for name in names:
            metric = METRICS[name]
            first, other = (metric.compute(x, real, metric.settings(), 0) for x in models)
            for output in first:
                estimates[output] += [
                    estimate
                    for replicates in (first[output], other[output])
                    if (estimate := _estimate(output, replicates, models[0], real)) is not None
                ]
                between = difference(output, other[output], first[output], CONFIDENCE)
                if between is not None:
                    wrong[output, paired].append(not between.noise)
    return {
        output: _count(values, wrong[output, False], wrong[output, True])
        for output, values in estimates.items()
        if values
    }


def _sample(z: Floats, means: Floats, setting: Setting, shift: float, seed: int) -> Sample:
    """Return images from standard normal numbers (n, D), with logits of a Gaussian classifier."""
    labels = np.arange(len(z)) % setting.classes
    features = (means[labels] + LAWS[setting.law](z) + shift / sqrt(D)).astype(np.float32)
    logits = -((features[:, None] - means) ** 2).sum(2).astype(np.float32) / 2
    side: Literal["generated", "real"] = "generated" if shift else "real"
    return resample(features, logits, labels, RESAMPLES, seed, side)


def _estimate(output: str, replicates: Floats, x: Sample, real: Sample) -> Estimate | None:
    about = OUTPUTS[output]
    n = len(x) if about.interval == "proportion" else min(len(x), len(real))
    return about.estimate(replicates, n, CONFIDENCE)


def _count(values: list[Estimate], independent: list[bool], paired: list[bool]) -> Calibration:
    truth, sd = (f([e.value for e in values]) for f in (np.mean, np.std))
    half = np.mean([(e.high - e.low) / 2 for e in values])
    return Calibration(
        len(values) // 2,
        float(np.mean([e.low <= truth <= e.high for e in values])),
        float(half / (1.96 * sd)) if sd > 1e-9 else float("nan"),
        float(np.mean(independent)),
        float(np.mean(paired)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure whether intervals hold the truth, and how often equal models differ."
    )
    parser.add_argument("settings", nargs="*", default=SETTINGS)
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--metrics", default=",".join(NAMES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for text in options.settings:
        counted = measure(Setting.parse(text), options.repetitions, options.metrics.split(","))
        for output, c in counted.items():
            print(
                f"{text:18} {output:16} R {c.repetitions:4} covers {c.covered:6.1%} "
                f"width {c.width:5.2f} false {c.independent:6.1%} paired {c.paired:6.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
