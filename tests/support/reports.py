"""Reports, pictures and curves as an evaluation would give them, without one; and runs compared."""

from __future__ import annotations

from math import exp

import numpy as np
from numpy.typing import NDArray

from whipray.platform.evaluation.bootstrap import Estimate
from whipray.platform.evaluation.compare import ComparedRow, Comparison, Difference
from whipray.platform.evaluation.metrics import OUTPUTS
from whipray.platform.evaluation.pages.content import (
    CopyPair,
    CurvePoint,
    Pictures,
    TrainingRecord,
    WorstClass,
)
from whipray.platform.evaluation.report import ClassRow, Report, Row
from whipray.platform.runs.previews import strip_of
from whipray.trainers.guidance import ClassifierFree
from whipray.trainers.previews import Preview
from whipray.trainers.samplers import DDIMSampler, DDPMSampler
from whipray.trainers.sampling import SamplingConfig

LEVELS = {
    "kid": 0.0142,
    "kid_subsets": 0.0147,
    "fid": 12.31,
    "inception_score": 8.44,
    "precision": 0.712,
    "recall": 0.533,
    "f_8": 0.934,
    "f_1_8": 0.951,
    "agreement": 0.871,
    "copies": 0.0125,
    "copies_across": 0.0041,
    "accuracy": 0.507,
}
SINGLE = ("kid", "agreement")
"""Numbers of a class with few images."""


def near(name: str, worse: float, random: np.random.Generator, spread: float = 0.1) -> Estimate:
    """An estimate `worse` times as bad as the number's level, inside its interval."""
    output, level = OUTPUTS[name], LEVELS[name]
    if output.interval == "given":  # leaves the random numbers of the others as they are
        random = np.random.default_rng(0)
    value = level * worse if output.better == "lower" else level / worse**0.3
    value *= exp(random.normal(0, spread))
    low, high = value * (1 - 1.6 * spread), value * (1 + 2 * spread)
    top = output.bounds[1]
    return Estimate(min(value, top), low, min(high, top))


def synthetic_report(
    classes: int, every_number: bool = False, names: tuple[str, ...] | None = None, seed: int = 0
) -> Report:
    """A long tail from 1280 images to 5, whose tail comes out worse.

    Args:
        every_number: for the classes too, rather than KID and label agreement.
        names: by class id, head first; `class 0`, ... where not given.
    """
    random = np.random.default_rng(seed)
    ranks = np.arange(classes) / max(1, classes - 1)
    counts = (1280 * (5 / 1280) ** ranks).round().astype(int)
    third = classes // 3
    members = {
        "overall": tuple(range(classes)),
        "many": tuple(range(third)),
        "medium": tuple(range(third, 2 * third)),
        "few": tuple(range(2 * third, classes)),
    }
    worse = {"overall": 1.0, "many": 0.7, "medium": 1.1, "few": 2.4}
    rows = tuple(
        Row(
            name,
            ids,
            50 * len(ids),
            100 * len(ids),
            {n: near(n, worse[name], random, 0.06) for n in OUTPUTS},
        )
        for name, ids in members.items()
        if ids
    )
    group = {c: name for name, ids in members.items() if name != "overall" for c in ids}
    per_class = tuple(
        ClassRow(
            c,
            names[c] if names else f"class {c}",
            group[c],
            int(counts[c]),
            50,
            100,
            {
                n: near(n, 0.6 + 2.2 * ranks[c] ** 2, random, 0.25 if n == "kid" else 0.08)
                for n in (OUTPUTS if every_number else SINGLE)
            },
        )
        for c in range(classes)
    )
    return Report(rows, per_class, provenance(classes))


def provenance(classes: int) -> dict[str, str | int | float | bool | None]:
    """As `evaluate` writes it, of the classifier trained here."""
    return {
        "model": "digits-cbdm",
        "checkpoint": "5c1e0d9b7a3f4826",
        "images_seen": 22_400,
        "extractor": "whipray-resnet-64",
        "extractor_hash": "3f9d1c60a2b47e58",
        "extractor_features": 64,
        "extractor_preprocessing": "values 0 to 255 scaled to [-1, 1]",
        "extractor_trained_on": "b41c0e77d2a9f315",
        "extractor_images_held_out": 149,
        "extractor_held_out_accuracy": 0.9731,
        "n_generated": 50 * classes,
        "n_real": 100 * classes,
        "reference": "b41c0e77d2a9f315",
        "groups": "thirds by training count",
        "min_real": 300,
        "recall_k": 5,
        "kid_subsets": "100 of 1000",
        "inception_splits": 10,
        "prd": "20 clusters a class, 10 runs",
        "copies": "closer than 0.3 of the usual distance",
        "bootstrap_resamples": 200,
        "bootstrap_seed": 0,
        "confidence": 0.95,
        "sampler": "ddim",
        "steps": 50,
        "omega": 1.5,
        "spacing": "trailing",
        "eta": 0.0,
        "clip_x0": True,
        "seed": 0,
    }


def noise_images(count: int, channels: int, side: int, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 (count, channels, side, side): what compresses worst."""
    shape = (count, channels, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def synthetic_pictures(report: Report, channels: int, side: int) -> Pictures:
    """Ten worst classes with eight images a side and 24 near copies, all noise."""
    worst = [
        WorstClass(
            row, noise_images(8, channels, side, 2 * i), noise_images(8, channels, side, 2 * i + 1)
        )
        for i, row in enumerate(report.worst(10))
    ]
    pixels = noise_images(48, channels, side, 99)
    names = [row.name for row in report.per_class]
    copies = [
        CopyPair(
            names[i % len(names)],
            names[0 if i % 3 == 0 else i % len(names)],
            0.05 + 0.02 * i,
            ("", "mirrored", "moved by 2 px, enlarged by 14 %")[i % 3],
            pixels[2 * i],
            pixels[2 * i + 1],
        )
        for i in range(24)
    ]
    return Pictures(None, worst, copies)


def synthetic_training(channels: int, side: int) -> TrainingRecord:
    """Losses, validation, speed, and two images of each of ten classes with long names, all noise."""
    random = np.random.default_rng(1)
    seen = np.linspace(1600, 640_000, 400)
    series = {
        key: [(float(x), float(level * (1 + 9 * exp(-x / 5e4)) + random.normal(0, level / 20))) for x in seen]
        for key, level in (
            ("loss/total", 0.08), ("loss/denoising", 0.07), ("loss/regulariser", 0.01),
            ("images_per_second", 12_000.0),
        )
    }  # fmt: skip
    series["validation/denoising"] = series["loss/total"][::80]
    names = tuple(f"class {c} of the tail" for c in range(10))
    images = noise_images(20, channels, side).reshape(10, 2, channels, side, side)
    strip = strip_of(Preview(640_000, 640_000, names, tuple(range(5, 15)), images))
    return TrainingRecord(series, strip, "../../preview.html")


def synthetic_curve() -> list[CurvePoint]:
    """FID, KID of the few and recall of two samplers over five omegas."""
    random = np.random.default_rng(3)
    points = []
    for sampler, offset in ((DDIMSampler(), 0.0), (DDPMSampler(), 0.12)):
        for omega in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0):
            bend = 1 + offset + 0.16 * (omega - 1.3) ** 2
            values = {
                f"{name}/{group}": near(name, bend * tail, random, 0.03)
                for name in ("fid", "kid", "recall")
                for group, tail in (("overall", 1.0), ("few", 2.0))
            }
            sampling = SamplingConfig(sampler=sampler, guidance=ClassifierFree(omega=omega))
            is_chosen = (sampler.name, omega) == ("ddim", 1.5)
            points.append(CurvePoint(sampling, omega, values, is_chosen))
    return points


def synthetic_comparison() -> Comparison:
    """`base`, a run that is better, one that is worse, and one that was refused."""
    random = np.random.default_rng(5)
    rows = []
    for name in ("kid", "fid", "recall"):
        sign = 1 if OUTPUTS[name].better == "lower" else -1
        for group, tail in (("overall", 1.0), ("many", 0.7), ("few", 2.2)):
            first = near(name, tail, random, 0.05)
            half = (first.high - first.low) / 4
            estimates: list[Estimate | None] = [first]
            differences: list[Difference | None] = [None]
            for shift in (-2 * half * sign, 2 * half * sign if group == "few" else half / 9):
                ends = first.value + shift - half, first.value + shift + half
                estimates.append(Estimate(first.value + shift, *ends))
                differences.append(Difference(shift, shift - half, shift + half))
            rows.append(ComparedRow(name, group, (*estimates, None), (*differences, None)))
    names = ("base", "better", "<worse>", "other")
    return Comparison(
        names=names,
        refused={"other": "features come from another extractor: extractor_hash is x, not y"},
        rows=tuple(rows),
        provenances=tuple({**provenance(10), "model": name} for name in names),
        confidence=0.95,
    )
