"""Lookup of stored runs by what a person types."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ...trainers.checkpoint_names import MANIFEST
from ...trainers.errors import UsageProblem, did_you_mean
from ..config.experiment import Experiment, read_experiment
from ..storage import layout
from ..storage.checkpoints import CheckpointStore
from ..storage.store import Storage

log = logging.getLogger(__name__)

LISTED = 12
"""Runs that an error message names at most."""


@dataclass(frozen=True)
class StoredRun:
    """A run with a checkpoint in the store."""

    key: str
    """Of its MLflow run."""
    store: Storage
    """The run's folder."""
    checkpoint: str
    """Name of the latest one, or of the one that was asked for."""
    experiment: Experiment


def find_run(root: Storage, target: str, checkpoint: str | None = None) -> StoredRun:
    """Return the run with this target: `NAME`, `SWEEP/NUMBER` of a trial, or `SWEEP/pretrain`.

    A run that has not been trained to its end is mentioned: in training, stopped, or damaged.

    Args:
        root: the store's top.
        target: of the run.
        checkpoint: name of a certain one; None: the latest.

    Raises:
        UsageProblem: no such run, or it has no checkpoint yet.
        CheckpointProblem: it has no such checkpoint.
    """
    address = layout.run_address(target)
    store = root.child(address.folder)
    checkpoints = CheckpointStore(store)
    latest = checkpoints.latest()
    if latest is None:
        known = sorted(list_runs(root))
        hint = did_you_mean(target, known)
        raise UsageProblem(
            f"no run {target} with a checkpoint in {root.uri}",
            f"{hint}known runs: {', '.join(known[-LISTED:]) or 'none'}; for another store give "
            "--storage",
        )
    manifest = checkpoints.read_manifest(checkpoint or latest)
    experiment = read_experiment(manifest.config, store.uri)
    if checkpoint is None and manifest.images_seen < experiment.training.images:
        later = checkpoints.lost_after(latest)
        state = f"; {later} is unfinished or lost its {MANIFEST}" if later else ""
        log.warning(
            "%s: its last checkpoint is of %s of %s images%s",
            *(target, f"{manifest.images_seen:,}", f"{experiment.training.images:,}", state),
        )
    return StoredRun(address.key, store, checkpoint or latest, experiment)


def list_runs(root: Storage) -> set[str]:
    """Return the targets of all runs that have a checkpoint."""
    return layout.runs_in(root.list())
