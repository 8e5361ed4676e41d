"""From what a person types to runs, models and stores."""

from __future__ import annotations

from dataclasses import dataclass

from ...trainers.errors import UsageProblem, did_you_mean
from ..config.experiment import Experiment
from ..storage.checkpoints import CheckpointStore
from ..storage.store import Storage


@dataclass(frozen=True)
class StoredRun:
    """A run that is there already."""

    key: str
    """Of its MLflow run."""
    store: Storage
    checkpoint: str
    experiment: Experiment


def find_run(root: Storage, target: str) -> StoredRun:
    """`NAME` of a run, `SWEEP/NUMBER` of a trial, or `SWEEP/pretrain`.

    Raises:
        UsageProblem: no such run, or it has no checkpoint yet.
    """
    name, slash, number = target.partition("/")
    if slash and number.isdigit():
        key, folder = f"sweep/{name}/{int(number)}", f"sweeps/{name}/trials/{int(number):04d}"
    elif slash and number == "pretrain":
        key, folder = f"sweep/{target}", f"sweeps/{target}"
    else:
        key, folder = f"run/{target}", f"runs/{target}"
    store = root.child(folder)
    checkpoints = CheckpointStore(store)
    latest = checkpoints.latest()
    if latest is None:
        known = sorted(_runs(root))
        hint = did_you_mean(target, known)
        raise UsageProblem(
            f"no run {target} with a checkpoint in {root.uri}",
            f"{hint}there are {', '.join(known[-12:]) or 'none yet'}; another store is --storage or storage.uri",
        )
    config = checkpoints.read_manifest(latest).config
    return StoredRun(key, store, latest, Experiment.model_validate(config))


def _runs(root: Storage) -> set[str]:
    found = set()
    for path in root.list():
        parts = path.split("/")
        if parts[-1] != "manifest.json":
            continue
        if parts[0] == "runs":
            found.add(parts[1])
        elif parts[0] == "sweeps" and len(parts) > 3:
            found.add(f"{parts[1]}/{int(parts[3]) if parts[2] == 'trials' else parts[2]}")
    return found
