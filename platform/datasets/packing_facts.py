"""What is said of a packing: what it made, or would make, and how long that takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ...trainers.data import DataConfig
from ...trainers.data.decoding import UNREAD, usable_cores
from ...trainers.data.encoded_splits import EncodedSplits
from ...trainers.data.files import Files
from ...trainers.data.pixels import read_pixels
from ..foundation.durations import minutes
from ..storage.config import StorageConfig
from .pack_tasks import PARTS
from .packing import Packed, check_apart, check_room, divide, find_whole, in_words, set_bytes
from .source_state import check_packable, source_state

MEASURED = 24
"""Images that are decoded to tell how long a packing takes."""


def describe(packed: Packed, uri: str) -> dict[str, Any]:
    """Return what is said of a packed set, for a table or as JSON."""
    about = packed.description
    return {
        "packed": uri,
        "source": about.source,
        "images": about.rows,
        "training_images": about.train[1] - about.train[0],
        "reference_images": about.reference[1] - about.reference[0],
        "classes": len(about.class_names),
        "image_shape": list(about.image_shape),
        "bytes": about.bytes,
        "shards": len(about.shards),
        "made": packed.made,
        "found": packed.found,
        "fingerprint": about.train_fingerprint,
    }


def outlook_of(
    data: DataConfig, to: Files, storage: StorageConfig, on_phase: Callable[[str], None]
) -> dict[str, Any]:
    """Return what a packing would make and about how long it takes on this machine; write nothing.

    Raises:
        Problem: as `pack`.
    """
    config = check_packable(data)
    check_apart(data, to)
    on_phase("listing images")
    whole = find_whole(to, source_state(data, storage.endpoint_url))
    splits = config.prepare(UNREAD)
    tasks = list(divide(splits))
    facts: dict[str, Any] = {
        "to": to.uri,
        "source": in_words(data),
        "images": len(splits),
        "classes": len(splits.class_names),
        "bytes": set_bytes(splits),
        "shards": len(tasks),
    }
    if whole is not None:
        return {**facts, "to_do": "nothing: this set is whole"}
    check_room(to, splits)
    present = to.list(PARTS)
    waiting = sum(len(task) for task in tasks if task.part not in present)
    on_phase("measuring")
    seconds = _seconds_an_image(splits) * waiting / usable_cores()
    return {**facts, "to_do": f"{waiting:,} images", "time_on_this_machine": minutes(seconds)}


def _seconds_an_image(splits: EncodedSplits) -> float:
    """Return the CPU seconds that an image takes, of a few from all over the set."""
    channels, size, _ = splits.image_shape
    rows = np.linspace(0, len(splits) - 1, MEASURED).astype(int)
    began = time.thread_time()
    for row in rows:
        for part in splits.rows(int(row), int(row) + 1):
            read_pixels(part.open(0), part.name(0), size, channels)
    return (time.thread_time() - began) / len(rows)
