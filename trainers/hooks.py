"""What a training calls outside of itself: progress reports and the upload of checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .state_copy import Snapshot

if TYPE_CHECKING:  # it imports the engine
    from .previews import Preview


@dataclass(frozen=True)
class Progress:
    """One report of a training."""

    images_seen: int
    total_images: int
    metrics: dict[str, float]
    """Means since the last report: `loss/...`, `lr`, `gradient_norm`, `images_per_second` with all that the time
    went to; before a checkpoint also `validation/denoising`."""


class Hooks(Protocol):
    """Callbacks of a training. Every worker calls every hook but `preview`, in the same order."""

    def report(self, progress: Progress) -> bool:
        """Record the progress; return True to make the training save and stop here.

        Worker 0's answer counts.
        """
        ...

    def checkpoint_now(self) -> bool:
        """Return True if a checkpoint should be written immediately, e.g. before a preemption.

        Called after each report; the answer is the same on every worker.
        """
        ...

    def preview(self, preview: Preview) -> None:
        """Show images of the training as it is; called on worker 0 alone, so no collective may be in it."""
        ...

    def checkpoint(self, name: str, snapshot: Callable[[], Snapshot]) -> None:
        """Store a checkpoint: this worker's files, and after all workers' files the manifest.

        `snapshot` copies the state into memory, for which all workers need each other; it is called before
        this returns, and what is left to do may be done while the training goes on.
        """
        ...

    def wait_for_uploads(self) -> None:
        """Return once everything that was passed to `checkpoint` is stored."""
        ...
