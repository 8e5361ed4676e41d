"""The checkpoint that a training goes on from: chosen once, and downloaded once by each machine."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from ...trainers.checkpoint import Manifest
from ...trainers.checkpointing import ResumePoint
from ...trainers.disk import writing
from ...trainers.errors import CheckpointProblem, Problem
from ...trainers.scratch import shared_scratch
from ..compute.peers import Peers, run_on_all_or_raise
from ..storage.checkpoints import CheckpointStore

T = TypeVar("T")

LOCK, VERIFIED, PROBLEM = ".lock", ".verified", ".problem"
"""Files in a machine's copy: is locked by the process that downloads; is there when all is well; says why it
is not."""


@contextmanager
def resume_point(
    store: CheckpointStore, peers: Peers
) -> Iterator[tuple[ResumePoint | None, list[str]]]:
    """Yield the newest usable checkpoint in a local folder; every worker enters it.

    Worker 0 reads manifests and sizes, then all machines download at the same time. What is damaged for one
    is passed over by all. The folder may be gone once the context is left.

    Args:
        peers: the workers; no process group is needed.

    Yields:
        the checkpoint, None at the very start; and a line for each damaged one that was skipped.

    Raises:
        Problem: on every worker: all checkpoints are damaged, or what is wrong with the store.
    """
    with ExitStack() as copy:

        def from_worker_0(action: Callable[[], T]) -> T:
            result = run_on_all_or_raise(peers, action if peers.rank == 0 else _nothing)
            value: T = peers.all_gather(result)[0]
            return value

        def fetch(name: str) -> Manifest:
            copy.close()  # of one that was damaged
            manifest = from_worker_0(lambda: store.check(name))
            folders[name] = run_on_all_or_raise(
                peers, lambda: copy.enter_context(fetched_once_a_machine(store, name, manifest))
            )
            return manifest

        folders: dict[str, Path] = {}
        fetched = store.latest_usable(from_worker_0(store.names), fetch)
        damaged = fetched.damaged if fetched else {}

        def set_aside() -> None:
            for name in damaged:  # so that their names can be written again
                store.set_aside(name)

        from_worker_0(set_aside)
        point = ResumePoint(folders[fetched.name], fetched.manifest) if fetched else None
        yield point, [f"skipped {name}: {problem.what}" for name, problem in damaged.items()]


def _nothing() -> Any:
    """Do what the other workers do while worker 0 decides."""


@contextmanager
def fetched_once_a_machine(store: CheckpointStore, name: str, manifest: Manifest) -> Iterator[Path]:
    """Yield a folder with a checkpoint of which every byte was checked, shared by this machine's processes.

    The first process downloads it while the others wait; the last one removes it.

    Args:
        manifest: of the checkpoint, as it is in the store.

    Raises:
        CheckpointProblem: a file is missing, cut short or altered; for whoever waited, too.
        Problem: what is wrong with the store.
    """
    content = f"{store.storage.uri_of(name)} {manifest.content_hash()}"
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    with shared_scratch(key) as folder:
        with writing(folder):
            lock = (folder / LOCK).open("a")
        with lock:
            with suppress(OSError):  # no locks, where the folder is not shared either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / VERIFIED).exists():
                _fetch(store, name, folder)
        yield folder


def _fetch(store: CheckpointStore, name: str, folder: Path) -> None:
    noted = folder / PROBLEM
    if noted.exists():  # of the process that had the lock before
        noted_problem = json.loads(noted.read_text())
        damaged = noted_problem.pop("damaged")
        raise (CheckpointProblem if damaged else Problem)(**noted_problem)
    try:
        store.fetch(name, folder)
    except Problem as problem:
        damaged = isinstance(problem, CheckpointProblem)
        noted.write_text(json.dumps({"what": problem.what, "fix": problem.fix, "damaged": damaged}))
        raise
    (folder / VERIFIED).touch()
