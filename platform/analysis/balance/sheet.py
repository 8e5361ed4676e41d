"""Fill a datasheet with what is known of a balanced set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import PurePath

from ....trainers.data import Splits
from ...evaluation.extractors.base import Value
from ...evaluation.pages.content import CopyPair
from .content import Datasheet, NearCopy, RealClass
from .examples import choose_examples, shown
from .manifest import GeneratedRows
from .subject import Subject


def make_sheet(
    subject: Subject,
    splits: Splits,
    rows: GeneratedRows,
    classes: Sequence[RealClass],
    to: int,
    weights: str,
    warnings: tuple[str, ...],
    facts: Mapping[str, Value],
) -> Datasheet:
    """Return the datasheet of a set that is written nowhere yet.

    Args:
        facts: further ones, for its provenance.
    """
    experiment, names = subject.experiment, splits.train.class_names
    order = rows.copy_ratio.argsort(kind="stable")
    limit = shown(max(splits.train.image_shape[1:])).pairs
    nearest = order[rows.near_copy[order]][:limit]
    pictures = rows.read(nearest) if len(nearest) else ()
    copies = [
        NearCopy(
            CopyPair(
                names[rows.labels[row]],
                names[splits.train.labels[rows.copy_of[row]]],
                float(rows.copy_ratio[row]),
                "",
                picture,
                splits.train.images[rows.copy_of[row]],
            ),
            bool(rows.kept[row]),
        )
        for row, picture in zip(nearest.tolist(), pictures, strict=True)
    ]
    return Datasheet(
        name=f"{experiment.name}, balanced",
        source=describe_source(subject),
        model=subject.name,
        weights_hash=weights,
        sampling=experiment.sampling,
        seed=experiment.seed,
        fill_to=to,
        filter=experiment.balancing.filter,
        image_shape=splits.train.image_shape,
        classes=classes,
        generated=rows,
        test_images=len(splits.reference.labels),
        path="",
        form="folder",
        examples=choose_examples(classes, rows, splits.train),
        near_copies=copies,
        warnings=warnings,
        provenance={**facts, "whipray": version("whipray")},
    )


def describe_source(subject: Subject) -> str:
    """Return where the real images are from, of a path the last part, since paths are private."""
    data = subject.experiment.data
    path = getattr(data, "root", None) or getattr(data, "path", None)
    paths = path if isinstance(path, tuple) else (path,)
    names = [PurePath(each).name for each in paths if each is not None]
    return " ".join([data.source, *names[:1]])
