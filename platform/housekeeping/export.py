"""The model of a run or of a registered version as a folder, which needs no platform to be used."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from ...trainers.disk import writing
from ...trainers.errors import UsageProblem
from ...trainers.export import CARD
from ..config.tracking import TrackingConfig
from ..runs.describe_model import describe_model
from ..runs.find_run import find_run
from ..runs.resolve_guide import fixed_sampling
from ..storage.layout import Artifact
from ..storage.store import Storage
from ..storage.trained_weights import export_run
from ..tracking import registry
from ..tracking.tracker import open_existing_tracker


def export_model(root: Storage, tracking: str | None, target: str, folder: Path) -> int:
    """Write the exported model of a target's last checkpoint, with its model card; return its bytes.

    Args:
        root: the store's top.
        tracking: MLflow's address; None: the database in the store.
        target: a run, SWEEP/TRIAL or models:/NAME@ALIAS.
        folder: a new one, or an empty one; it appears whole or not at all.

    Raises:
        UsageProblem: no such run or model, or the folder holds something.
        CheckpointProblem: the checkpoint or the registered model is damaged.
    """
    exists = folder.exists()
    if exists and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageProblem(f"{folder} exists and is not empty", "give a new folder")
    with writing(folder):
        # On the same disk, where renaming is one step.
        beside = folder if exists else folder.parent
        beside.mkdir(parents=True, exist_ok=True)
        scratch = TemporaryDirectory(dir=beside, prefix=f".{folder.name}-")
    with scratch as name:
        made = _fetch(root, tracking, target, Path(name))
        with writing(folder):
            if not exists:
                made.rename(folder)
                return _bytes_of(folder)
            # It may be the present folder or a link. Without its card it is no exported model.
            for file in sorted(made.iterdir(), key=lambda file: file.name == CARD):
                file.rename(folder / file.name)
    return _bytes_of(folder)


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _fetch(root: Storage, tracking: str | None, target: str, scratch: Path) -> Path:
    if target.startswith("models:/"):
        tracker = open_existing_tracker(TrackingConfig(uri=tracking), root)
        return registry.download(tracker, registry.resolve(tracker, target), scratch)
    run = find_run(root, target)
    sampling = fixed_sampling(run.experiment, run.store, run.checkpoint)
    card = export_run(run.store, run.checkpoint, sampling, scratch)
    made = scratch / Artifact.MODEL
    text = describe_model(run.store, run.checkpoint, card, run.experiment.name, target)
    (made / Artifact.MODEL_CARD).write_text(text, encoding="utf-8")
    return made
