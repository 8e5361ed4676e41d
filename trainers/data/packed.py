"""All images of one split in a single uint8 array, decoded once and gathered by index."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DataProblem
from .report import listed, shown

Indices = NDArray[np.int64]
Pixels = NDArray[np.uint8]
BLOCK_BYTES = 32 << 20
"""Of the images that are read at a time where all are read one after the other."""


class Images(Protocol):
    """Images (N, C, H, W) uint8: an array, or what reads them from where they are when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """uint8."""

    def __len__(self) -> int:
        """Return N."""

    def __getitem__(self, key: Any, /) -> Any:
        """Return the images of an index, a slice, an array of indices (B,) or a mask (N,), as an array."""


class FingerprintCache(Protocol):
    """Fingerprints that are known from before."""

    def get(self, labels: Indices, class_names: tuple[str, ...], compute: Callable[[], str]) -> str:
        """Return the fingerprint of the same images with these labels, computed where it is not known."""


@dataclass(frozen=True, eq=False)
class PackedImages:
    """Labelled images of one size.

    Args:
        images: (N, C, H, W) uint8; an array is C-contiguous, and may be a read-only memory map.
        labels: (N,) int64, in [0, number of classes).
        class_names: one for each class, in the order of the labels.
        known: keeps the fingerprint of exactly these images.

    Raises:
        DataProblem: no images, shapes or types that do not fit, or a label outside the classes.
    """

    images: Images
    labels: Indices
    class_names: tuple[str, ...]
    known: FingerprintCache | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        in_order = not isinstance(images, np.ndarray) or images.flags.c_contiguous
        if images.dtype != np.uint8 or len(images.shape) != 4 or not in_order:
            raise DataProblem(
                f"images are {images.dtype} {images.shape}, not one uint8 block (N, C, H, W)",
                "convert them with np.ascontiguousarray(images, dtype=np.uint8)",
            )
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            raise DataProblem(
                f"labels are {labels.dtype} {labels.shape} for {len(images)} images",
                "give one int64 label for each image",
            )
        if len(images) == 0:
            raise DataProblem("there are no images", "give at least one image of each class")
        check_labels(labels, self.num_classes)

    @property
    def num_classes(self) -> int:
        """Number of classes, including those without an image."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @cached_property
    def class_counts(self) -> Indices:
        """Images of each class, (number of classes,) int64."""
        return np.bincount(self.labels, minlength=self.num_classes).astype(np.int64)

    def select(self, indices: Indices) -> PackedImages:
        """Return the images at `indices` (M,), in that order, copied into memory."""
        return PackedImages(self.gather(indices), self.labels[indices], self.class_names)

    def gather(self, indices: Indices, out: Pixels | None = None) -> Pixels:
        """Return the images at `indices` (B,), as (B, C, H, W) uint8.

        Args:
            out: (B, C, H, W) uint8, C-contiguous; the images are written into it, and it is returned.

        Raises:
            DataProblem: images that are read from a bucket, and cannot be.
        """
        images = self.images
        if not isinstance(images, np.ndarray):
            gathered: Pixels = images.gather(indices, out)  # type: ignore[attr-defined]
            return gathered
        if out is None:
            rows: Pixels = images[indices]
            return rows
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(images):
            raise IndexError(f"an index outside of {len(images)} images")
        # Checked above: NumPy copies once more through a buffer where it is to raise itself
        return np.take(images, indices, axis=0, out=out, mode="clip")

    def blocks(self) -> Iterator[Pixels]:
        """Yield all images in their order, some MiB at a time."""
        return blocks_of(self.images)

    def fingerprint(self) -> str:
        """Return a name for the content: 16 hex digits over shape, images, labels and class names."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        if self.known is None:
            return self._compute()
        return self.known.get(self.labels, self.class_names, self._compute)

    def _compute(self) -> str:
        return fingerprint_of(self.image_shape, self.labels, self.class_names, self.blocks())


def fingerprint_of(
    image_shape: tuple[int, int, int],
    labels: Indices,
    class_names: tuple[str, ...],
    blocks: Iterable[Pixels],
) -> str:
    """Return the fingerprint of labelled images, 16 hex digits; see `PackedImages.fingerprint`.

    Args:
        image_shape: (C, H, W).
        labels: (N,).
        class_names: by label.
        blocks: the images in their order, in C-contiguous pieces of any size.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr(((len(labels), *image_shape), class_names)).encode())
    for block in blocks:
        digest.update(block.data)
    digest.update(labels.tobytes())
    return digest.hexdigest()


def blocks_of(images: Images) -> Iterator[Pixels]:
    """Yield images (N, C, H, W) in their order, some MiB at a time."""
    each = max(1, BLOCK_BYTES // max(1, math.prod(images.shape[1:])))
    for first in range(0, len(images), each):
        yield images[first : first + each]


def check_labels(
    labels: Indices, num_classes: int, name: Callable[[int], str] = "image {}".format
) -> None:
    """Check that every label is in [0, num_classes); `name` gives what messages call an image.

    Raises:
        DataProblem: naming the first image with a label outside the classes, and the label.
    """
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        first = int(outside[0])
        from_one = labels.min() == 1 and labels.max() == num_classes
        raise DataProblem(
            f"{name(first)}: label {labels[first]} is outside the {num_classes} classes "
            f"(0 to {num_classes - 1})",
            "labels start at 1, but count from 0: subtract 1 from every label"
            if from_one
            else "correct the label, or name every class",
        )


def check_names(names: Sequence[str]) -> None:
    """Check that each class has a name of its own that can be written to any file.

    Raises:
        DataProblem: naming the classes.
    """
    empty = [str(c) for c, name in enumerate(names) if not name]
    if empty:
        raise DataProblem(f"class {listed(empty)} has no name", "name every class")
    undecodable = [shown(name) for name in names if not _is_utf8(name)]
    if undecodable:
        raise DataProblem(
            f"class {listed(undecodable)}: a name that is not UTF-8",
            "rename it, as `convmv -f latin1 -t utf8 --notest` does with folders",
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataProblem(
            f"class name {listed([shown(name) for name in twice])} is given more than once",
            "name every class differently",
        )


def _is_utf8(name: str) -> bool:
    with suppress(UnicodeEncodeError):
        name.encode()
        return True
    return False


def check_every_class(labels: Indices, class_names: Sequence[str], where: str, fix: str) -> None:
    """Check that every class has an image; `where` and `fix` complete the message.

    Raises:
        DataProblem: naming the classes without an image.
    """
    empty = np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)
    if empty.size:
        which = listed([f"{c} ({shown(class_names[int(c)])})" for c in empty])
        one = empty.size == 1
        raise DataProblem(
            f"{where}: {'class' if one else 'classes'} {which} {'has' if one else 'have'} no image",
            fix,
        )
