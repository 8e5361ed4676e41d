"""What a person should know of a training before it starts: the images it uses, and what looks wrong."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch

from ...trainers.data import Cifar, PackedImages, Splits
from ...trainers.loop import rows_of_worker
from ...trainers.optimizer import too_long
from .evaluation_outlook import outlook
from .preflight import Subject

WORTH_STAGE_3 = 10**9
"""Parameters from which weights in fp32 (4 GB, and as many again of gradients) can be too many for a GPU."""
MOST_NAMED = 5
"""Classes that a line names at most."""


def describe_data(subject: Subject) -> str | None:
    """Return which images are trained on, in one line; None where the data cannot be used."""
    if subject.splits is None:
        return None
    data, train = subject.experiment.data, subject.splits.train
    counts = train.class_counts
    if subject.splits.validation is not None:
        return _describe_validation(subject.splits, data.long_tail.kind != "none")
    used = f"{counts.max():,} to {counts.min():,} of a class"
    if data.long_tail.kind == "none":
        if subject.splits.hold_out is None:
            return f"{train.num_classes} classes, {len(train.images):,} images, {used}; all of them"
        return (
            f"{train.num_classes} classes, {len(train.images):,} of {subject.splits.available:,} images, "
            f"{used}; the others are held out to compare with"
        )
    tail = f"data.long_tail ({data.long_tail.kind}, ratio {data.long_tail.ratio:g})"
    return (
        f"{train.num_classes} classes, cut to {len(train.images):,} of {subject.splits.available:,} images "
        f"by {tail}: {used}"
        + ("; some of the others are held out to compare with" if subject.splits.hold_out else "")
    )


def _describe_validation(splits: Splits, has_tail: bool) -> str:
    """Return the line of images of which some are set apart: neither is a test image."""
    used, apart = (
        f"{split.class_counts.max():,} to {split.class_counts.min():,} of a class"
        for split in (splits.train, splits.reference)
    )
    return (
        f"{splits.train.num_classes} classes, {len(splits.train.images):,} images, {used}; "
        f"{len(splits.reference.images):,} others{' of the tail' if has_tail else ''}, {apart}, are set "
        "apart to compare with (data.validation): no test image is used"
    )


def find_warnings(subject: Subject) -> list[str]:
    """Return what is allowed and hardly meant, one line each."""
    experiment = subject.experiment
    training = experiment.training
    lines = too_long(experiment.optimizer, training.images, training.batch_size)
    lines += _slow_stages(subject)
    other, reference = experiment.evaluation.reference, subject.reference
    if reference is not None:
        counts = (split.class_counts.tolist() for split in (reference.train, reference.reference))
        lines += outlook(experiment, *counts)
    # Of one source it is in the data's own report; CBDM's paper compares with the training images.
    is_meant = other is None or (isinstance(other, Cifar) and other.reference == "train")
    if reference is not None and not subject.dry_run and not is_meant:
        lines += _shared(reference.train, reference.reference)
    if training.share_of_many < 1 and subject.splits is not None:
        largest = int(subject.splits.train.class_counts.max())
        if largest <= training.many_above:
            lines.append(
                f"training.share_of_many has no effect: no class has more than {training.many_above} images "
                f"(training.many_above), the largest {largest}"
            )
    return lines


def _slow_stages(subject: Subject) -> list[str]:
    """Return a line where another stage of ZeRO does the same in less time."""
    experiment, splits = subject.experiment, subject.splits
    stage, workers = experiment.engine.zero_stage, experiment.scaling.workers
    if stage == 2 and workers > 1:
        rows, micro = rows_of_worker(experiment.training, workers)
        line = (
            f"engine.zero_stage=2 sends the gradients of each micro-batch, {rows // micro} times a step: "
            "zero_stage=1 sends them once"
        )
        return [line] if micro < rows else []
    if stage < 3 or splits is None:
        return []
    with torch.device("meta"):  # where weights have a shape and no memory
        network = experiment.model.build(splits.train.image_shape, splits.train.num_classes)
    parameters = sum(p.numel() for p in network.parameters())
    line = (
        f"engine.zero_stage=3 with {parameters / 1e6:,.1f} M parameters: the weights fit a GPU, and "
        "gathering them for each block takes longer; zero_stage=0 or 1 is faster"
    )
    return [line] if parameters < WORTH_STAGE_3 else []


def _shared(train: PackedImages, reference: PackedImages) -> list[str]:
    """Return a line where real images to compare with have the pixels of training images."""
    known = {_digest(image) for block in train.blocks() for image in block}
    copies = np.array([_digest(image) in known for block in reference.blocks() for image in block])
    if not copies.any():
        return []
    counts = np.bincount(reference.labels[copies], minlength=reference.num_classes)
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    classes = ", ".join(f"{reference.class_names[c]} {counts[c]}" for c in order[:MOST_NAMED])
    more = ", .." if len(order) > MOST_NAMED else ""
    line = (
        f"{copies.sum():,} of {len(copies):,} real images to compare with are training images too "
        f"({classes}{more}): metrics and near copies then say little; give others as reference"
    )
    return [line]


def _digest(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return blake2b(image.tobytes(), digest_size=16).digest()


def notes(subject: Subject) -> list[str]:
    """Return the lines to show before a training."""
    data = describe_data(subject)
    return [
        *([f"data    {data}"] if data else []),
        *(f"warning: {w}" for w in find_warnings(subject)),
    ]
