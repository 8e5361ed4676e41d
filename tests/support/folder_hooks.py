"""Hooks of a training that need neither a store nor a tracker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from whipray.trainers.checkpoint import Manifest, write_manifest
from whipray.trainers.loop import Progress
from whipray.trainers.previews import Preview


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

    def checkpoint(
        self, name: str, scratch: TemporaryDirectory[str], files: Sequence[str], manifest: Manifest
    ) -> None:
        (self.folder / name).mkdir(parents=True)
        for file in files:
            (self.folder / name / file).write_bytes((Path(scratch.name) / file).read_bytes())
        write_manifest(self.folder / name, manifest)
        scratch.cleanup()

    def wait_for_uploads(self) -> None:
        pass
