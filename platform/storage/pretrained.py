"""The model that a run started from: its record, and the weights that the store keeps by content.

Guides of autoguidance are kept likewise.

`runs/resolve_pretrained.py` writes both when a run begins. A run that is resumed, evaluated or
exported reads them here: an alias that has moved meanwhile, or a run that has been trained further,
changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...trainers.checkpoint import Manifest, describe
from ...trainers.errors import CheckpointProblem
from ...trainers.export import (
    CARD,
    WEIGHTS,
    Pretrained,
    read_pretrained,
)
from ...trainers.guidance import Autoguidance
from ...trainers.scratch import Scratch
from ...trainers.trainer_config import PretrainedConfig
from .errors import MissingObject
from .layout import PRETRAINED_RECORD, Tag, pretrained_folder
from .store import Storage


class PretrainedRecord(BaseModel):
    """The model that a run started from, as it was when the run began."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str
    """`pretrained.model`, as the user wrote it."""
    kind: Literal["registry", "run", "folder"]
    version: str | None = None
    """`models:/NAME/VERSION` that an alias meant."""
    run_id: str | None = None
    """Of the MLflow run that trained it, where that is known."""
    checkpoint: str
    """Content hash of the checkpoint that the model was made from."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of its weights file."""

    def tags(self) -> dict[str, str]:
        """Return the tags of the MLflow run that starts from it."""
        facts = {
            "model": self.source,
            "version": self.version,
            "run_id": self.run_id,
            "sha256": self.sha256,
        }
        return {Tag.pretrained(name): text for name, text in facts.items() if text}


def read_pretrained_record(run: Storage) -> PretrainedRecord | None:
    """Return a run's record, None for a run that started from random weights.

    Raises:
        CheckpointProblem: it is damaged.
    """
    try:
        return PretrainedRecord.model_validate_json(run.read_text(PRETRAINED_RECORD))
    except MissingObject:
        return None
    except ValidationError as error:
        raise CheckpointProblem(
            f"{run.uri_of(PRETRAINED_RECORD)}: damaged",
            "restore it, or start a new run under another name",
        ) from error


def load_pretrained(
    run: Storage, config: PretrainedConfig | None, checkpoint: Manifest | None = None
) -> Pretrained | None:
    """Return the model that a run starts from, None for a run that starts from random weights.

    Args:
        checkpoint: of the run, to resume or export; it has to have started from the same model.

    Raises:
        CheckpointProblem: the model or its record is missing or damaged, or is not what the
            checkpoint started from.
    """
    if config is None:
        return None
    record = read_pretrained_record(run)
    if record is None:
        raise CheckpointProblem(
            f"{run.uri_of(PRETRAINED_RECORD)}: missing, so it is not known what the run started from",
            "restore it, or start a new run under another name",
        )
    if checkpoint and checkpoint.pretrained != record.sha256:
        raise CheckpointProblem(
            f"{run.uri}: its checkpoint started from weights {str(checkpoint.pretrained)[:16]}, "
            f"its {PRETRAINED_RECORD} names {record.sha256[:16]}",
            f"restore the {PRETRAINED_RECORD} that the run began with, or start a new run",
        )
    return fetch_pretrained(run, record)


def store_pretrained(run: Storage, folder: Path, sha256: str) -> None:
    """Put a model into the store, weights last, unless the same content is in it."""
    folder_in_store = run.root.child(pretrained_folder(sha256))
    if folder_in_store.size_of(WEIGHTS) != (folder / WEIGHTS).stat().st_size:
        for name in (CARD, WEIGHTS):
            folder_in_store.put_file(folder / name, name)


def fetch_pretrained(run: Storage, record: PretrainedRecord) -> Pretrained:
    """Return the model that a record names.

    Raises:
        CheckpointProblem: it is missing or damaged.
    """
    fix = "restore it, or delete what is left of it and start a new run under another name"
    with Scratch() as scratch:
        folder = Path(scratch)
        source = _fetch(run.root, record.sha256, folder, f"{run.uri} starts from it", fix)
        return read_pretrained(folder, source)


def fetch_guide(root: Storage, guidance: Autoguidance, folder: Path) -> str:
    """Download a guide that was looked up before; return its address.

    Raises:
        CheckpointProblem: it is missing or damaged.
    """
    assert guidance.content is not None, "the guide was not looked up"
    folder.mkdir(parents=True, exist_ok=True)
    needed = f"images are guided by it ({guidance.guide})"
    fix = "restore it, or set sampling.guidance.guide to have it looked up again"
    return _fetch(root, guidance.content, folder, needed, fix)


def _fetch(root: Storage, sha256: str, folder: Path, needed: str, fix: str) -> str:
    """Download a model that is kept by content; return its address."""
    folder_in_store = root.child(pretrained_folder(sha256))
    for name in (CARD, WEIGHTS):
        try:
            folder_in_store.get_file(name, folder / name)
        except MissingObject as missing:
            what = f"{folder_in_store.uri_of(name)}: missing, and {needed}"
            raise CheckpointProblem(what, fix) from missing
    if describe(folder / WEIGHTS).sha256 != sha256:
        what = (
            f"{folder_in_store.uri_of(WEIGHTS)}: its content does not match its hash, and {needed}"
        )
        raise CheckpointProblem(what, fix)
    return folder_in_store.uri
