"""The trials of a study: what is kept with each, how they are counted, the rows that people read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from ..config.parameters import Values
from ..config.points import in_words
from ..config.space import Space
from ..storage import layout

Row = dict[str, Any]

# User attributes of a trial; any tool that reads the study shows them.
BASELINE = "baseline"  # the baseline's name: the trial is not part of the search
SEED_POINT = "seed_point"
DUPLICATE = "duplicate_of"  # sampled again, never trained: not part of the sweep
REASON = "failure"  # why it failed
DIVERGED = "diverged"  # failed on a loss or metric that is not finite, and would again
REFUSED = "refused"  # the config does not allow its values: never trained, and never would be
STOP = "stop"  # early stopping has decided


@dataclass(frozen=True)
class Point:
    """One training to run."""

    number: int
    """Of the trial: the same after a restart, so that it can name the trial's folder."""
    values: Values
    """Dotted key -> value: the searched parameters, or what the baseline sets."""
    resumed: bool
    """True if an earlier driver had begun it, so there may be a checkpoint."""
    baseline: str | None = None


def run_name(point: Point) -> str:
    """Return the name of a trial's MLflow run."""
    return f"{point.number:03d} {point.baseline or in_words(point.values)}"


def run_tags(sweep: str, point: Point) -> dict[str, str]:
    """Return the tags of a new MLflow run of a trial."""
    return {
        layout.Tag.KIND: layout.KIND_BASELINE if point.baseline else layout.KIND_TRIAL,
        layout.Tag.SWEEP: sweep,
        layout.Tag.TRIAL: str(point.number),
    }


def open_trial(study: optuna.Study, frozen: FrozenTrial) -> Trial:
    """Return a handle with which values and attributes of an unfinished trial are set.

    Optuna 5.0 has no public way to continue a trial that another process began: `study.ask` returns
    new and waiting ones only. So this takes the private id, and the constructor that Optuna's
    documentation advises against. Both are unchanged since Optuna 2.
    """
    return Trial(study, frozen._trial_id)


def start_waiting(study: optuna.Study, frozen: FrozenTrial) -> None:
    """Turn a waiting trial into a running one.

    `study.ask` of Optuna 5.0 would take the first that waits; a sweep that has its number of points
    takes baselines only. So this uses the storage behind the study, which is private.
    """
    study._storage.set_trial_state_values(frozen._trial_id, TrialState.RUNNING)


def count_searched(trials: list[FrozenTrial]) -> int:
    """Return how many points of the search were begun."""
    outside = {BASELINE, DUPLICATE}
    return sum(t.state != TrialState.WAITING and not outside & t.user_attrs.keys() for t in trials)


def is_taken(trial: FrozenTrial) -> bool:
    """Return whether the trial's point need not be trained again."""
    if {BASELINE, DUPLICATE} & trial.user_attrs.keys() or trial.state == TrialState.WAITING:
        return False
    return trial.state != TrialState.FAIL or bool({DIVERGED, REFUSED} & trial.user_attrs.keys())


def point_key(values: Mapping[str, Any]) -> str:
    """Return a text that is equal for equal points, whatever the last digit of a float."""
    items = []
    for name, value in sorted(values.items()):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        items.append([name, f"{float(value):.12g}" if number else repr(value)])
    return json.dumps(items)


def as_rows(trials: list[FrozenTrial], space: Space) -> list[Row]:
    """Return a row for each trial that was begun, by number.

    Keys: number, state (running, complete, pruned, fail), value, values, baseline, images_seen (of
    the last report), failure, seconds, attrs. What is not known is None.
    """
    return [
        _as_row(trial, space)
        for trial in trials
        if trial.state != TrialState.WAITING and DUPLICATE not in trial.user_attrs
    ]


def _as_row(trial: FrozenTrial, space: Space) -> Row:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        "values": space.read(trial.params),
        "baseline": trial.user_attrs.get(BASELINE),
        "images_seen": trial.last_step,
        "failure": trial.user_attrs.get(REASON),
        "seconds": trial.duration.total_seconds() if trial.duration else None,
        "attrs": dict(trial.user_attrs),
    }
