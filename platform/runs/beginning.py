"""The beginning of a run: its last checks, and what is logged before it trains."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ...trainers.data import Splits
from ...trainers.data.identity import DataIdentity
from ...trainers.guidance import Autoguidance
from ..evaluation.evaluate import check_groups
from ..foundation.code_version import CodeVersion, code_version
from ..storage import layout
from ..storage.pretrained import PretrainedRecord
from .preflight import Subject, check_continued
from .resolve_guide import check_guides_exist
from .resolve_pretrained import resolve_pretrained
from .run import Plan
from .run_note import describe_images, log_datasets, note_of_run
from .speed import step_key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImagesRecord:
    """The images of a training without their pixels: what is compared, and what is logged."""

    identity: DataIdentity
    dataset: dict[str, Any]
    """Classes, counts, fingerprints and notes, as JSON types."""

    @staticmethod
    def of(data: Splits) -> ImagesRecord:
        """Return the record of these images; both fingerprints are computed where they are not known."""
        dataset = {**describe_images(data), "notes": data.report.as_json()}
        return ImagesRecord(DataIdentity.of(data.train), dataset)


@dataclass(frozen=True)
class Prepared:
    """What the beginning of a run logs; pickles."""

    images: ImagesRecord
    pretrained: PretrainedRecord | None
    """The model that it starts from, if any."""
    code: CodeVersion | None
    """None where it is not known."""

    @property
    def dataset(self) -> dict[str, Any]:
        """Classes, counts, fingerprints and notes of the images."""
        return self.images.dataset


def prepare(subject: Subject, shared: Prepared | None = None) -> Prepared:
    """Return what `begin` logs, after the last checks; what it starts from or is guided by is stored, last.

    Args:
        subject: the run.
        shared: of another run on the same images by the same code, such as a trial's sweep: then no image
            is read.

    Raises:
        Problem: the data cannot be used, or the run was begun with others or as another experiment.
        UsageProblem, CheckpointProblem: as `resolve_pretrained`.
    """
    experiment = subject.experiment
    images = shared.images if shared else ImagesRecord.of(subject.load(experiment.data))
    identity = images.identity
    check_groups(experiment.evaluation, list(identity.class_counts))
    # Another process may have trained it since it was read.
    check_continued(replace(subject, images=identity))
    names, shape = identity.class_names, identity.image_shape
    guidance = experiment.effective_sampling.guidance
    guides = [guidance.guide] if isinstance(guidance, Autoguidance) else []
    check_guides_exist(experiment, subject.store, guides, names, shape)
    code = shared.code if shared else code_version()
    return Prepared(images, resolve_pretrained(experiment, subject.store, names, shape), code)


def begin(plan: Plan, prepared: Prepared | None = None) -> None:
    """Log what is about to run: config, code, class counts of the data, pretrained model.

    What an earlier command logged for the run is replaced, so everything is checked before. It is in few
    requests: a sweep does this for every point.

    Args:
        plan: the run.
        prepared: as `prepare` returned it; None: prepare it now.

    Raises:
        Problem: as `prepare`.
    """
    prepared = prepared or prepare(Subject(plan.experiment, plan.store))
    run, code, record = plan.run, prepared.code, prepared.pretrained
    tags = {
        layout.Tag.STEP: step_key(plan.experiment),
        layout.NOTE_TAG: note_of_run(run, plan.store, plan.experiment, prepared.dataset),
    }
    if code is not None:
        tags |= {
            layout.COMMIT_TAG: code.commit,
            layout.Tag.CODE: "changed" if code.diff else "as committed",
        }
    if record is not None:
        tags |= record.tags()
        run.log_json(record.model_dump(), layout.PRETRAINED_RECORD)
    run.log_config(plan.experiment, tags)
    if code is not None and code.diff:
        run.log_diff(code.diff)
    run.log_json(prepared.dataset, layout.Artifact.DATASET)
    log_datasets(run, plan.experiment, prepared.dataset)
    for note in prepared.dataset["notes"]:
        _say_once(note["text"])


@cache
def _say_once(line: str) -> None:
    """Show a line of the data's report; the trainings of a sweep have the same."""
    log.warning("data: %s", line)
