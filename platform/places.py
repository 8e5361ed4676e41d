"""From what a person types to runs, models and stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..trainers.errors import UsageProblem, did_you_mean
from .checkpoints import CheckpointStore
from .experiment import Experiment, TrackingConfig
from .storage import Storage, StorageConfig
from .tracking import Tracker


def open_storage(uri: str | None, endpoint: str | None) -> Storage:
    """The store of the options, or the default folder."""
    return Storage(store_config(uri, endpoint))


def store_config(uri: str | None, endpoint: str | None) -> StorageConfig:
    """What the options say of the store.

    Raises:
        UsageProblem: no folder, bucket or address.
    """
    given: dict[str, Any] = {"uri": uri} if uri else {}
    if endpoint:
        given["endpoint_url"] = endpoint
    try:
        return StorageConfig.model_validate(given)
    except ValueError as error:
        raise UsageProblem(
            f"--storage or --endpoint: {error}".splitlines()[0], "give a folder or s3://bucket"
        ) from error


def open_tracker(uri: str | None, endpoint: str | None, tracking: str | None) -> Tracker:
    """MLflow of the options."""
    return Tracker(TrackingConfig(uri=tracking), open_storage(uri, endpoint))


@dataclass(frozen=True)
class RunPlace:
    """A run that is there already."""

    key: str
    """Of its MLflow run."""
    store: Storage
    checkpoint: str
    experiment: Experiment


def find_run(root: Storage, target: str) -> RunPlace:
    """`NAME` of a run, `SWEEP/NUMBER` of a trial, or `SWEEP/trunk`.

    Raises:
        UsageProblem: no such run, or it has no checkpoint yet.
    """
    name, slash, number = target.partition("/")
    if slash and number.isdigit():
        key, folder = f"sweep/{name}/{int(number)}", f"sweeps/{name}/trials/{int(number):04d}"
    elif slash and number == "trunk":
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
    return RunPlace(key, store, latest, Experiment.model_validate(config))


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
