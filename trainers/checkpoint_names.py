"""Names of checkpoints and of what is in them; imports no PyTorch, so that a listing is quick."""

from __future__ import annotations

import re

MANIFEST = "manifest.json"
CHECKPOINT_NAME = re.compile(r"images-\d{12}")
"""As `checkpoint_name` makes them."""


def checkpoint_name(images_seen: int) -> str:
    """Return the name of the checkpoint at this progress; names sort by progress."""
    return f"images-{images_seen:012d}"


def images_seen(name: str) -> int:
    """Return the progress of a checkpoint with this name."""
    return int(name.rpartition("-")[2])
