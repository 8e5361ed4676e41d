"""What a run started from: its `start.json`, and the weights that the store keeps by content.

    starts/<sha256[:16]>/model.safetensors, model.json    at the store's root, shared by all runs
    <run>/start.json                                       this run's `Lineage`

`starting.pin` writes both when a run begins. A run that is resumed, evaluated or exported reads them
here: an alias that has moved meanwhile, or a run that has been trained further, changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...trainers.checkpoint import Manifest, describe
from ...trainers.errors import CheckpointProblem
from ...trainers.export import CARD, WEIGHTS, Card, export
from ...trainers.samplers import SamplingConfig
from ...trainers.scratch import Scratch
from ...trainers.start import Start, StartConfig, read_start
from .checkpoints import CheckpointStore
from .errors import MissingObject
from .store import Storage

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
    return read_kept(run, lineage)


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


def root_of(run: Storage) -> Storage:
    return Storage(run.config)


def keep(run: Storage, folder: Path, sha256: str) -> None:
    """Put a model into the store, unless its content is there; the weights last."""
    place = root_of(run).child(f"starts/{sha256[:16]}")
    if place.size_of(WEIGHTS) != (folder / WEIGHTS).stat().st_size:
        for name in (CARD, WEIGHTS):
            place.put_file(folder / name, name)


def read_kept(run: Storage, lineage: Lineage) -> Start:
    """The model that a lineage names."""
    place = root_of(run).child(f"starts/{lineage.sha256[:16]}")
    fix = "restore it, or delete what is left of it and start a new run under another name"
    with Scratch() as scratch:
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
