"""The pictures of a report: samples, the worst classes beside real images, and near copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..evaluation.metrics.memorisation import Copies
from ..evaluation.pages.content import CopyPair, Pictures, WorstClass
from ..evaluation.report import Report
from ..storage import layout
from ..storage.store import Storage
from .grid import class_grid
from .shards import GeneratedShard, Ints, read_images

if TYPE_CHECKING:
    from ...trainers.data import Splits

GRID_CLASSES, GRID_COLUMNS = 20, 10
WORST_CLASSES, WORST_TILES = 10, 6
PAIRS = 24


def collect(
    report: Report,
    root: Storage,
    shards: Sequence[GeneratedShard],
    labels: Ints,
    indices: Ints,
    splits: Splits,
    copies: Copies | None,
) -> Pictures:
    """Read the few images that a report shows.

    Args:
        labels: (N,) of all generated images, class by class, with their `indices` (N,).
        copies: of the images in that order.
    """
    per_class = {c: int(n) for c, n in enumerate(np.bincount(labels))}

    def first(c: int, count: int) -> list[tuple[int, int]]:
        return [(c, index) for index in range(min(count, per_class[c]))]

    head_first = [row.class_id for row in report.per_class]
    spread = np.linspace(0, len(head_first) - 1, min(GRID_CLASSES, len(head_first)))
    grid = [pair for at in spread.round() for pair in first(head_first[int(at)], GRID_COLUMNS)]
    worst = report.worst(WORST_CLASSES)
    nearest = [] if copies is None else copies.top(PAIRS).tolist()
    wanted = [
        *grid,
        *(pair for row in worst for pair in first(row.class_id, WORST_TILES)),
        *((int(labels[n]), int(indices[n])) for n in nearest),
    ]
    images = dict(zip(wanted, read_images(root, shards, np.array(wanted)), strict=True))
    counts = [0] * len(head_first)
    for row in report.per_class:
        counts[row.class_id] = row.train_count
    real = splits.reference
    return Pictures(
        grid=class_grid(
            np.stack([images[pair] for pair in grid]),
            np.array([c for c, _ in grid]),
            real.class_names,
            GRID_COLUMNS,
            train_counts=counts,
        ),
        worst=[
            WorstClass(
                row,
                real.images[np.flatnonzero(real.labels == row.class_id)[:WORST_TILES]],
                np.stack([images[pair] for pair in first(row.class_id, WORST_TILES)]),
            )
            for row in worst
        ],
        copies=[
            CopyPair(
                real.class_names[labels[n]],
                float(copies.ratio[n]),
                images[int(labels[n]), int(indices[n])],
                splits.train.images[copies.nearest[n]],
            )
            for n in nearest
            if copies is not None
        ],
    )


def save_pictures(pictures: Pictures, folder: Path) -> None:
    """Write the grid as a picture, the tiles as arrays."""
    if pictures.grid is not None:
        pictures.grid.save(folder / layout.SAMPLE_GRID)
    arrays: dict[str, Any] = {}
    for n, shown in enumerate(pictures.worst):
        arrays |= {f"worst/{n}/real": shown.real, f"worst/{n}/generated": shown.generated}
        arrays[f"worst/{n}/class"] = np.array(shown.row.class_id)
    for n, pair in enumerate(pictures.copies):
        arrays |= {f"copies/{n}/generated": pair.generated, f"copies/{n}/nearest": pair.nearest}
        arrays |= {f"copies/{n}/ratio": np.array(pair.ratio)}
        arrays |= {f"copies/{n}/class": np.array(pair.class_name)}
    np.savez_compressed(folder / layout.SAMPLE_TILES, **arrays)


def load_pictures(folder: Path, report: Report) -> Pictures:
    """Read what `save_pictures` wrote."""
    rows = {row.class_id: row for row in report.per_class}
    with np.load(folder / layout.SAMPLE_TILES, allow_pickle=False) as found:
        worst = sum(name.endswith("/real") for name in found.files)
        copies = sum(name.endswith("/nearest") for name in found.files)
        return Pictures(
            grid=Image.open(folder / layout.SAMPLE_GRID).copy(),
            worst=[
                WorstClass(
                    rows[int(found[f"worst/{n}/class"])],
                    found[f"worst/{n}/real"],
                    found[f"worst/{n}/generated"],
                )
                for n in range(worst)
            ],
            copies=[
                CopyPair(
                    str(found[f"copies/{n}/class"]),
                    float(found[f"copies/{n}/ratio"]),
                    found[f"copies/{n}/generated"],
                    found[f"copies/{n}/nearest"],
                )
                for n in range(copies)
            ],
        )
