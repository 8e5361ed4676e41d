"""What a training tells its surroundings: checkpoints go to the store, progress to a callable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from ..trainers import checkpoint as files
from ..trainers.checkpoint import Manifest
from ..trainers.errors import Problem
from ..trainers.loop import Progress, Resume
from .checkpoints import CheckpointStore, Fetched

T = TypeVar("T")


class StoreHooks:
    """Hooks of one worker: a checkpoint store and somebody to report to.

    Args:
        store: the run's checkpoints.
        tell: takes each report; True asks the training to stop.
    """

    def __init__(self, store: CheckpointStore, tell: Callable[[Progress], bool]) -> None:
        self.store = store
        self.tell = tell

    def report(self, progress: Progress) -> bool:
        """Tell; a problem with that is one of all workers."""
        return together(lambda: self.tell(progress))

    def checkpoint(self, name: str, folder: Path, file: str, manifest: Manifest) -> None:
        """Shards first, by every worker; then, by worker 0, the manifest."""
        together(lambda: self.store.put_shard(name, folder / file))
        together(lambda: self._commit(name, folder, manifest) if dist.get_rank() == 0 else None)

    def _commit(self, name: str, folder: Path, manifest: Manifest) -> None:
        files.write_manifest(folder, manifest)
        self.store.commit(name, folder / files.MANIFEST)
        self.store.prune()


def together(action: Callable[[], T]) -> T:
    """Run an action on every worker; if one has a problem, all of them raise it.

    A worker that failed alone would leave the others waiting in the next collective.
    """
    problem: Problem | None = None
    result: T | None = None
    try:
        result = action()
    except Problem as found:
        problem = found
    problems: list[Problem | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    for found_anywhere in problems:
        if found_anywhere is not None:
            raise found_anywhere
    return result  # type: ignore[return-value]  # only None where the action returns None


def resume_point(store: CheckpointStore, folder: Path) -> tuple[Resume | None, list[str]]:
    """The newest usable checkpoint, fetched by every worker into its own `folder`.

    Returns:
        the checkpoint, None at the very start; and a line for each damaged one passed over.
    """

    def choose() -> Fetched | None:
        if dist.get_rank() != 0:
            return None
        found = store.fetch_latest_usable(folder)
        for name in found.damaged if found else ():  # so that their names can be written again
            store.set_aside(name)
        return found

    mine = together(choose)  # worker 0's
    chosen = [mine]
    dist.broadcast_object_list(chosen, src=0)
    found = chosen[0]
    if found is None:
        return None, []
    manifest = together(lambda: mine.manifest if mine else store.fetch(found.name, folder))
    return Resume(folder, manifest), [
        f"passed over {name}: {problem.what}" for name, problem in found.damaged.items()
    ]
