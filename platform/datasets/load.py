"""The images of a source, wherever their pixels are: decoded in the store, or on this machine."""

from __future__ import annotations

from ...trainers.data import DataConfig, Splits
from ...trainers.data.decoding import UNREAD
from ...trainers.disk import cache_folder
from ..storage.store import Storage


def load_images(data: DataConfig, root: Storage) -> Splits:  # noqa: ARG001
    """Return the images of a source, decoded.

    Args:
        root: the store's top.

    Raises:
        DataProblem: they cannot be used.
    """
    return data.load(cache_folder())


def check_images(data: DataConfig, root: Storage) -> None:  # noqa: ARG001
    """Check that this machine can get at the images of a source; none is decoded.

    Args:
        root: as `load_images`.

    Raises:
        DataProblem: it cannot.
    """
    data.load(UNREAD)
