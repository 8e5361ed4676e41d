"""The pictures of a report: samples, the worst classes beside real images, and near copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...trainers.data import Splits
from ..evaluation.arrays import Pixels
from ..evaluation.metrics.memorisation import NearestImages
from ..evaluation.pages.content import CopyPair, Pictures, WorstClass
from ..evaluation.report import ClassRow, Report
from ..storage.layout import SAMPLE_GRID, SAMPLE_TILES
from ..storage.store import Storage
from .grid import class_grid
from .pipeline import GeneratedImages
from .shards import read_images

GRID_CLASSES, GRID_COLUMNS = 20, 10
WORST_CLASSES, WORST_TILES = 10, 6
PAIRS = 24

ImageKey = tuple[int, int]
"""(class, which image of it)."""


def collect(report: Report, root: Storage, generated: GeneratedImages, splits: Splits) -> Pictures:
    """Return what a report shows of the images; only the shards of these are read.

    Args:
        root: the store's top.
    """
    per_class = np.bincount(generated.labels).tolist()

    def first(c: int, count: int) -> list[ImageKey]:
        return [(c, index) for index in range(min(count, per_class[c]))]

    head_first = [row.class_id for row in report.per_class]
    spread = np.linspace(0, len(head_first) - 1, min(GRID_CLASSES, len(head_first)))
    grid = [key for at in spread.round() for key in first(head_first[int(at)], GRID_COLUMNS)]
    worst = [(row, first(row.class_id, WORST_TILES)) for row in report.worst(WORST_CLASSES)]
    nearest = generated.nearest
    rows = [] if nearest is None else nearest.top(PAIRS).tolist()
    pairs = {row: (int(generated.labels[row]), int(generated.indices[row])) for row in rows}
    wanted = [*grid, *(key for _, keys in worst for key in keys), *pairs.values()]
    images = dict(zip(wanted, read_images(root, generated.shards, np.array(wanted)), strict=True))
    return Pictures(
        grid=_grid(report, grid, images, splits),
        worst=[_worst_class(row, keys, images, splits) for row, keys in worst],
        copies=[]
        if nearest is None
        else [_copy_pair(row, images[key], nearest, splits) for row, key in pairs.items()],
    )


def _grid(
    report: Report, keys: Sequence[ImageKey], images: Mapping[ImageKey, Pixels], splits: Splits
) -> Image.Image:
    counts = {row.class_id: row.train_count for row in report.per_class}
    return class_grid(
        np.stack([images[key] for key in keys]),
        np.array([c for c, _ in keys]),
        splits.reference.class_names,
        GRID_COLUMNS,
        train_counts=[counts[c] for c in range(len(counts))],
    )


def _worst_class(
    row: ClassRow, keys: Sequence[ImageKey], images: Mapping[ImageKey, Pixels], splits: Splits
) -> WorstClass:
    real = splits.reference
    return WorstClass(
        row,
        real.images[np.flatnonzero(real.labels == row.class_id)[:WORST_TILES]],
        np.stack([images[key] for key in keys]),
    )


def _copy_pair(row: int, image: Pixels, nearest: NearestImages, splits: Splits) -> CopyPair:
    names = splits.reference.class_names
    return CopyPair(
        names[nearest.labels[row]],
        names[splits.train.labels[nearest.nearest[row]]],
        float(nearest.ratio[row]),
        nearest.how(row),
        image,
        splits.train.images[nearest.nearest[row]],
    )


def save_pictures(pictures: Pictures, folder: Path) -> None:
    """Write the grid as a picture, the tiles as arrays."""
    if pictures.grid is not None:
        pictures.grid.save(folder / SAMPLE_GRID)
    arrays: dict[str, Any] = {}
    for n, shown in enumerate(pictures.worst):
        arrays |= {f"worst/{n}/real": shown.real, f"worst/{n}/generated": shown.generated}
        arrays[f"worst/{n}/class"] = np.array(shown.row.class_id)
    for n, pair in enumerate(pictures.copies):
        arrays |= {f"copies/{n}/generated": pair.generated, f"copies/{n}/nearest": pair.nearest}
        arrays |= {f"copies/{n}/ratio": np.array(pair.ratio), f"copies/{n}/how": np.array(pair.how)}
        arrays |= {f"copies/{n}/class": np.array(pair.class_name)}
        arrays |= {f"copies/{n}/nearest_class": np.array(pair.nearest_class)}
    np.savez_compressed(folder / SAMPLE_TILES, **arrays)


def load_pictures(folder: Path, report: Report) -> Pictures:
    """Read what `save_pictures` wrote."""
    rows = {row.class_id: row for row in report.per_class}
    with np.load(folder / SAMPLE_TILES, allow_pickle=False) as arrays:
        worst = sum(name.endswith("/real") for name in arrays.files)
        copies = sum(name.endswith("/nearest") for name in arrays.files)
        return Pictures(
            grid=Image.open(folder / SAMPLE_GRID).copy(),
            worst=[
                WorstClass(
                    rows[int(arrays[f"worst/{n}/class"])],
                    arrays[f"worst/{n}/real"],
                    arrays[f"worst/{n}/generated"],
                )
                for n in range(worst)
            ],
            copies=[
                CopyPair(
                    str(arrays[f"copies/{n}/class"]),
                    str(arrays[f"copies/{n}/nearest_class"]),
                    float(arrays[f"copies/{n}/ratio"]),
                    str(arrays[f"copies/{n}/how"]),
                    arrays[f"copies/{n}/generated"],
                    arrays[f"copies/{n}/nearest"],
                )
                for n in range(copies)
            ],
        )
