"""Work on shards that writes down which process does it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from support.training import at

from whipray.platform.generation.shard_tasks import ShardSampler
from whipray.platform.generation.shards import OnImagesDone, Shard


class ShardDiary(ShardSampler):
    """Writes down which process is given which shard."""

    def __init__(self, folder: Path) -> None:
        super().__init__(at(folder), Mock)
        self.folder = folder

    def generate(self, shard: Shard, on_progress: OnImagesDone = lambda _done: None) -> Any:
        """Leave a file named by the shard and the process."""
        file = self.folder / f"{shard.stem}-{os.getpid()}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        time.sleep(1)  # so that the other process takes the next one
        on_progress(len(shard) / 2)


def process_id(put: Callable[[Any], None]) -> int:
    """Return this process's id, with a message."""
    put("computing")
    return os.getpid()
