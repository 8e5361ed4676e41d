"""A PyTorch data set of real images in which generated images fill up the small classes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from .disk import writing
from .errors import DataProblem, UsageProblem
from .integrity import Altered, load_arrays, save_arrays
from .model import Ints, Model, Pixels, changed_sampling
from .scratch import Scratch

BATCH = 64
"""Images generated at once; part of the identity of a cache, so that an image is always computed in the same
batch and is the same to the last bit."""

log = logging.getLogger(__name__)


class RealImages(Protocol):
    """Images with labels, by number: any map-style data set of PyTorch's."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int, /) -> Any:
        """Return `(image, label)`."""


class BalancedDataset(Dataset[tuple[Any, int]]):
    """Real images, then as many generated ones of each class as it lacks of a number.

    An item is `(image, label)`: the image (C, H, W) uint8, or what `transform` makes of it; the label a
    class id of the model. Generated images are made when the first of their batch is asked for, and kept;
    they are the same in every process, whatever is asked for first. Workers of a `DataLoader` share them.

    Args:
        real: `(images, labels)`, or a data set with items `(image, label)`. Images are (C, H, W) or
            (H, W, C) uint8, (H, W) for one channel, or of Pillow, in the model's shape, before any
            transform. Labels are class ids of the model or names; where the data set has `classes`, its
            ids are those of that list.
        model: generates what is missing.
        to: images of each class; "max": as many as the largest class has. No real image is left out.
        seed: of the generated images.
        transform: takes the image, a tensor, of either kind.
        cache: folder in which generated images are kept from one process to the next, with hashes; None: a
            temporary one.
        omega, sampler, steps: as `Model.sample` takes them.

    Raises:
        UsageProblem: a number that is not positive, or a setting that the model does not take.
        DataProblem: a label that is no class of the model.
    """

    labels: Ints
    """(N,) of every item."""
    is_generated: np.ndarray[Any, np.dtype[np.bool_]]
    """(N,) of every item."""

    def __init__(
        self,
        real: RealImages | tuple[Any, Any],
        model: Model,
        to: int | Literal["max"] = "max",
        *,
        seed: int = 0,
        transform: Callable[[Tensor], Any] | None = None,
        cache: Path | str | None = None,
        omega: float | None = None,
        sampler: str | None = None,
        steps: int | None = None,
    ) -> None:
        self.model, self.seed, self.transform = model, seed, transform
        self.sampling = changed_sampling(model.exported, omega, steps, sampler)
        self._images, labels = _images_and_labels(real)
        own = _class_ids(labels, getattr(real, "classes", None), model)
        counts = np.bincount(own, minlength=len(model.class_names))
        if to != "max" and to < 1:
            raise UsageProblem(f"to={to} images of each class", 'give 1 or more, or "max"')
        target = int(counts.max()) if to == "max" else to
        missing = np.maximum(target - counts, 0)
        self._added = np.repeat(np.arange(len(missing), dtype=np.int64), missing)
        self._index_in_class = np.concatenate([np.arange(m, dtype=np.int64) for m in missing])
        self.labels = np.concatenate([own, self._added])
        self.is_generated = np.arange(len(self.labels)) >= len(own)
        self.folder = (_temporary(self) if cache is None else Path(cache)) / self._identity()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._loaded: dict[int, Pixels] = {}

    def __len__(self) -> int:
        """Return the number of images of both kinds."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return `(image, label)`.

        Raises:
            IndexError: no such item.
            DataProblem: a real image that is not uint8, or not of the model's shape.
        """
        index = range(len(self))[index]  # negative ones count from the end, as in a list
        number = index - (len(self.labels) - len(self._added))
        if number >= 0:
            image = self._batch(number // BATCH)[number % BATCH]
        else:
            image = _pixels(self._images(index), self.model.image_shape, index)
        pixels = torch.tensor(image)
        shown = pixels if self.transform is None else self.transform(pixels)
        return shown, int(self.labels[index])

    def generate(self, on_progress: Callable[[int], None] = lambda _done: None) -> None:
        """Generate now what is missing, as for a GPU, which workers of a `DataLoader` cannot use.

        Args:
            on_progress: called with the number of images that exist, after each batch.
        """
        for number in range(-(-len(self._added) // BATCH)):
            self._batch(number)
            on_progress(min((number + 1) * BATCH, len(self._added)))

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: images lie in the folder, which stays this one's."""
        return {**self.__dict__, "_loaded": {}}

    def _identity(self) -> str:
        """Return a name of all that decides the generated images."""
        about: Mapping[str, Any] = {
            "model": self.model.exported.card.checkpoint,
            "sampling": self.sampling.identity(),
            "seed": self.seed,
            "batch": BATCH,
            "added": np.bincount(self._added, minlength=1).tolist(),
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]

    def _batch(self, number: int) -> Pixels:
        """Return a batch of generated images, made now where no process has made it."""
        if number not in self._loaded:
            file = self.folder / f"{number:06d}.safetensors"
            if (known := self._read(file)) is None:
                with (self.folder / f"{number:06d}.lock").open("w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    known = self._read(file)  # another worker may have made it
                    if known is None:
                        known = self._make(number, file)
            self._loaded[number] = known
        return self._loaded[number]

    def _read(self, file: Path) -> Pixels | None:
        if not file.exists():
            return None
        try:
            return cast(Pixels, load_arrays(file)["images"])
        except (Altered, KeyError):
            log.warning("%s is damaged: generating its images again", file)
            return None

    def _make(self, number: int, file: Path) -> Pixels:
        if self.model.exported.device.type != "cpu" and get_worker_info() is not None:
            raise UsageProblem(
                "a worker of a DataLoader cannot generate images on a GPU",
                "call generate() of the data set before the DataLoader is made",
            )
        rows = slice(number * BATCH, (number + 1) * BATCH)
        labels, which = self._added[rows], self._index_in_class[rows]
        images = self.model.generate(labels, self.sampling, self.seed, which)
        unfinished = file.with_suffix(".part")  # one process at a time writes it
        save_arrays({"images": images}, unfinished)
        os.replace(unfinished, file)
        return images


def _temporary(owner: object) -> Path:
    """Return a folder that is removed when its owner is, in the process that made it."""
    scratch, process = Scratch(), os.getpid()

    def remove() -> None:
        if os.getpid() == process:  # a worker was forked with the owner, and ends before it
            scratch.cleanup()

    weakref.finalize(owner, remove)
    return Path(scratch.name)


def _images_and_labels(real: Any) -> tuple[Callable[[int], Any], Sequence[Any]]:
    """Return what gives the image of a number, and all labels."""
    if isinstance(real, tuple):
        images, labels = real
        if len(images) != len(labels):
            raise DataProblem(
                f"{len(images)} images and {len(labels)} labels", "give a label for each image"
            )
        return images.__getitem__, labels
    for name in ("labels", "targets"):  # the latter are torchvision's
        if (known := getattr(real, name, None)) is not None and len(known) == len(real):
            return lambda index: real[index][0], known
    return lambda index: real[index][0], [real[index][1] for index in range(len(real))]


def _class_ids(labels: Sequence[Any], classes: Sequence[str] | None, model: Model) -> Ints:
    """Return the model's class ids of labels, (N,); those of a data set are by its own list of classes."""
    plain = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else list(labels)
    ids: dict[Any, int] = {}
    try:
        for label in dict.fromkeys(plain):
            by_name = classes is not None and not isinstance(label, str)
            ids[label] = model.class_id(str(classes[label]) if by_name else label)  # type: ignore[index]
    except (UsageProblem, IndexError) as error:
        raise DataProblem(
            f"label {label!r} of the real images is no class of the model",
            f"give ids 0 to {len(model.class_names) - 1}, or names: "
            f"{', '.join(model.class_names[:10])}",
        ) from error
    return np.array([ids[label] for label in plain], np.int64)


def _pixels(image: Any, shape: tuple[int, int, int], index: int) -> Pixels:
    """Return a real image as (C, H, W) uint8."""
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[None]
    channels, height, width = shape
    if pixels.shape == (height, width, channels) != shape:
        pixels = pixels.transpose(2, 0, 1)
    if pixels.dtype != np.uint8 or pixels.shape != shape:
        raise DataProblem(
            f"real image {index} is {pixels.dtype} {pixels.shape}, the model's are uint8 {shape}",
            "give images of this size before any transform, and the transform to BalancedDataset",
        )
    return cast(Pixels, pixels)
