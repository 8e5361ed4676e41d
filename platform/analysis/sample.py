"""Generate images with a registered model, or with a run's last checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...trainers.data.batches import to_uint8
from ...trainers.devices import choose_device
from ...trainers.errors import UsageProblem
from ...trainers.export import Exported, ModelCard, load_exported
from ...trainers.model import changed_sampling
from ...trainers.scratch import Scratch
from ..config.tracking import TrackingConfig
from ..foundation.names import class_folders
from ..generation.grid import class_grid
from ..generation.loading import load_model
from ..runs.find_run import find_run
from ..runs.resolve_guide import fixed_sampling
from ..storage.store import Storage
from ..tracking import registry
from ..tracking.registry import address_of, download
from ..tracking.tracker import Tracker, open_existing_tracker
from ..tracking.versions import Version

Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]


def load_target(root: Storage, tracking: str | None, target: str) -> Exported:
    """Load `models:/...` from the registry, and any other name as a run of the store.

    Raises:
        UsageProblem: no such model or run.
        CheckpointProblem: a model that Whipray did not register.
    """
    if target.startswith("models:/"):
        tracker = open_existing_tracker(TrackingConfig(uri=tracking), root)
        return load_version(tracker, registry.resolve(tracker, target))
    run = find_run(root, target)
    sampling = fixed_sampling(run.experiment, run.store, run.checkpoint)
    return load_model(run.store, run.checkpoint, sampling)


def load_version(tracker: Tracker, version: Version) -> Exported:
    """Load the weights and card of a registered version, without running its code.

    Raises:
        CheckpointProblem: a model that Whipray did not register.
    """
    with Scratch() as scratch:
        folder = download(tracker, version, Path(scratch))
        return load_exported(folder, choose_device(), address_of(tracker, version))


def generate_images(
    model: Exported,
    ids: Sequence[int],
    per_class: int,
    omega: float | None,
    steps: int | None,
    seed: int,
    sampler: str | None = None,
    on_phase: Callable[[str], None] = lambda _line: None,
) -> tuple[Pixels, Ints]:
    """Generate images of each class; return them, (N, C, H, W) uint8, and their ids, (N,)."""
    labels = np.repeat(np.asarray(ids, dtype=np.int64), per_class)
    sampling = changed_sampling(model, omega, steps, sampler)

    def on_progress(done: float) -> None:
        on_phase(f"generated {int(done):,} of {len(labels):,} images ({sampling.label})")

    floats = model.sample(torch.from_numpy(labels), sampling, seed, on_progress=on_progress)
    pixels: Pixels = to_uint8(floats).numpy()
    return pixels, labels


def check_free(to: Path) -> None:
    """Check that images can go to `to`: a .png file, or a folder with nothing in it.

    Raises:
        UsageProblem: a folder that holds something, which would be mixed with the new images.
    """
    another = "give another --out"
    try:
        if is_grid(to):
            if to.is_dir():
                raise UsageProblem(f"{to} is a folder", f"{another}, without .png for a folder")
        elif to.exists() and not to.is_dir():
            raise UsageProblem(f"{to} is a file", f"{another}, with .png for one picture")
        elif to.is_dir() and any(to.iterdir()):
            raise UsageProblem(f"{to} already holds files", f"{another}, or remove what is in it")
        above = next(folder for folder in to.absolute().parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            reason = "is not writable" if above.is_dir() else "is a file"
            raise UsageProblem(f"{to}: cannot be written ({above} {reason})", another)
    except (OSError, ValueError) as error:
        raise _not_written(to, error) from error


def is_grid(to: Path) -> bool:
    """Return whether one picture is written, rather than a folder of images."""
    return to.suffix.lower() == ".png"


def save(images: Pixels, labels: Ints, card: ModelCard, to: Path, per_class: int) -> list[str]:
    """Save a grid if `to` ends in .png, else one file per image in a folder; return the files.

    Raises:
        UsageProblem: the file or folder cannot be written.
    """
    from PIL import Image

    try:
        if is_grid(to):
            grid = class_grid(images, labels, card.class_names, per_class, None, card.class_counts)
            to.parent.mkdir(parents=True, exist_ok=True)
            grid.save(to)
            return [str(to)]
        written = []
        folders = class_folders(card.class_names)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = to / folders[label]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            file = folder / f"{number:06d}.png"
            Image.fromarray(pixels).save(file)
            written.append(str(file))
    except OSError as error:
        raise _not_written(to, error) from error
    return written


def _not_written(to: Path, error: OSError | ValueError) -> UsageProblem:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return UsageProblem(f"{to}: cannot be written ({reason})", "give another --out")
