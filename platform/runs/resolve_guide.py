"""The guide of autoguidance: looked up by name, checked, and kept in the store by content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...trainers.errors import CheckpointProblem
from ...trainers.export import read_pretrained
from ...trainers.guidance import Autoguidance
from ...trainers.guidance.autoguidance import PRETRAINED, THETA_G
from ...trainers.network import check_guide
from ...trainers.sampling import SamplingConfig
from ...trainers.scratch import Scratch
from ..config.experiment import Experiment
from ..storage.checkpoints import CheckpointStore
from ..storage.layout import PRETRAINED_RECORD
from ..storage.pretrained import (
    fetch_pretrained,
    read_pretrained_record,
    store_pretrained,
)
from ..storage.store import Storage
from ..storage.trained_weights import export_run
from .resolve_pretrained import open_source


def fixed_sampling(experiment: Experiment, run: Storage, checkpoint: str) -> SamplingConfig:
    """Return the experiment's sampling with all in it that decides the images, its guide included.

    Args:
        run: the run's folder in the store.
        checkpoint: name of the run's checkpoint.

    Raises:
        UsageProblem: no such guide, or one of other classes or another image shape.
        CheckpointProblem: a guide that cannot be read.
    """
    sampling = experiment.effective_sampling
    guidance = sampling.guidance
    if not isinstance(guidance, Autoguidance) or guidance.content:
        return sampling
    content = _content_of_guide(experiment, run, checkpoint, guidance)
    fixed = guidance.model_copy(update={"content": content})
    return sampling.model_copy(update={"guidance": fixed})


def check_guides_exist(
    experiment: Experiment,
    run: Storage,
    guides: Iterable[Any],
    class_names: Sequence[str],
    image_shape: tuple[int, int, int],
) -> None:
    """Check before a training that its guides exist, as far as they are not of the training itself.

    Args:
        guides: as `sampling.guidance.guide` names them.

    Raises:
        UsageProblem, CheckpointProblem: as `fixed_sampling`.
    """
    for guidance in (Autoguidance(guide=guide) for guide in guides):
        if guidance.checkpoint is None and guidance.guide not in (THETA_G, PRETRAINED):
            _keep(experiment, run, guidance.guide, class_names, image_shape)


def _content_of_guide(
    experiment: Experiment, run: Storage, checkpoint: str, guidance: Autoguidance
) -> str:
    """Put a guide into the store, and return the hash of its weights."""
    manifest = CheckpointStore(run).read_manifest(checkpoint)
    names, shape = manifest.class_names, manifest.image_shape
    if guidance.guide == PRETRAINED:
        record = read_pretrained_record(run)
        if record is None:
            raise CheckpointProblem(
                f"{run.uri_of(PRETRAINED_RECORD)}: missing, so it is not known what the run started from",
                "restore it, or set sampling.guidance.guide to another model",
            )
        check_guide(fetch_pretrained(run, record).card, guidance.guide, names, shape)
        return record.sha256
    if guidance.checkpoint or guidance.guide == THETA_G:
        weights = "general" if guidance.guide == THETA_G else "merged"
        changes = {"weights": weights, "ema_width": None}
        sampling = experiment.sampling.without_guide().model_copy(update=changes)
        if guidance.checkpoint:
            CheckpointStore(run).read_manifest(guidance.checkpoint)  # says what there is instead
        with Scratch() as scratch:
            export_run(run, guidance.checkpoint or checkpoint, sampling, Path(scratch))
            guide = read_pretrained(Path(scratch) / "model")
            store_pretrained(run, Path(scratch) / "model", guide.hash)
        return guide.hash
    return _keep(experiment, run, guidance.guide, names, shape)


def _keep(
    experiment: Experiment,
    run: Storage,
    source: str,
    class_names: Sequence[str],
    image_shape: tuple[int, int, int],
) -> str:
    """Put a named model into the store, and return the hash of its weights."""
    with Scratch() as scratch:
        folder, _, where = open_source(experiment, source, run, Path(scratch))
        guide = read_pretrained(folder, where)
        check_guide(guide.card, source, class_names, image_shape)
        store_pretrained(run, folder, guide.hash)
    return guide.hash
