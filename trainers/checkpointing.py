"""From the state of a training to a checkpoint, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import Manifest
from .checkpoint_names import checkpoint_name
from .config import DISCRIMINATOR_SUFFIXES
from .data import PackedImages
from .data.identity import DataIdentity
from .engine import Engine
from .errors import CheckpointProblem, DivergenceProblem
from .hooks import Hooks
from .processes import ProcessConfig
from .state_copy import Snapshot

LOSS_TOLERANCE = {"fp32": 1e-3, "bf16": 2e-2}
"""Relative tolerance of the next loss. Another number of workers, ZeRO stage or device sums in another
order: both values are wide of what that changes, also in bf16 with its 8 significant bits, and far
below the change that other data, noise or weights make."""


@dataclass(frozen=True)
class ResumePoint:
    """A verified checkpoint in a local folder."""

    folder: Path
    manifest: Manifest


def save_checkpoint(
    engine: Engine,
    hooks: Hooks,
    *,
    images_seen: int,
    batch_size: int,
    train: PackedImages,
    experiment_config: dict[str, Any],
    process: ProcessConfig,
    pretrained_hash: str | None,
    next_loss: float,
) -> None:
    """Have the hooks copy this worker's share of the state and store it; every worker calls it.

    Args:
        train: what is trained on, for its shape and classes.
        experiment_config: the whole experiment.
        process: with everything in it that was measured.
        pretrained_hash: SHA-256 of the weights that the training started from, if any.
        next_loss: the objective on the next global batch.
    """

    def snapshot() -> Snapshot:
        state = engine.state.copy()
        described = Manifest(
            images_seen=images_seen,
            optimizer_steps=images_seen // batch_size,
            config=experiment_config,
            process=process,
            image_shape=train.image_shape,
            class_names=list(train.class_names),
            class_counts=train.class_counts.tolist(),
            train_fingerprint=train.fingerprint(),
            pretrained=pretrained_hash,
            next_loss=next_loss,
            state_norms={},
            tensors=state.file_of,
            files={},
        )
        return Snapshot(state, described)

    hooks.checkpoint(checkpoint_name(images_seen), snapshot)


def check_continues(manifest: Manifest, next_loss: float, precision: str) -> None:
    """Check that a resumed training reproduces the loss on its next batch that the checkpoint has.

    Raises:
        DivergenceProblem: it does not.
    """
    saved_with = manifest.config["engine"]["precision"]
    tolerance = max(LOSS_TOLERANCE[precision], LOSS_TOLERANCE[saved_with])
    if not math.isclose(next_loss, manifest.next_loss, rel_tol=tolerance):
        raise DivergenceProblem(
            f"the resumed run does not continue: next loss {next_loss:.6g}, "
            f"saved {manifest.next_loss:.6g}",
            "resume with the data, seed and objective of the checkpoint, or start a new run",
        )


UNUSED = {"training.share_of_many": 1.0, "training.many_above": 100}
"""Keys that checkpoints of the same format may lack, with the value by which a run trains as one without."""


OF_ORDER = ("data.class_sampling", "data.flip")
"""Keys of the data that decide how images are used, whichever they are."""


def check_same_run(saved: dict[str, Any], now: dict[str, Any], changeable: tuple[str, ...]) -> None:
    """Check that a resumed run is the same experiment, except for what may change.

    Of a packed set only its content says which images it has: `check_same_data` compares them, and a run may
    go on with a set that was packed from its source, or with that source.

    Args:
        saved: the flattened config of the checkpoint, dotted key -> value.
        now: the flattened config that is to continue it.
        changeable: prefixes of keys that may differ (where and how fast it runs).

    Raises:
        CheckpointProblem: naming the first key that differs.
    """
    # Discriminators first: with another objective, all of its keys differ.
    keys = sorted(set(saved) | set(now), key=lambda k: (not k.endswith(DISCRIMINATOR_SUFFIXES), k))
    is_packed = "packed" in (saved.get("data.source"), now.get("data.source"))
    for key in keys:
        if is_packed and key.startswith("data.") and key not in OF_ORDER:
            continue
        if key not in saved and now[key] in (
            [],
            UNUSED.get(key),
        ):  # of a later version, and not used
            continue
        if saved.get(key) != now.get(key) and not key.startswith(changeable):
            raise CheckpointProblem(
                f"the run to resume has {key}={saved.get(key)}, not {now.get(key)}",
                "keep its value, or start a new run under another name",
            )


def check_same_data(saved: DataIdentity, now: DataIdentity) -> None:
    """Check that a run goes on with the images that it was trained on, wherever they lie.

    Raises:
        CheckpointProblem: naming the classes, the counts or the content that differ.
    """
    if difference := saved.difference(now):
        raise CheckpointProblem(
            f"the data are not those that the run was trained on: {difference}",
            "restore them, or start a new run under another name",
        )


def check_not_shortened(images_seen: int, images: int, batch_size: int) -> None:
    """Check that a run that is continued is not to have seen fewer images than it has.

    Raises:
        CheckpointProblem: it is.
    """
    if images_seen > math.ceil(images / batch_size) * batch_size:
        raise CheckpointProblem(
            f"the run has seen {images_seen:,} images already, and training.images={images}",
            f"give training.images={images_seen} or more, or start a new run under another name",
        )
