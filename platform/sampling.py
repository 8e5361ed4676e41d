"""Drawing images from a registered model or from a run's last checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..trainers.errors import UsageProblem, did_you_mean
from .evaluation.grid import class_grid
from .experiment import TrackingConfig
from .storage import Storage

Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]
Draw = Callable[[Ints, dict[str, Any]], Pixels]
"""(class ids (N,), omega / steps / seed as far as given) -> images (N, C, H, W)."""


@dataclass(frozen=True)
class Source:
    """Something to draw from."""

    class_names: list[str]
    class_counts: list[int]
    draw: Draw


def open_source(root: Storage, tracking: str | None, target: str) -> Source:
    """`models:/...` through MLflow, as anybody would load it; else a run of the store.

    Raises:
        UsageProblem: no such model or run.
    """
    return (
        _registered(root, tracking, target)
        if target.startswith("models:/")
        else (_run(root, target))
    )


def parse_classes(text: str, names: list[str]) -> list[int]:
    """Ids or names, comma-separated, or `all`.

    Raises:
        UsageProblem: a class that there is not, with the nearest one.
    """
    if text == "all":
        return list(range(len(names)))
    ids = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word in names:
            ids.append(names.index(word))
        elif word.isdigit() and int(word) < len(names):
            ids.append(int(word))
        else:
            hint = did_you_mean(word, names)
            raise UsageProblem(
                f"--classes: there is no class {word}",
                f"{hint}give ids 0 to {len(names) - 1} or names",
            )
    if not ids:
        raise UsageProblem("--classes names no class", "give ids or names, or leave it out for all")
    return ids


def draw(
    source: Source,
    ids: list[int],
    per_class: int,
    omega: float | None,
    steps: int | None,
    seed: int,
) -> tuple[Pixels, Ints]:
    """`per_class` images of each class: (N, C, H, W) and their class ids (N,)."""
    labels = np.repeat(np.asarray(ids, dtype=np.int64), per_class)
    given = {"omega": omega, "steps": steps, "seed": seed}
    options = {key: value for key, value in given.items() if value is not None}
    return source.draw(labels, options), labels


def save(images: Pixels, labels: Ints, source: Source, to: Path, per_class: int) -> list[str]:
    """A grid if `to` ends in .png, else a folder with one file an image; the files written.

    Raises:
        UsageProblem: a place that cannot be written.
    """
    from PIL import Image

    try:
        if to.suffix.lower() == ".png":
            grid = class_grid(
                images, labels, source.class_names, per_class, None, source.class_counts
            )
            to.parent.mkdir(parents=True, exist_ok=True)
            grid.save(to)
            return [str(to)]
        written = []
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            # A model's card names its classes: as `../..` one would lead out of the folder.
            folder = to / re.sub(r"[\\/\s]", "_", f"{label:03d}-{source.class_names[label]}")
            folder.mkdir(parents=True, exist_ok=True)
            pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            file = folder / f"{number:06d}.png"
            Image.fromarray(pixels).save(file)
            written.append(str(file))
    except OSError as error:
        raise UsageProblem(
            f"{to}: cannot be written ({error.strerror})", "give another --out"
        ) from error
    return written


def _registered(root: Storage, tracking: str | None, target: str) -> Source:
    import pandas as pd

    from .registry import load, resolve
    from .tracking import Tracker

    tracker = Tracker(TrackingConfig(uri=tracking), root)
    model = load(resolve(tracker, target))
    about = model.metadata.metadata

    def predict(ids: Ints, options: dict[str, Any]) -> Pixels:
        images: Pixels = model.predict(pd.DataFrame({"class_id": ids}), params=options)
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    return Source(about["class_names"], about["class_counts"], predict)


def _run(root: Storage, target: str) -> Source:
    import torch

    from ..trainers.data.batches import to_uint8
    from .evaluation.opening import open_model
    from .places import find_run

    place = find_run(root, target)
    model = open_model(place.store, place.checkpoint, place.experiment)

    def predict(ids: Ints, options: dict[str, Any]) -> Pixels:
        seed = options.pop("seed")
        sampling = model.card.sampling.model_copy(update=options)
        pixels: Pixels = to_uint8(model.sample(torch.from_numpy(ids), sampling, seed)).numpy()
        return pixels

    return Source(model.card.class_names, model.card.class_counts, predict)
