"""From features to a report: every measure, overall, by group and by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...trainers.errors import DataProblem, UsageProblem
from .bootstrap import Bools, Estimate, Floats, Ints, Sample, resample
from .config import EvaluationConfig
from .extractors.base import Extracted, ExtractorInfo, Value
from .groups import group_classes
from .metrics import METRICS, OUTPUTS, SMALL_SAMPLES
from .report import ClassRow, Report, Row


@dataclass(frozen=True)
class Classes:
    """The classes of the data set, by class id."""

    names: tuple[str, ...]
    train_counts: Sequence[int]
    """Training images; they make the groups."""


def evaluate(
    generated: Extracted,
    generated_labels: Ints,
    real: Extracted,
    real_labels: Ints,
    classes: Classes,
    info: ExtractorInfo,
    config: EvaluationConfig,
    about: Mapping[str, Value],
    copies: Bools | None = None,
) -> Report:
    """Compare generated with real images by their features.

    Args:
        generated: of N images, which were asked to be `generated_labels` (N,).
        real: of M images of `real_labels` (M,), balanced over the classes.
        card: the extractor that saw both.
        about: how the images were made and what the real ones are, for the provenance.
        copies: (N,) which generated images are near copies of training images, if that is known.

    Raises:
        DataProblem: a class without generated or real images, a label outside the classes, or
            features of another kind than the other side's.
        UsageProblem: a key of `about` that the report sets itself.
    """
    _check(generated, generated_labels, real, real_labels, classes)
    resamples, seed = config.bootstrap_resamples, config.seed
    sides = (
        resample(
            generated.features, generated.logits, generated_labels, resamples, seed, "generated"
        ),
        resample(real.features, real.logits, real_labels, resamples, seed, "real"),
    )
    known = set(config.metrics) - {"memorisation"}
    if info.class_names != classes.names:  # its logits are of other classes
        known.discard("agreement")
    metrics = [name for name in METRICS if name in known]

    def replicates(of: Sequence[int], names: Sequence[str]) -> tuple[dict[str, Floats], int, int]:
        fakes, reals = (side.of(of) for side in sides)
        found: dict[str, Floats] = {}
        for name in names:
            found |= METRICS[name](fakes, reals, config)
        if copies is not None:
            found["copies"] = _share(copies, sides[0], of)
        return found, len(fakes), len(reals)

    groups = group_classes(classes.train_counts, config.groups)
    rows: list[Row] = []
    kept: dict[str, Floats] = {}
    for name, ids in {"overall": list(range(len(classes.names))), **groups}.items():
        found, n, m = replicates(ids, metrics)
        rows.append(Row(name, tuple(ids), n, m, _numbers(found, n, m, config)))
        kept |= {f"{output}/{name}": values for output, values in found.items()}
    per_class = []
    for group, ids in groups.items():
        for c in ids:
            n, m = (int((side.labels == c).sum()) for side in sides)
            enough = min(n, m) >= config.min_real
            found, n, m = replicates([c], [x for x in metrics if enough or x in SMALL_SAMPLES])
            count = int(classes.train_counts[c])
            values = _numbers(found, n, m, config)
            per_class.append(ClassRow(c, classes.names[c], group, count, n, m, values))
    return Report(tuple(rows), tuple(per_class), _provenance(info, config, sides, about), kept)


def check_groups(config: EvaluationConfig, train_counts: Sequence[int]) -> None:
    """Find out before the work that the groups do not fit the classes, or lack the one to rank by.

    Raises:
        UsageProblem: naming the class, or the group that is empty.
    """
    groups = group_classes(train_counts, config.groups)
    group = config.rank_by.partition("/")[2]
    if group not in ("overall", *groups):
        raise UsageProblem(
            f"evaluation.rank_by={config.rank_by}: no class is {group} ({config.groups})",
            "rank by another group, or change evaluation.groups",
        )


def _numbers(
    found: Mapping[str, Floats], n: int, m: int, config: EvaluationConfig
) -> dict[str, Estimate]:
    estimates: dict[str, Estimate | None] = {}
    for name, output in OUTPUTS.items():
        if name in found:
            images = n if output.interval == "proportion" else min(n, m)
            estimates[name] = output.estimate(found[name], images, config.confidence)
    return {name: estimate for name, estimate in estimates.items() if estimate is not None}


def _share(flags: Bools, generated: Sample, of: Sequence[int]) -> Floats:
    rows = np.isin(generated.labels, of)
    share: Floats = flags[rows].astype(float) @ generated.weights[rows] / rows.sum()
    return share


def _provenance(
    info: ExtractorInfo,
    config: EvaluationConfig,
    sides: tuple[Sample, Sample],
    about: Mapping[str, Value],
) -> dict[str, Value]:
    own: dict[str, Value] = {
        "extractor": info.name,
        "extractor_hash": info.hash,
        "extractor_features": info.dimensions,
        "extractor_preprocessing": info.preprocessing,
        **{f"extractor_{key}": value for key, value in info.facts.items()},
        "n_generated": len(sides[0]),
        "n_real": len(sides[1]),
        "groups": str(config.groups),
        "min_real": config.min_real,
        "recall_k": config.recall_k,
        "kid_subsets": f"{config.kid_subsets} of {config.kid_subset_size}",
        "inception_splits": config.inception_splits,
        "prd": f"{config.prd_clusters_per_class} clusters a class, {config.prd_runs} runs",
        "copies": f"closer than {config.copy_ratio:g} of the usual distance, in pixels",
        "bootstrap_resamples": config.bootstrap_resamples,
        "bootstrap_seed": config.seed,
        "confidence": config.confidence,
    }
    if taken := sorted(own.keys() & about.keys()):
        raise UsageProblem(f"about has the key {taken[0]}", "the report sets that one itself")
    return {**own, **about}


def _check(
    generated: Extracted,
    generated_labels: Ints,
    real: Extracted,
    real_labels: Ints,
    classes: Classes,
) -> None:
    names = classes.names
    if len(classes.train_counts) != len(names):
        raise DataProblem(
            f"{len(classes.train_counts)} training counts for {len(names)} classes",
            "give the training set's count of every class, by class id",
        )
    if generated.features.shape[1:] != real.features.shape[1:]:
        raise DataProblem(
            f"generated features are {generated.features.shape[1:]}, real ones "
            f"{real.features.shape[1:]}",
            "make both with the same extractor",
        )
    sides = (("generated", generated, generated_labels), ("real", real, real_labels))
    for kind, side, labels in sides:
        if labels.shape != side.features.shape[:1] or labels.dtype.kind != "i":
            raise DataProblem(
                f"{len(side.features)} {kind} images, class ids {labels.dtype} {labels.shape}",
                "give one integer class id for each image",
            )
        if outside := sorted({int(c) for c in labels} - set(range(len(names)))):
            raise DataProblem(
                f"class id {outside[0]} of {kind} images is outside the classes 0 to "
                f"{len(names) - 1}",
                "evaluate the classes that the model was trained on, in their order",
            )
        counts = np.bincount(labels, minlength=len(names))
        if not counts.all():
            c = int(counts.argmin())
            raise DataProblem(
                f"no {kind} images of class {c} ({names[c]})",
                "a report compares every class: give at least 2 images of each",
            )
