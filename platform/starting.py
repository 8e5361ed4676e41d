"""What a run starts from: found once, kept in the store by its content, and written down.

    starts/<sha256[:16]>/model.safetensors, model.json    at the store's root, shared by all runs
    <run>/start.json                                       this run's `Lineage`

A run that is resumed, or evaluated, reads its own `start.json`: an alias that has moved meanwhile,
or a run that has been trained further, changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..trainers.checkpoint import Manifest, describe
from ..trainers.errors import CheckpointProblem, UsageProblem
from ..trainers.export import CARD, WEIGHTS, Card, export
from ..trainers.samplers import SamplingConfig
from ..trainers.start import Start, StartConfig, check_fits, read_start
from .checkpoints import CheckpointStore
from .experiment import Experiment, cache_folder
from .storage import MissingObject, Storage

LINEAGE = "start.json"


class Lineage(BaseModel):
    """What a run started from, as it was found when the run began."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str
    """`start.model`, as typed."""
    kind: Literal["registry", "run", "folder"]
    version: str | None = None
    """`models:/NAME/VERSION` that an alias meant."""
    run_id: str | None = None
    """The MLflow run that trained it, where that is known."""
    checkpoint: str
    """Content hash of the checkpoint that the model was made from."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of its weights file."""

    def tags(self) -> dict[str, str]:
        """For the MLflow run that starts from it."""
        found = {
            "model": self.source,
            "version": self.version,
            "run_id": self.run_id,
            "sha256": self.sha256,
        }
        return {f"whipray.start.{name}": text for name, text in found.items() if text}


def pin(
    experiment: Experiment,
    run: Storage,
    class_names: Sequence[str],
    image_shape: tuple[int, int, int],
) -> Lineage | None:
    """Settle what a run starts from, once; None for a run that starts anew.

    A trial takes what its sweep has settled for the same `start.model`.

    Args:
        run: the run's place in the store.
        class_names: of the training data.
        image_shape: (C, H, W) of the training data.

    Raises:
        UsageProblem: no such model, version, alias, run or folder, or one that does not fit.
        CheckpointProblem: a model that cannot be read, or a run that started from something else.
    """
    if experiment.start is None:
        return None
    source, mine = experiment.start.model, read_lineage(run)
    if mine and mine.source == source:
        return mine
    if CheckpointStore(run).names():
        before = f"started from {mine.source}" if mine else f"has no {LINEAGE}"
        raise CheckpointProblem(
            f"the run to resume {before}, and start.model is {source}",
            "keep its start.model, or start a new run under another name",
        )
    if lineage := _of_the_sweep(run, source):
        check_fits(_read(run, lineage).card, experiment, class_names, image_shape)
    else:
        with TemporaryDirectory(prefix="whipray-") as scratch:
            folder, about = _find(experiment, source, run, Path(scratch))
            start = read_start(folder)
            check_fits(start.card, experiment, class_names, image_shape)
            _keep(run, folder, start.hash)
        lineage = Lineage(
            source=source, checkpoint=start.card.checkpoint, sha256=start.hash, **about
        )
    run.write_text(LINEAGE, lineage.model_dump_json(indent=1))
    return lineage


def read_lineage(run: Storage) -> Lineage | None:
    """The run's `start.json`, None without one.

    Raises:
        CheckpointProblem: it is damaged.
    """
    try:
        return Lineage.model_validate_json(run.read_text(LINEAGE))
    except MissingObject:
        return None
    except ValidationError as error:
        raise CheckpointProblem(
            f"{run.uri_of(LINEAGE)}: damaged", "restore it, or start a new run under another name"
        ) from error


def load_start(
    run: Storage, config: StartConfig | None, checkpoint: Manifest | None = None
) -> Start | None:
    """What a run starts from, as `pin` has kept it; None for a run that starts anew.

    Args:
        checkpoint: one of the run's, to go on from or to export: it started from the same.

    Raises:
        CheckpointProblem: it is not there, damaged, or not what the checkpoint started from.
    """
    if config is None:
        return None
    lineage = read_lineage(run)
    if lineage is None:
        raise CheckpointProblem(
            f"{run.uri_of(LINEAGE)}: not there, so what the run starts from is not known",
            "restore it, or start a new run under another name",
        )
    if checkpoint and checkpoint.start != lineage.sha256:
        raise CheckpointProblem(
            f"{run.uri}: its checkpoint started from weights {str(checkpoint.start)[:16]}, "
            f"its {LINEAGE} names {lineage.sha256[:16]}",
            f"restore the {LINEAGE} that the run began with, or start a new run",
        )
    return _read(run, lineage)


def export_run(run: Storage, checkpoint: str, sampling: SamplingConfig, folder: Path) -> Card:
    """Fetch a run's checkpoint and export it to `folder / "model"`.

    Args:
        sampling: becomes the model's default.

    Raises:
        CheckpointProblem: a checkpoint, or what it started from, that is missing or damaged.
        UsageProblem: `sampling.weights=general` of a model without reserved capacity.
    """
    local = folder / "checkpoint"
    local.mkdir(parents=True)
    manifest = CheckpointStore(run).fetch(checkpoint, local)
    config = manifest.config.get("start") or {}
    frozen = StartConfig.model_validate(config) if config.get("lora") else None
    start = load_start(run, frozen, manifest)
    return export(local, manifest, folder / "model", sampling, start)


# -- from what was typed to a folder -------------------------------------------------------------


def _find(
    experiment: Experiment, source: str, run: Storage, scratch: Path
) -> tuple[Path, dict[str, Any]]:
    """A folder with the exported model, and what is known of where it comes from."""
    if source.startswith("models:/"):
        return _from_registry(experiment, source, run, scratch)
    if source.startswith((".", "/", "~")) or (
        "/" in source and not re.fullmatch(r"[^/]+/(\d+|trunk)", source)
    ):
        return Path(source).expanduser(), {"kind": "folder"}
    return _from_run(experiment, source, run)


def _from_registry(
    experiment: Experiment, source: str, run: Storage, scratch: Path
) -> tuple[Path, dict[str, Any]]:
    from .registry import download, resolve
    from .tracking import Tracker

    tracker = Tracker(experiment.tracking, _root(run))
    chosen = resolve(tracker, source)
    about = {"kind": "registry", "version": chosen.uri, "run_id": chosen.run_id}
    return download(tracker, chosen, scratch), about


def _from_run(experiment: Experiment, source: str, run: Storage) -> tuple[Path, dict[str, Any]]:
    from .places import find_run
    from .tracking import Tracker

    place = find_run(_root(run), source)
    content = CheckpointStore(place.store).read_manifest(place.checkpoint).content_hash()
    folder = cache_folder() / "starts" / content  # so that many branches of one trunk fetch it once
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
        run_id = Tracker(experiment.tracking, _root(run)).find(place.key).run_id
    except UsageProblem:  # trained under another tracking server
        run_id = None
    return folder, {"kind": "run", "run_id": run_id}


# -- the store, and this machine's cache of it ---------------------------------------------------


def _root(run: Storage) -> Storage:
    return Storage(run.config)


def _of_the_sweep(run: Storage, source: str) -> Lineage | None:
    """What the sweep that a run belongs to has settled for the same source."""
    sweep = PurePosixPath(run.base).parts[:-2]
    found = read_lineage(_root(run).child("/".join(sweep))) if len(sweep) == 2 else None
    return found if found and found.source == source else None


def _keep(run: Storage, folder: Path, sha256: str) -> None:
    """Put a model into the store, unless its content is there; the weights last."""
    place = _root(run).child(f"starts/{sha256[:16]}")
    if place.size_of(WEIGHTS) != (folder / WEIGHTS).stat().st_size:
        for name in (CARD, WEIGHTS):
            place.put_file(folder / name, name)


def _read(run: Storage, lineage: Lineage) -> Start:
    """The model that a lineage names."""
    place = _root(run).child(f"starts/{lineage.sha256[:16]}")
    fix = "restore it, or delete what is left of it and start a new run under another name"
    with TemporaryDirectory(prefix="whipray-") as scratch:
        folder = Path(scratch)
        for name in (CARD, WEIGHTS):
            try:
                place.get_file(name, folder / name)
            except MissingObject as missing:
                raise CheckpointProblem(
                    f"{place.uri_of(name)}: not there, and {run.uri} starts from it", fix
                ) from missing
        if describe(folder / WEIGHTS).sha256 != lineage.sha256:
            raise CheckpointProblem(
                f"{place.uri_of(WEIGHTS)}: its content does not match the {LINEAGE} of {run.uri}",
                fix,
            )
        return read_start(folder)
