"""The registration of a sweep's best model, and the choice of the champion."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...trainers.data.classes import class_argument
from ...trainers.export import Exported
from ...trainers.sampling import SamplingConfig
from ...trainers.scratch import Scratch
from ..analysis.sample import generate_images, load_version
from ..evaluation.config import EvaluationConfig
from ..evaluation.report import comparable
from ..generation.grid import class_grid
from ..runs.describe_model import describe_model
from ..storage import layout
from ..tracking.registry import (
    CHAMPION,
    register,
    resolve,
    set_alias,
    versions,
)
from ..tracking.tracker import Tracker, open_tracker
from ..tracking.versions import Version
from .sweep import Sweep
from .sweep_result import SweepResult
from .trial_records import Row
from .verdict import Verdict, judge

GRID_IMAGES_PER_CLASS = 10


@dataclass(frozen=True)
class Champion:
    """The registered model, and a grid of images that it generated."""

    version: Version
    grid: str
    """Address of the picture in the store."""
    reason_not_promoted: str | None
    """None where this version is `@champion` now."""
    rarest_class: str
    """What chooses the class with the fewest training images, as `choose_classes` reads it."""
    verdict: Verdict
    """Which trials are not distinguished from it; the version's description says it too."""
    warnings: tuple[str, ...]
    """What to know before believing its values."""


def register_best(sweep: Sweep, result: SweepResult) -> Champion | None:
    """Register the best trial's model under the experiment's name; None without a best trial.

    It becomes `@champion` unless another version is, and is better or was measured otherwise.
    """
    best = result.best
    if best is None:
        return None
    sweep.status.say("registering the best model")
    tracker = open_tracker(sweep.experiment.tracking, sweep.root)
    evaluation = sweep.experiment.evaluation
    verdict = judge(
        sweep.root, sweep.name, result.rows, best, evaluation.rank_by, evaluation.confidence
    )
    version = register_trial(tracker, sweep, best, f"Sweep {sweep.name}: {verdict.sentence}.")
    reason = reason_not_promoted(sweep.experiment.evaluation, tracker, version)
    if reason is None:
        set_alias(tracker, version, CHAMPION)
        version = resolve(tracker, f"models:/{sweep.experiment.name}@{CHAMPION}")
    model = load_version(tracker, version)
    counts = model.card.class_counts
    rarest = class_argument(model.card.class_names, counts.index(min(counts)))
    grid = _generate_grid(model, result, sweep.status.say)
    warnings = tuple(best["attrs"]["summary"].get("warnings", ()))
    return Champion(version, grid, reason, rarest, verdict, warnings)


def register_trial(tracker: Tracker, sweep: Sweep, row: Row, verdict: str = "") -> Version:
    """Return the registered version of a complete trial's model, made now where it is missing.

    Args:
        tracker: of the sweep.
        sweep: the trial's.
        row: the trial.
        verdict: what the sweep says of it, for its model card.
    """
    address = layout.trial_address(sweep.name, row["number"])
    summary, store = row["attrs"]["summary"], sweep.root.child(address.folder)
    name = sweep.experiment.name
    return register(
        tracker,
        tracker.find(address.key),
        store,
        summary["checkpoint"],
        SamplingConfig.model_validate(summary["sampling"]),
        name,
        version_tags(sweep, row),
        lambda card: describe_model(
            store,
            summary["checkpoint"],
            card,
            name,
            layout.trial_target(sweep.name, row["number"]),
            verdict,
        ),
    )


def version_tags(sweep: Sweep, row: Row) -> dict[str, str]:
    """Return what a version says of the trial that it is of."""
    rank_by, summary = sweep.experiment.evaluation.rank_by, row["attrs"]["summary"]
    return {
        layout.VersionTag.SWEEP: sweep.name,
        layout.VersionTag.TRIAL: str(row["number"]),
        layout.VersionTag.RANK_BY: rank_by,
        layout.VersionTag.SAMPLING: json.dumps(summary["sampling"]),
        layout.VersionTag.score(rank_by): f"{row['value']:.6g}",
        layout.VersionTag.PROVENANCE: json.dumps(summary["provenance"]),
    }


def reason_not_promoted(config: EvaluationConfig, tracker: Tracker, new: Version) -> str | None:
    """Return why the present champion stays, or None where it does not or there is none."""
    known = versions(tracker, new.name)
    before = next((v for v in known if CHAMPION in v.aliases), None)
    if before is None or before.version == new.version:
        return None
    score = layout.VersionTag.score(config.rank_by)
    if score not in before.tags or layout.VersionTag.PROVENANCE not in before.tags:
        return f"version {before.version} stays champion: it has no {config.rank_by} to compare"
    its, ours = (json.loads(v.tags[layout.VersionTag.PROVENANCE]) for v in (before, new))
    if field := comparable(its, ours):
        return (
            f"version {before.version} stays champion: its score was measured differently "
            f"({field.replace('_', ' ')} {its.get(field)}, not {ours.get(field)})"
        )
    was, now = float(before.tags[score]), float(new.tags[score])
    if config.goal.is_better(now, was):
        return None
    return f"version {before.version} stays champion: its {config.rank_by} is {was:g}, not {now:g}"


def _generate_grid(model: Exported, result: SweepResult, say: Callable[[str], None]) -> str:
    """Generate a grid with the model as it was registered, and return its address."""
    names, counts = model.card.class_names, model.card.class_counts
    images, labels = generate_images(
        model,
        list(range(len(names))),
        GRID_IMAGES_PER_CLASS,
        None,
        None,
        seed=0,
        on_phase=lambda line: say(f"the best model: {line}"),
    )
    picture = class_grid(images, labels, names, GRID_IMAGES_PER_CLASS, None, counts)
    with Scratch() as scratch:
        file = Path(scratch) / layout.CHAMPION_GRID
        picture.save(file)
        result.store.put_file(file, layout.CHAMPION_GRID)
        result.parent.log_file(file, layout.Artifact.CHAMPION)
    return result.store.uri_of(layout.CHAMPION_GRID)
