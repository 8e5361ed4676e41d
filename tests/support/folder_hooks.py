"""Hooks of a training that need neither a store nor a tracker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from whipray.trainers.checkpoint import write_manifest
from whipray.trainers.loop import Progress
from whipray.trainers.previews import Preview
from whipray.trainers.state_copy import Snapshot


class FolderHooks:
    """Keep each checkpoint in a folder of its own, below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def report(self, progress: Progress) -> bool:  # noqa: ARG002
        return False

    def checkpoint_now(self) -> bool:
        return False

    def preview(self, preview: Preview) -> None:
        pass

    def checkpoint(self, name: str, snapshot: Callable[[], Snapshot]) -> None:
        (self.folder / name).mkdir(parents=True)
        taken = snapshot()
        share = taken.write(self.folder / name)
        write_manifest(self.folder / name, taken.manifest([share]))

    def wait_for_uploads(self) -> None:
        pass
