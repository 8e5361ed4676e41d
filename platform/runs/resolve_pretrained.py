"""What a run starts from: found once, when the run begins, and kept as `storage/pretrained.py` says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...trainers.errors import CheckpointProblem, UsageProblem
from ...trainers.export import read_pretrained
from ...trainers.network import check_fits
from ...trainers.scratch import Scratch
from ..config.experiment import Experiment, cache_folder
from ..storage import layout
from ..storage.checkpoints import CheckpointStore
from ..storage.layout import PRETRAINED_RECORD
from ..storage.pretrained import (
    PretrainedRecord,
    export_run,
    fetch_pretrained,
    read_pretrained_record,
    root_of,
    store_pretrained,
)
from ..storage.store import Storage
from ..tracking.registry import download, resolve
from ..tracking.tracker import open_tracker
from .find_run import find_run


def resolve_pretrained(
    experiment: Experiment,
    run: Storage,
    class_names: Sequence[str],
    image_shape: tuple[int, int, int],
) -> PretrainedRecord | None:
    """Settle what a run starts from, once; None for a run that starts anew.

    A trial takes what its sweep has settled for the same `pretrained.model`.

    Args:
        run: the run's place in the store.
        class_names: of the training data.
        image_shape: (C, H, W) of the training data.

    Raises:
        UsageProblem: no such model, version, alias, run or folder, or one that does not fit.
        CheckpointProblem: a model that cannot be read, or a run that started from something else.
    """
    if experiment.pretrained is None:
        return None
    source, mine = experiment.pretrained.model, read_pretrained_record(run)
    if mine and mine.source == source:
        return mine
    if CheckpointStore(run).names():
        before = f"started from {mine.source}" if mine else f"has no {PRETRAINED_RECORD}"
        raise CheckpointProblem(
            f"the run to resume {before}, and pretrained.model is {source}",
            "keep its pretrained.model, or start a new run under another name",
        )
    if record := _of_the_sweep(run, source):
        check_fits(fetch_pretrained(run, record).card, experiment, class_names, image_shape)
    else:
        with Scratch() as scratch:
            folder, about = _find(experiment, source, run, Path(scratch))
            pretrained = read_pretrained(folder)
            check_fits(pretrained.card, experiment, class_names, image_shape)
            store_pretrained(run, folder, pretrained.hash)
        record = PretrainedRecord(
            source=source, checkpoint=pretrained.card.checkpoint, sha256=pretrained.hash, **about
        )
    run.write_text(PRETRAINED_RECORD, record.model_dump_json(indent=1))
    return record


# -- from what was typed to a folder -------------------------------------------------------------


def _find(
    experiment: Experiment, source: str, run: Storage, scratch: Path
) -> tuple[Path, dict[str, Any]]:
    """A folder with the exported model, and what is known of where it comes from."""
    if source.startswith("models:/"):
        return _from_registry(experiment, source, run, scratch)
    if source.startswith((".", "/", "~")) or (
        "/" in source and not layout.belongs_to_sweep(source)
    ):
        return Path(source).expanduser(), {"kind": "folder"}
    return _from_run(experiment, source, run)


def _from_registry(
    experiment: Experiment, source: str, run: Storage, scratch: Path
) -> tuple[Path, dict[str, Any]]:
    tracker = open_tracker(experiment.tracking, root_of(run))
    chosen = resolve(tracker, source)
    about = {"kind": "registry", "version": chosen.uri, "run_id": chosen.run_id}
    return download(tracker, chosen, scratch), about


def _from_run(experiment: Experiment, source: str, run: Storage) -> tuple[Path, dict[str, Any]]:
    place = find_run(root_of(run), source)
    content = CheckpointStore(place.store).read_manifest(place.checkpoint).content_hash()
    folder = (
        cache_folder() / "pretrained" / content
    )  # so that all trials of a sweep fetch a shared model once
    if not folder.exists():
        sampling = place.experiment.sampling.model_copy(update={"weights": "merged"})
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as scratch:
            export_run(place.store, place.checkpoint, sampling, Path(scratch))
            try:
                (Path(scratch) / "model").rename(folder)
            except OSError:
                if not folder.exists():  # else another process was first
                    raise
    try:
        run_id = open_tracker(experiment.tracking, root_of(run)).find(place.key).run_id
    except UsageProblem:  # trained under another tracking server
        run_id = None
    return folder, {"kind": "run", "run_id": run_id}


def _of_the_sweep(run: Storage, source: str) -> PretrainedRecord | None:
    """What the sweep that a run belongs to has settled for the same source."""
    sweep = layout.sweep_of_trial(run.base)
    record = read_pretrained_record(root_of(run).child(sweep)) if sweep else None
    return record if record and record.source == source else None
