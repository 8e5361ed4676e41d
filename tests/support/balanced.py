"""A datasheet's content and a page of `whipray diffult`, made up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from support.reports import noise_images

from whipray.platform.analysis.balance.content import (
    ClassExamples,
    Datasheet,
    NearCopy,
    RealClass,
    Rejected,
)
from whipray.platform.analysis.balance.examples import shown
from whipray.platform.analysis.balance.manifest import GeneratedRows
from whipray.platform.analysis.diffult.content import (
    ArmResult,
    DiffultPage,
    Figure,
    Group,
    PairedDifference,
    ProtocolDifference,
    Published,
    Step,
)
from whipray.platform.config.balancing import FilterConfig
from whipray.platform.evaluation.arrays import Floats, Ints, Pixels
from whipray.platform.evaluation.pages.content import CopyPair
from whipray.trainers.sampling import SamplingConfig

GROUPS = ("many", "medium", "few")


def generated_rows(
    labels: Ints,
    reasons: Sequence[str],
    pixels: Floats | None = None,
    features: Floats | None = None,
    probability: Floats | None = None,
    ratio: Floats | None = None,
    images: Pixels | None = None,
) -> GeneratedRows:
    """What was generated, with scores of 1 where none are given; one image stands for all."""
    n = len(labels)
    ones, first = np.ones(n), np.zeros(n, np.int64)
    ratio = ones if ratio is None else ratio
    picture = noise_images(1, 1, 8) if images is None else images
    return GeneratedRows(
        labels=labels,
        indices=first,
        kept=np.array([not reason for reason in reasons], bool),
        reasons=reasons,
        near_copy=ratio < 0.4,
        pixel_distance=(ones if pixels is None else pixels).astype(np.float32),
        nearest=first,
        feature_distance=(ones if features is None else features).astype(np.float32),
        nearest_features=first,
        probability=ones if probability is None else probability,
        copy_ratio=ratio,
        copy_of=first,
        read=lambda rows: picture[rows % len(picture)],
    )


def synthetic_datasheet(
    classes: int, channels: int, side: int, names: tuple[str, ...] | None = None
) -> Datasheet:
    """A long tail from 1280 images to 5, filled up to 500; the tail loses more, its last class most.

    Every picture is noise, which compresses worst.
    """
    random = np.random.default_rng(classes)
    ranks = np.arange(classes) / max(1, classes - 1)
    counts = (1280 * (5 / 1280) ** ranks).round().astype(int)
    real = [
        RealClass(
            names[c] if names else f"class {c}",
            GROUPS[min(2, 3 * c // classes)],
            int(counts[c]),
            borrowed=counts[c] < 6,
        )
        for c in range(classes)
    ]
    labels = np.repeat(np.arange(classes), np.maximum(0, 500 - counts))
    tail = ranks[labels]
    n = len(labels)
    pixels = random.normal(2600, 420, n) + 300 * tail
    features = random.gamma(20, 0.35, n) + 1.5 * tail
    probability = 10 ** -random.gamma(0.6 + 1.2 * tail, 2.2, n)
    ratio = random.normal(1, 0.2, n) - 0.1 * tail
    reasons = [
        "; ".join(
            [f"probability {p:.3g} < 5e-07"] * int(p < 5e-7)
            + [f"copy_ratio {r:.3g} < 0.4"] * int(r < 0.4)
        )
        for r, p in zip(ratio, probability, strict=True)
    ]
    kept = np.array([not reason for reason in reasons], bool)
    if n:
        last = labels == classes - 1
        more = np.flatnonzero(last & kept)[20:]
        kept[more] = False
        probability[more] = 1e-9
        for i in more.tolist():
            reasons[i] = "probability 1e-09 < 5e-07"
    generated = generated_rows(
        labels, reasons, pixels, features, probability, ratio, noise_images(1, channels, side)
    )
    limits = shown(side)
    few = [c for c in range(classes) if counts[c] < 500]
    pictures = noise_images(3 * limits.tiles * limits.classes, channels, side)
    examples = [
        ClassExamples(
            c,
            tiles[: limits.tiles],
            tiles[limits.tiles : 2 * limits.tiles],
            [
                Rejected(tile, f"probability {10.0 ** -(7 + i):.3g} < 5e-07")
                for i, tile in enumerate(tiles[2 * limits.tiles : -1])
            ]
            + [Rejected(tiles[-1], "probability 3e-08 < 5e-07; copy_ratio 0.21 < 0.4")],
        )
        for c, tiles in zip(
            few[:: max(1, classes // 12)], np.split(pictures, limits.classes), strict=False
        )
    ]
    pairs = [
        NearCopy(
            CopyPair(
                real[-1 - i % classes].name,
                real[-1 - (i + i % 2) % classes].name,
                0.05 + 0.014 * i,
                ("", "mirrored", "moved by 2 px, enlarged by 14 %")[i % 3],
                pictures[2 * i],
                pictures[2 * i + 1],
            ),
            kept=False,
        )
        for i in range(limits.pairs)
    ]
    return Datasheet(
        name="birds-500",
        source="the folder /data/birds",
        model="birds-cbdm@3",
        weights_hash="3f9d1c60a2b47e58",
        sampling=SamplingConfig(),
        seed=0,
        fill_to=500,
        filter=FilterConfig(probability=5e-7, near_copies=False),
        image_shape=(channels, side, side),
        classes=real,
        generated=generated,
        test_images=50 * classes,
        path="/data/birds-500",
        form="folder",
        examples=examples,
        near_copies=pairs,
        warnings=("f_0 is right on 61.2 % of 1,000 test images",),
        provenance={"images_seen": 640_000, "f0": "b41c0e77d2a9f315", "whipray": "0.1.0"},
    )


def synthetic_diffult(seeds: int = 5) -> DiffultPage:
    """All six arms on 100 classes; filtered images give 1.5 points more than repetition."""
    random = np.random.default_rng(8)
    groups = {"overall": 0.40, "many": 0.66, "medium": 0.38, "few": 0.09}
    gains = {
        "real": 0.0, "repeated": 0.01, "augmented": 0.02, "unfiltered": 0.035, "random": 0.032,
        "filtered": 0.04,
    }  # fmt: skip

    def figure(values: list[float]) -> Figure:
        mean = float(np.mean(values))
        if seeds == 1:
            return Figure(mean, None, None, values)
        half = 2.5 * float(np.std(values, ddof=1)) / seeds**0.5
        return Figure(mean, mean - half, mean + half, values)

    values = {
        arm: {
            group: (level + gain * (3 if group == "few" else 1) + random.normal(0, 0.006, seeds))
            for group, level in groups.items()
        }
        for arm, gain in gains.items()
    }
    arms = [
        ArmResult(
            arm,
            0 if arm == "real" else 39_153 if arm == "unfiltered" else 29_223,
            {group: figure(of.tolist()) for group, of in by_group.items()},
        )
        for arm, by_group in values.items()
    ]
    differences = [
        PairedDifference(
            "filtered",
            less,
            {g: figure((values["filtered"][g] - values[less][g]).tolist()) for g in groups},
        )
        for less in ("repeated", "random", "augmented", "unfiltered", "real")
    ]
    return DiffultPage(
        name="cifar100-lt",
        steps=[
            Step("diffusion model", "cifar100-lt-cbdm, 38,400,000 images seen", "reused"),
            Step("f_0", "resnet32, 41.2 % of 10,000 test images", "reused"),
            Step(
                "generated images", "39,153 images, ddim 50 steps, omega 1.5", "partly reused", 5400
            ),
            Step("scores", "d1, d2, d3 and near copies; 29,223 images kept", "made", 312.4),
            Step("classifiers", f"6 arms x {seeds} seeds", "made", 10_800),
        ],
        groups=[
            Group("overall", 100, 10_847, 29_223, 10_000),
            Group("many", 35, 8_000, 5_000, 3_500),
            Group("medium", 35, 2_200, 11_000, 3_500),
            Group("few", 30, 647, 13_223, 3_000),
        ],
        arms=arms,
        differences=differences,
        seeds=range(seeds),
        confidence=0.95,
        interval="Student's, over seeds" if seeds > 1 else "Wilson's, over test images",
        network="resnet32",
        published=[
            Published(
                "DiffuLT, CIFAR-100-LT r = 100",
                "DiffuLT 2024, table 2",
                {"overall": 0.507, "many": 0.686, "medium": 0.508, "few": 0.29},
            ),
            Published("CE, CIFAR-100-LT r = 100", "DiffuLT 2024, table 2", {"overall": 0.383}),
        ],
        protocol=[
            ProtocolDifference("sampler", "not stated", "ddim, 50 steps"),
            ProtocolDifference("seeds", "not stated", f"{seeds}"),
        ],
        settings={
            "N_t": 500,
            "generated weight": 0.3,
            "loss": "ce",
            "filter": "probability >= 5e-7",
        },
    )
