"""Generated images in files, compared with the training images where that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...trainers.data.classes import ChosenClasses, choose_classes
from ...trainers.export import ModelCard
from ..storage.store import Storage
from .sample import check_free, generate_images, load_target, save
from .sampled_copies import CopySearch, SampledCopies, images_in, table_beside


@dataclass(frozen=True)
class Samples:
    """What was generated."""

    card: ModelCard
    """Of the model."""
    chosen: ChosenClasses
    images: int
    files: list[str]
    copies: SampledCopies | None
    """None where they were not looked for."""
    table: Path
    """Where copies are listed."""


def sample_files(
    root: Storage,
    tracking: str | None,
    target: str,
    to: Path,
    *,
    classes: Sequence[str],
    per_class: int,
    omega: float | None,
    steps: int | None,
    seed: int,
    sampler: str | None,
    check_copies: bool,
    on_phase: Callable[[str], None] = lambda _line: None,
) -> Samples:
    """Generate images into a .png grid or a folder. What cannot be done is refused before any is generated.

    Args:
        root: the store's top.
        tracking: MLflow's tracking URI; None: the database in the store.
        target: a run, SWEEP/TRIAL, or models:/NAME@ALIAS.
        to: as `check_free`.
        classes: as `choose_classes`.
        check_copies: compare them with all training images; a table is written beside them.

    Raises:
        UsageProblem: no such model or class, a setting out of range, or `to` cannot be written.
        CheckpointProblem: a model that Whipray did not register.
        DataProblem: as `CopySearch`.
    """
    check_free(to)
    search = CopySearch(root, tracking, target) if check_copies else None
    model = load_target(root, tracking, target)
    chosen = choose_classes(classes, model.card.class_names)
    images, labels = generate_images(
        model, chosen.ids, per_class, omega, steps, seed, sampler, on_phase
    )
    files = save(images, labels, model.card, to, per_class)
    copies, table = None, table_beside(to)
    if search is not None:
        on_phase("comparing with the training images")
        copies = search.find(images, labels)
        copies.save(table, images_in(to, files, len(images), per_class))
    return Samples(model.card, chosen, len(images), files, copies, table)
