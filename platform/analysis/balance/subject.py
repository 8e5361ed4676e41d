"""What is balanced: a checkpoint, by the words that name it, with the settings that decide the set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....trainers.errors import UsageProblem
from ...balancing.filters import parse_filter
from ...config.experiment import WHERE_DATA_LIE, Experiment
from ...config.layers import Layer, resolve
from ...config.paths import with_absolute_paths
from ...config.tracking import TrackingConfig
from ...runs.find_run import StoredRun, find_run
from ...storage.checkpoints import CheckpointStore
from ...storage.layout import VersionTag
from ...storage.store import Storage
from ...tracking import registry
from ...tracking.tracker import open_existing_tracker
from ...tracking.versions import Version
from ..overrides import parse_overrides
from ..target import kept_in, registered_sampling

CHANGEABLE = (
    "balancing",
    "classification",
    "evaluation.groups",
    "evaluation.memorisation",
    "sampling",
    "scaling",
)
"""Sections; also where the data lie, as long as they are the same."""


@dataclass(frozen=True)
class Subject:
    """A checkpoint, and the settings by which it balances its training images."""

    name: str
    """As the manifest has it: `models:/NAME/VERSION`, or the run and its checkpoint."""
    run: StoredRun
    """Its `checkpoint` is the one that generates."""
    experiment: Experiment
    """The run's, with all overrides."""


def find_subject(
    root: Storage,
    tracking: str | None,
    target: str,
    overrides: Sequence[str],
    *,
    checkpoint: str | None = None,
    to: int | None = None,
    filters: Sequence[str] | None = None,
    seed: int | None = None,
) -> Subject:
    """Return what a target names.

    Args:
        root: the store's top.
        tracking: MLflow's tracking URI; None: the database in the store.
        target: a run, SWEEP/TRIAL, or models:/NAME@ALIAS.
        overrides: of the sections of `CHANGEABLE`, and of where the data lie.
        checkpoint: a certain one of the run; None: the latest, or the one that was registered.
        to: takes the place of `balancing.to`.
        filters: as `parse_filter` takes them, in the place of `balancing.filter`; None: that.
        seed: of the images' noise; None: the run's.

    Raises:
        UsageProblem: no such run or model, a checkpoint that is gone, or an override of another section.
        CheckpointProblem: the run has no such checkpoint.
    """
    layers = parse_overrides(overrides, CHANGEABLE, WHERE_DATA_LIE)
    options: dict[str, Any] = {}
    if to is not None:
        options["balancing.to"] = to
    if filters is not None:
        options["balancing.filter"] = parse_filter(*filters).model_dump()
    registered: dict[str, object] = {}
    name = target
    if target.startswith("models:/"):
        if checkpoint is not None:
            raise UsageProblem(
                f"--checkpoint {checkpoint}, and {target} is of one checkpoint already",
                "give a run with --checkpoint, or the model without",
            )
        tracker = open_existing_tracker(TrackingConfig(uri=tracking), root)
        version = registry.resolve(tracker, target)
        run, name = _run_of(root, version), version.uri
        registered = registered_sampling(version)
    else:
        run = find_run(root, target, checkpoint)
        name = f"{target} {run.checkpoint}"
    base = kept_in(run, root, tracking)
    experiment = resolve(
        Experiment,
        [
            Layer("checkpoint", base.model_dump(mode="json")),
            Layer(name, registered),
            *layers,
            Layer("the options", options),
        ],
    ).value
    if seed is not None:
        experiment = experiment.model_copy(update={"seed": seed})
    return Subject(name, run, with_absolute_paths(experiment))


def _run_of(root: Storage, version: Version) -> StoredRun:
    """Return the run that a version is of, at the checkpoint that was registered.

    Raises:
        UsageProblem: the run or the checkpoint is gone.
    """
    if not version.origin:
        raise UsageProblem(
            f"{version.uri} was not registered by Whipray, so its training images are not known",
            "give a model that `whipray register` or a sweep registered",
        )
    try:
        run = find_run(root, version.origin)
    except UsageProblem as problem:
        raise UsageProblem(
            f"{version.uri} is of {version.origin}, which is not in {root.uri}",
            "give the store of its training with --storage: its settings and training images are needed",
        ) from problem
    content = version.tags.get(VersionTag.MODEL, "").partition(" ")[0]
    checkpoints = CheckpointStore(run.store)
    for name in reversed(checkpoints.names()):
        if content and checkpoints.read_manifest(name).content_hash() == content:
            return find_run(root, version.origin, name)
    raise UsageProblem(
        f"{version.uri}: the checkpoint that it is of is no longer in {run.store.uri}",
        f"balance with the run's present one, {version.origin}, or restore the checkpoint",
    )
