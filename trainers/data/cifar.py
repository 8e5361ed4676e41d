"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from their own files, as torchvision reads them."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from ..errors import DataProblem
from .long_tail import LongTail, OwnTail, long_tail_indices
from .packed import PackedImages
from .progress import OnPhase, quiet
from .source import SourceConfig, Splits


class Cifar(SourceConfig):
    """32x32 RGB, 50,000 training and 10,000 test images; the training images are cut to a tail."""

    source: Literal["cifar10", "cifar100"] = "cifar10"
    root: Path = Path("data")
    """Folder of the extracted archive, or of the archive, which is then extracted into it."""
    download: bool = False
    """Fetch the archive if it is missing; needs a network."""
    reference: Literal["test", "train"] = "test"
    """Balanced images to compare with: test is never trained on; train is all 50,000 training
    images, tail images included, as CBDM's paper has it."""
    long_tail: OwnTail = LongTail()
    """The tail to cut; exponential at 100 is CIFAR-LT as LDAM, CBDM and most others use it."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return 3, 32, 32

    @property
    def for_classifiers(self) -> Self:
        """The same with the test images as reference; see `SourceConfig`."""
        return self.model_copy(update={"reference": "test"})

    def load(
        self,
        cache: Path,  # noqa: ARG002  (stored decoded already)
        on_phase: OnPhase = quiet,  # noqa: ARG002
    ) -> Splits:
        """Read both splits; see `SourceConfig`."""
        pool = self._read(train=True)
        kept = long_tail_indices(
            pool.labels, pool.num_classes, self.long_tail, class_names=pool.class_names
        )
        return self.split(
            pool.select(kept),
            lambda: pool if self.reference == "train" else self._read(train=False),
            len(pool.images),
        )

    def _read(self, train: bool) -> PackedImages:
        from torchvision import datasets  # type: ignore[import-untyped]

        kind: Any = datasets.CIFAR10 if self.source == "cifar10" else datasets.CIFAR100
        root = self.root.expanduser()
        archive = root / kind.filename
        with _alone(root) if self.download else nullcontext():
            return self._open(kind, root, archive, train)

    def _open(self, kind: Any, root: Path, archive: Path, train: bool) -> PackedImages:
        from torchvision.datasets.utils import check_integrity  # type: ignore[import-untyped]

        if archive.exists() and not check_integrity(str(archive), kind.tgz_md5):
            raise DataProblem(f"{archive}: damaged or cut short", "fetch the archive again")
        try:
            # With the archive in place, `download` only extracts it.
            data = kind(str(root), train=train, download=self.download or archive.exists())
        except (RuntimeError, OSError) as error:
            raise DataProblem(
                f"{root}: no {self.source}, neither {kind.base_folder} nor {kind.filename}"
                + (f", and it could not be fetched ({error})" if self.download else ""),
                f"put {kind.filename} into {root}, or set data.download with a network",
            ) from error
        return PackedImages(
            np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)),  # (N, 32, 32, 3) -> (N, 3, ...)
            np.array(data.targets, dtype=np.int64),
            tuple(data.classes),
        )


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold a lock on the folder: of several workers on a machine, one fetches the archive."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / ".fetching").open("w")
    except OSError:  # the fetching fails for the same reason, and says so
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
