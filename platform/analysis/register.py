"""Register the model of a run: what a sweep does with its best trial, for any run."""

from __future__ import annotations

import json

from ...trainers.integrity import unseal
from ..foundation.names import check_name
from ..runs.describe_model import describe_model, find_evaluation
from ..runs.find_run import StoredRun, find_run
from ..runs.resolve_guide import fixed_sampling
from ..storage import layout
from ..storage.checkpoints import CheckpointStore
from ..storage.store import Storage
from ..tracking.registry import get, register, set_alias
from ..tracking.tracker import open_tracker
from ..tracking.versions import Version


def register_run(
    root: Storage, tracking: str | None, target: str, name: str | None, alias: str | None
) -> Version:
    """Return the registered version of a run's model, made now where it is missing.

    Args:
        root: the store's top.
        tracking: MLflow's tracking URI; None: the run's.
        target: a run, or SWEEP/TRIAL; its last checkpoint, with its own sampling settings.
        name: of the model; None: the experiment's.
        alias: to point at the version, as `champion`.

    Raises:
        UsageProblem: no such run, or a name that cannot be one.
    """
    run = find_run(root, target)
    config = run.experiment.tracking
    if tracking:
        config = config.model_copy(update={"uri": tracking})
    name = check_name(run.experiment.name if name is None else name, "a model")
    if alias is not None:
        check_name(alias, "an alias")
    tracker = open_tracker(config, root)
    sampling = fixed_sampling(run.experiment, run.store, run.checkpoint)
    version = register(
        tracker,
        tracker.find(run.key),
        run.store,
        run.checkpoint,
        sampling,
        name,
        _tags(run, target),
        lambda card: describe_model(run.store, run.checkpoint, card, name, target),
    )
    if alias is not None:
        set_alias(tracker, version, alias)
    return get(tracker, name, version.version)


def _tags(run: StoredRun, target: str) -> dict[str, str]:
    """Return what a version says of the run that it is of, with its score where it was evaluated."""
    tag, rank_by = layout.VersionTag, run.experiment.evaluation.rank_by
    sampling = fixed_sampling(run.experiment, run.store, run.checkpoint)
    sweep, _, member = target.partition("/")
    tags = {tag.SWEEP: sweep, tag.TRIAL: member} if member else {tag.RUN: target}
    tags |= {tag.RANK_BY: rank_by, tag.SAMPLING: sampling.model_dump_json()}
    manifest = CheckpointStore(run.store).read_manifest(run.checkpoint)
    folder = find_evaluation(run.store, manifest.content_hash(), sampling, run.experiment.seed)
    if folder is None:
        return tags
    result = unseal(run.store.read_text(f"{folder}/{layout.EVALUATION_RESULT}"))
    if rank_by in result["metrics"]:
        tags[tag.score(rank_by)] = f"{result['metrics'][rank_by]:.6g}"
        tags[tag.PROVENANCE] = json.dumps(result["provenance"])
    return tags
