"""The pretrained model of a run: resolved once, when the run begins, and stored with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...trainers.disk import cache_folder
from ...trainers.errors import CheckpointProblem, UsageProblem
from ...trainers.export import read_pretrained
from ...trainers.network import check_fits
from ...trainers.scratch import Scratch
from ..config.experiment import Experiment
from ..config.paths import names_folder
from ..storage import layout
from ..storage.checkpoints import CheckpointStore
from ..storage.layout import PRETRAINED_RECORD
from ..storage.pretrained import (
    PretrainedRecord,
    fetch_pretrained,
    read_pretrained_record,
    store_pretrained,
)
from ..storage.store import Storage
from ..storage.trained_weights import export_run
from ..tracking.registry import address_of, download, resolve
from ..tracking.tracker import open_tracker
from .find_run import find_run


def resolve_pretrained(
    experiment: Experiment,
    run: Storage,
    class_names: Sequence[str],
    image_shape: tuple[int, int, int],
) -> PretrainedRecord | None:
    """Resolve `pretrained.model` and store the model; None for a run that starts from scratch.

    It is resolved once: later calls return what is stored. A trial uses what its sweep resolved for
    the same `pretrained.model`.

    Args:
        experiment: the run's.
        run: the run's folder in the store.
        class_names: of the training data.
        image_shape: (C, H, W) of the training data.

    Raises:
        UsageProblem: no such model, version, alias, run or folder, or one that does not fit.
        CheckpointProblem: a model that cannot be read, or a run that started from something else.
    """
    if experiment.pretrained is None:
        return None
    source, stored = experiment.pretrained.model, read_pretrained_record(run)
    if stored and stored.source == source:
        return stored
    if CheckpointStore(run).names():
        before = f"started from {stored.source}" if stored else f"has no {PRETRAINED_RECORD}"
        raise CheckpointProblem(
            f"the run to resume {before}, and pretrained.model is {source}",
            "keep its pretrained.model, or start a new run under another name",
        )
    if record := _record_of_sweep(run, source):
        check_fits(fetch_pretrained(run, record).card, experiment, class_names, image_shape)
    else:
        with Scratch() as scratch:
            folder, origin, where = open_source(experiment, source, run, Path(scratch))
            pretrained = read_pretrained(folder, where)
            check_fits(pretrained.card, experiment, class_names, image_shape)
            store_pretrained(run, folder, pretrained.hash)
        record = PretrainedRecord(
            source=source, checkpoint=pretrained.card.checkpoint, sha256=pretrained.hash, **origin
        )
    run.write_text(PRETRAINED_RECORD, record.model_dump_json(indent=1))
    return record


# -- from a name to a folder ----------------------------------------------------------


def open_source(
    experiment: Experiment, source: str, run: Storage, scratch: Path
) -> tuple[Path, dict[str, Any], str]:
    """Return a folder with the exported model, the record's fields on its origin, and its address.

    The address is empty where it is the folder.

    Args:
        source: as `pretrained.model` names it.
        run: a folder of the store in which the source may be.

    Raises:
        UsageProblem: no such model, version, alias, run or folder.
        CheckpointProblem: it is damaged.
    """
    if source.startswith("models:/"):
        return _from_registry(experiment, source, run, scratch)
    if names_folder(source):
        return Path(source).expanduser(), {"kind": "folder"}, ""
    return *_from_run(experiment, source, run), ""


def _from_registry(
    experiment: Experiment, source: str, run: Storage, scratch: Path
) -> tuple[Path, dict[str, Any], str]:
    tracker = open_tracker(experiment.tracking, run.root)
    chosen = resolve(tracker, source)
    origin = {"kind": "registry", "version": chosen.uri, "run_id": chosen.run_id}
    return download(tracker, chosen, scratch), origin, address_of(tracker, chosen)


def _from_run(experiment: Experiment, source: str, run: Storage) -> tuple[Path, dict[str, Any]]:
    stored = find_run(run.root, source)
    content = CheckpointStore(stored.store).read_manifest(stored.checkpoint).content_hash()
    # In the cache, so that all trials of a sweep fetch their shared pre-training once.
    folder = cache_folder() / "pretrained" / content
    if not folder.exists():
        sampling = stored.experiment.sampling.without_guide().model_copy(
            update={"weights": "merged", "ema_width": None}
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as scratch:
            export_run(stored.store, stored.checkpoint, sampling, Path(scratch))
            try:
                (Path(scratch) / "model").rename(folder)
            except OSError:
                if not folder.exists():  # else another process was first
                    raise
    try:
        run_id = open_tracker(experiment.tracking, run.root).find(stored.key).run_id
    except UsageProblem:  # trained under another tracking server
        run_id = None
    return folder, {"kind": "run", "run_id": run_id}


def _record_of_sweep(run: Storage, source: str) -> PretrainedRecord | None:
    """Return what the sweep of a trial resolved for the same source; None for any other run."""
    sweep = layout.sweep_of_trial(run.base)
    record = read_pretrained_record(run.root.child(sweep)) if sweep else None
    return record if record and record.source == source else None
