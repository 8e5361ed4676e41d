"""One evaluation: every metric with its interval, overall, by group and by class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image

from ...trainers.errors import DataProblem, UsageProblem
from .bootstrap import (
    Estimate,
    Ints,
    Sample,
    percentile_interval,
    recentred_interval,
    resample,
    wilson_interval,
)
from .config import EvaluationConfig
from .features import FeatureNet
from .fid import resampled_fid
from .groups import group_classes
from .kid import resampled_kid
from .page import render_page
from .recall import resampled_coverage

if TYPE_CHECKING:
    from ...trainers.data.packed import PackedImages

Value = str | int | float | bool | None

COMPARED = (
    "extractor_hash",
    "n_generated",
    "n_real",
    "reference",
    "sampler",
    "steps",
    "groups",
    "recall_k",
)
"""Provenance in which two reports must agree before their numbers are compared."""


@dataclass(frozen=True)
class Row:
    """The metrics of all classes or of one group; None where there are too few images."""

    name: str
    classes: tuple[int, ...]
    n_generated: int
    n_real: int
    kid: Estimate | None
    fid: Estimate | None
    recall: Estimate | None
    precision: Estimate | None
    agreement: Estimate | None
    """Share of generated images that the network assigns to the class that was asked for."""


METRICS = ("kid", "fid", "recall", "precision", "agreement")

PER_CLASS = pa.schema(
    [
        ("class_id", pa.int64()),
        ("class_name", pa.string()),
        ("group", pa.string()),
        ("train_count", pa.int64()),
        ("n_generated", pa.int64()),
        ("n_real", pa.int64()),
        ("agreement", pa.float64()),
        ("agreement_low", pa.float64()),
        ("agreement_high", pa.float64()),
        ("kid", pa.float64()),
        ("kid_low", pa.float64()),
        ("kid_high", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Report:
    """What an evaluation found, and what it was made with."""

    rows: tuple[Row, ...]
    """Overall first, then many, medium and few as far as they have classes."""
    per_class: pa.Table
    """`PER_CLASS`, from the most to the fewest training images; null where undefined."""
    provenance: dict[str, Value]

    def metrics(self) -> dict[str, float]:
        """Flat, for tracking: `kid/overall`, `kid/few`, `kid/few_low`, `kid/few_high`, ..."""
        flat = {}
        for row in self.rows:
            for metric in METRICS:
                if (found := getattr(row, metric)) is not None:
                    flat[f"{metric}/{row.name}"] = found.value
                    flat[f"{metric}/{row.name}_low"] = found.low
                    flat[f"{metric}/{row.name}_high"] = found.high
        return flat

    def to_parquet(self, path: Path) -> None:
        """Write the per-class table; provenance and metrics are in its schema's metadata."""
        about = {"provenance": self.provenance, "metrics": self.metrics()}
        pq.write_table(self.per_class.replace_schema_metadata({"whipray": json.dumps(about)}), path)

    def to_html(self, path: Path, grid: Image.Image | None = None) -> None:
        """Write one page that needs nothing else; `grid` is put into it."""
        path.write_text(render_page(self, grid), encoding="utf-8")


def comparable(a: Mapping[str, Value], b: Mapping[str, Value]) -> str | None:
    """The first field in which two provenances differ so that no number compares, or None."""
    return next((field for field in COMPARED if a.get(field) != b.get(field)), None)


def evaluate(
    generated: NDArray[np.uint8],
    class_ids: Ints,
    reference: PackedImages,
    train_counts: Sequence[int],
    features: FeatureNet,
    config: EvaluationConfig,
    sampling: Mapping[str, Value] | None = None,
) -> Report:
    """Compare generated with real images.

    Args:
        generated: uint8 (N, C, H, W), of the reference's shape.
        class_ids: int64 (N,), the class that each image was asked to be.
        reference: real images, balanced over the classes.
        train_counts: training images of each class, by class id; they make the groups.
        features: a network trained on images of the same classes.
        config: groups, intervals and neighbours.
        sampling: how the images were made (sampler, steps, omega, seed, ...), for the provenance.

    Raises:
        DataProblem: a class without generated or real images, a class id outside the reference's
            classes, or shapes, lengths and classes that do not fit each other.
        UsageProblem: a key of `sampling` that the report sets itself.
    """
    _check(generated, class_ids, reference, train_counts, features)
    seen = features.extract(generated, config.batch_size)
    real_seen = features.of_reference(reference, config.batch_size)
    correct = seen.predictions == class_ids
    generator = np.random.default_rng(config.seed)
    fakes = resample(seen.features, class_ids, config.bootstrap_resamples, generator)
    reals = resample(real_seen.features, reference.labels, config.bootstrap_resamples, generator)

    groups = group_classes(train_counts, config.groups)
    rows = tuple(
        _row(name, classes, fakes.of(classes), reals.of(classes), correct, class_ids, config)
        for name, classes in {"overall": range(reference.num_classes), **groups}.items()
    )
    per_class = [
        {
            "class_id": c,
            "class_name": reference.class_names[c],
            "group": name,
            "train_count": int(train_counts[c]),
            **_class_metrics(fakes.of([c]), reals.of([c]), correct[class_ids == c], config),
        }
        for name, classes in groups.items()
        for c in classes
    ]
    card = features.card
    provenance: dict[str, Value] = {
        "extractor": card.name,
        "extractor_hash": card.hash,
        "extractor_trained_on": card.trained_on,
        "extractor_held_out_accuracy": card.held_out_accuracy,
        "extractor_held_out_images": card.images_held_out,
        "reference": reference.fingerprint(),
        "n_real": len(reference.images),
        "n_generated": len(generated),
        "groups": str(config.groups),
        "recall_k": config.recall_k,
        "bootstrap_resamples": config.bootstrap_resamples,
        "bootstrap_seed": config.seed,
        "confidence": config.confidence,
    }
    if taken := sorted(provenance.keys() & (sampling or {}).keys()):
        raise UsageProblem(f"sampling has the key {taken[0]}", "the report sets that one itself")
    return Report(
        rows, pa.Table.from_pylist(per_class, PER_CLASS), {**provenance, **(sampling or {})}
    )


def _row(
    name: str,
    classes: Sequence[int],
    fakes: Sample,
    reals: Sample,
    correct: NDArray[np.bool_],
    class_ids: Ints,
    config: EvaluationConfig,
) -> Row:
    level, share, k = config.confidence, (0.0, 1.0), config.recall_k
    right = correct[np.isin(class_ids, classes)]
    return Row(
        name=name,
        classes=tuple(classes),
        n_generated=len(fakes),
        n_real=len(reals),
        kid=percentile_interval(resampled_kid(fakes, reals), level),
        fid=recentred_interval(resampled_fid(fakes, reals), level, (0.0, np.inf)),
        recall=recentred_interval(resampled_coverage(reals, fakes, k), level, share),
        precision=recentred_interval(resampled_coverage(fakes, reals, k), level, share),
        agreement=wilson_interval(int(right.sum()), len(right), level),
    )


def _class_metrics(
    fakes: Sample, reals: Sample, correct: NDArray[np.bool_], config: EvaluationConfig
) -> dict[str, float | int | None]:
    """One class: no FID, whose 64 x 64 covariance would come from a few dozen images at best and
    whose bias would then be larger than what it measures; KID has none."""
    agreement = wilson_interval(int(correct.sum()), len(correct), config.confidence)
    kid = percentile_interval(resampled_kid(fakes, reals), config.confidence)
    return {
        "n_generated": len(fakes),
        "n_real": len(reals),
        **_columns("agreement", agreement),
        **_columns("kid", kid),
    }


def _columns(name: str, found: Estimate | None) -> dict[str, float | None]:
    ends = (found.value, found.low, found.high) if found else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


def _check(
    generated: NDArray[np.uint8],
    class_ids: Ints,
    reference: PackedImages,
    train_counts: Sequence[int],
    features: FeatureNet,
) -> None:
    names = reference.class_names
    if class_ids.shape != generated.shape[:1] or class_ids.dtype.kind != "i":
        raise DataProblem(
            f"{len(generated)} generated images, class ids {class_ids.dtype} {class_ids.shape}",
            "give one integer class id for each image",
        )
    if outside := sorted({int(c) for c in class_ids} - set(range(len(names)))):
        raise DataProblem(
            f"class id {outside[0]} is outside the reference's classes 0 to {len(names) - 1}",
            "generate the reference's classes, or give a reference that has them all",
        )
    if len(train_counts) != len(names):
        raise DataProblem(
            f"{len(train_counts)} training counts for {len(names)} classes of the reference",
            "give the training set's count of every class, by class id",
        )
    if tuple(names) != features.card.class_names:
        raise DataProblem(
            "the feature network knows other classes than the reference",
            "use the network that FeatureNet.fit_or_load gives for this reference",
        )
    for kind, labels in (("generated", class_ids), ("real", reference.labels)):
        counts = np.bincount(labels, minlength=len(names))
        if not counts.all():
            c = int(counts.argmin())
            raise DataProblem(
                f"no {kind} images of class {c} ({names[c]})",
                "a report compares every class: give at least 2 images of each",
            )
