"""Hooks of a training: checkpoints go to the store, progress to a callable."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...trainers import checkpoint as checkpoint_format
from ...trainers.checkpoint import Manifest
from ...trainers.checkpoint_names import MANIFEST
from ...trainers.errors import Problem
from ...trainers.hooks import Progress
from ...trainers.previews import Preview
from ...trainers.scratch import Scratch
from ...trainers.state_copy import Snapshot, WrittenShare
from ..compute.peers import GroupPeers, Peers, run_on_all_or_raise
from ..foundation.background import in_background
from ..storage.checkpoints import CheckpointStore

log = logging.getLogger(__name__)


@dataclass
class _Upload:
    """A checkpoint on its way to the store."""

    name: str
    snapshot: Snapshot
    job: Future[WrittenShare | None]
    """This worker's part of the present step: its files; then, for worker 0, the manifest."""
    committing: bool = False


class StoreHooks:
    """`trainers.loop.Hooks` of one worker.

    Checkpoints are written, hashed and uploaded by a thread while the training goes on, one at a time: it
    waits only until its state is copied into memory. That takes 1 / workers of the state until the files
    are written. Each report advances the upload: the manifest follows once all workers' shards are in the
    store.

    Args:
        store: the run's checkpoints.
        on_report: takes each report; True asks the training to stop.
        preemption_noticed: returns whether a worker's host was given notice since the last call; the
            same on every worker.
        flush_metrics: returns when all reports so far are written, or cannot be for now. Only then is
            a checkpoint committed: reports from before it are not made again after a resume.
        on_preview: takes each preview on worker 0, on a thread; what is wrong with it is logged, and the
            training goes on.
        peers: the workers of the training. None: those of this process's group.
    """

    def __init__(
        self,
        store: CheckpointStore,
        on_report: Callable[[Progress], bool],
        preemption_noticed: Callable[[], bool] = lambda: False,
        flush_metrics: Callable[[], None] = lambda: None,
        on_preview: Callable[[Preview], None] = lambda _preview: None,
        peers: Peers | None = None,
    ) -> None:
        self.store = store
        self.on_report = on_report
        self.preemption_noticed = preemption_noticed
        self.flush_metrics = flush_metrics
        self.on_preview = on_preview
        self.peers = peers or GroupPeers()
        self._upload: _Upload | None = None
        self._preview: Future[None] | None = None

    def report(self, progress: Progress) -> bool:
        """Report progress; if reporting fails on one worker, raise on all.

        Returns:
            whether the training should stop.
        """
        stop = run_on_all_or_raise(self.peers, lambda: self.on_report(progress))
        self._advance(wait=False)
        return stop

    def checkpoint_now(self) -> bool:
        """Return True if a checkpoint should be written immediately, before a preemption."""
        return self.preemption_noticed()

    def preview(self, preview: Preview) -> None:
        """Begin to keep a preview, once the one before it is kept."""
        self._wait_for_preview()
        self._preview = in_background(partial(self.on_preview, preview))

    def _wait_for_preview(self) -> None:
        if self._preview is None:
            return
        try:
            self._preview.result()
        except (Problem, OSError) as problem:  # images to look at are not worth a training
            log.warning("a preview is not kept: %s", problem)
        self._preview = None

    def checkpoint(self, name: str, snapshot: Callable[[], Snapshot]) -> None:
        """Begin to upload: every worker its files; then worker 0 the manifest."""
        self.wait_for_uploads()
        taken = snapshot()
        self._upload = _Upload(name, taken, in_background(partial(self._put, name, taken)))

    def wait_for_uploads(self) -> None:
        """Wait until the checkpoint is in the store.

        Raises:
            Problem: what is wrong with the store, on every worker.
        """
        self._wait_for_preview()
        self._advance(wait=True)

    def _advance(self, wait: bool) -> None:
        """Take the upload from the shards to the manifest to its end, as far as it is ready."""
        while (upload := self._upload) is not None:
            if not wait and not all(self.peers.all_gather(upload.job.done())):
                return
            self._upload = None
            share = run_on_all_or_raise(self.peers, upload.job.result)
            if upload.committing:
                return
            shares = [share for share in self.peers.all_gather(share) if share is not None]
            manifest = upload.snapshot.manifest(shares)
            upload.committing = True
            upload.job = in_background(
                partial(self._commit, upload.name, manifest) if self.peers.rank == 0 else _nothing
            )
            self._upload = upload

    def _put(self, name: str, snapshot: Snapshot) -> WrittenShare:
        with Scratch() as scratch:
            share = snapshot.write(Path(scratch))
            for file in share.files:
                self.store.put_shard(name, Path(scratch) / file)
        return share

    def _commit(self, name: str, manifest: Manifest) -> None:
        try:
            self.flush_metrics()
        finally:  # a checkpoint is worth more than the reports before it
            with Scratch() as scratch:
                checkpoint_format.write_manifest(Path(scratch), manifest)
                self.store.commit(name, Path(scratch) / MANIFEST)
            self.store.prune()


def _nothing() -> None:
    """Do what the other workers do while worker 0 commits."""
