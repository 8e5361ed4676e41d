"""A long tail cut out of balanced data: LDAM's subset, index for index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..config import Config, OfOneVariant
from ..errors import DataProblem
from .packed import Indices, check_every_class, check_labels


class LongTail(Config):
    """How many images of each class are kept; class 0 is the head, the last class the tail."""

    kind: Literal["exponential", "step", "none"] = "exponential"
    """exponential: counts fall geometrically over the classes. step: the first half of the classes
    keeps all, the others the fewest. none: the data as they come."""
    ratio: float = Field(default=100.0, ge=1.0)
    """Images of the largest class over images of the smallest (not used by `none`); 100 is the
    hardest of the usual settings 10, 50 and 100."""

    def counts(self, images: int, num_classes: int) -> list[int]:
        """Return how many images each class keeps, head first; Cao et al. (2019), LDAM-DRW.

        The expression is theirs to the rounding: the factor 1/ratio is raised to a float power and
        the product is truncated, not rounded.

        Args:
            images: of the whole data set; its classes are taken to be of equal size.
        """
        largest = images / num_classes
        factor = 1 / self.ratio
        if self.kind == "exponential":
            last = max(num_classes - 1, 1)
            return [int(largest * factor ** (c / last)) for c in range(num_classes)]
        if self.kind == "step":
            head = num_classes // 2
            return [int(largest)] * head + [int(largest * factor)] * (num_classes - head)
        raise ValueError("`none` cuts nothing, so it has no counts")


OwnTail = Annotated[LongTail, OfOneVariant()]
"""A tail that is cut only from the data set that it was given for."""
MOST_UNEVEN = 1.2
"""Images of the largest class over those of the smallest, above which data are not balanced."""


def long_tail_indices(
    labels: Indices,
    num_classes: int,
    long_tail: LongTail,
    seed: int = 0,
    *,
    class_names: Sequence[str] = (),
    held_out: NDArray[np.bool_] | None = None,
) -> Indices:
    """Return which images are kept, (M,) int64.

    LDAM-DRW and CBDM use NumPy's legacy generator, seeded with 0: for each class in turn its indices
    are shuffled and the first ones taken. The same sequence gives the same subset. The
    result is sorted by class, in shuffled order within a class; with `none` it is every index.

    Args:
        labels: (N,) int64 of the data to cut.
        class_names: names of the classes in error messages; their numbers if empty.
        held_out: (N,), images that are not to be kept: the tail is cut out of the others. Whether data are
            balanced is a matter of all images.

    Raises:
        DataProblem: a label outside the classes, data that are not balanced, or a class left without
            an image.
    """
    names = class_names or [str(c) for c in range(num_classes)]
    check_labels(labels, num_classes)
    check_every_class(labels, names, "data", "add images of it, or leave the class out")
    free = np.ones(len(labels), np.bool_) if held_out is None else ~held_out
    if long_tail.kind == "none":
        return np.flatnonzero(free).astype(np.int64)
    had = np.bincount(labels, minlength=num_classes)
    if had.max() > MOST_UNEVEN * had.min():
        raise DataProblem(
            f"data.long_tail.kind={long_tail.kind} cuts a tail out of balanced data, and these have "
            f"{had.max()} images of one class, {had.min()} of another",
            "set data.long_tail.kind=none to train on all of them as they are, or give balanced data",
        )
    generator = np.random.RandomState(seed)
    chosen = []
    for c, count in enumerate(long_tail.counts(int(free.sum()), num_classes)):
        of_class = np.where((labels == c) & free)[0]
        generator.shuffle(of_class)
        chosen.append(of_class[:count])
    kept = np.concatenate(chosen).astype(np.int64)
    check_every_class(
        labels[kept],
        names,
        f"long tail ({long_tail.kind}, ratio {long_tail.ratio:g})",
        "lower long_tail.ratio, or add images",
    )
    return kept
