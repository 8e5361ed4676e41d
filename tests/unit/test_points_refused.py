"""Points that the config refuses, and reasons that all trainings share: what becomes of the sweep."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from whipray.platform.config.experiment import load_experiment
from whipray.platform.config.space_files import parse_space
from whipray.platform.evaluation.goal import Goal
from whipray.platform.storage import layout
from whipray.platform.tuning.bridge import PointQueue, StudySearcher
from whipray.platform.tuning.study import Study
from whipray.platform.tuning.sweep import Sweep
from whipray.platform.tuning.sweep_result import SweepResult, best_row, log_result
from whipray.platform.tuning.trial_records import Point
from whipray.platform.tuning.trial_spec import TrialSpec
from whipray.trainers.data.identity import DataIdentity
from whipray.trainers.errors import Problem, UsageProblem

WIDTHS = """
description: widths, of which norm_groups = 4 does not divide 6
train: {model.base_channels: {type: int, low: 4, high: 8, step: 2}}
seed_points: [{model.base_channels: 4}]
"""

IMAGES = DataIdentity(("bee", "wasp"), (8, 2), (1, 8, 8), "a")
OTHER_IMAGES = DataIdentity(("bee", "wasp"), (8, 3), (1, 8, 8), "b")


def sweep_of(text: str, folder: Path, *overrides: str) -> Sweep:
    values = [f"storage.uri={folder}", "model.norm_groups=4", *overrides]
    return Sweep("s", load_experiment("digits-demo", values).value, parse_space(text, "test"))


def opened(folder: Path, text: str, **options: Any) -> Study:
    space = parse_space(text, "test")
    return Study.open(folder / "study.journal", "s", space, **{"seed": 0, "total": 9, **options})


def queue_of(study: Study, sweep: Sweep) -> PointQueue:
    def spec_for(point: Point) -> TrialSpec:
        return sweep._trial_spec(Mock(), Mock(), point)

    return PointQueue(study, spec_for, sweep.status)


def take_all(points: PointQueue) -> list[int]:
    widths = []
    while taken := points.take():
        widths.append(taken.experiment.model.base_channels)
        points.study.complete(taken.point.number, 1.0)
    return widths


def test_processes_are_not_compared_by_their_losses(tmp_path: Path) -> None:
    early = "tuning.early_stop.min_images=3200"
    text = "description: d\ntrain: {{{}: {{type: categorical, choices: [{}]}}}}\n"
    for key, choices in (("process.name", "vp, edm"), ("process.schedule", "linear, cosine")):
        space = text.format(key, choices)
        sweep_of(space, tmp_path).points.check()
        with pytest.raises(UsageProblem, match=f"early_stop compares .* and {key} is searched"):
            sweep_of(space, tmp_path, early).points.check()
    for key, choices in (("objective.name", "ddpm, cbdm"), ("process.progress", "vp, quantile")):
        space = text.format(key, choices)
        name = "process.name=edm" if key.startswith("process") else "process.name=vp"
        sweep_of(space, tmp_path, early, name).points.check()


def test_a_refused_point_fails_and_the_others_are_trained(tmp_path: Path) -> None:
    sweep, study = sweep_of(WIDTHS, tmp_path), opened(tmp_path, WIDTHS)
    sweep.points.check()
    assert sorted(take_all(queue_of(study, sweep))) == [4, 8]
    (refused,) = (row for row in study.table() if row["state"] == "fail")
    assert refused["values"] == {"model.base_channels": 6}
    assert "model" in refused["failure"]
    assert refused["number"] in sweep.status.finished
    study.close()
    again = opened(tmp_path, WIDTHS)
    assert take_all(queue_of(again, sweep)) == []  # nor is it tried again
    again.close()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("objective.label_set: {type: categorical, choices: [train, sqroot]}", "sqroot"),
        (
            "model.base_channels: {type: categorical, choices: [8, 6]}",
            "no point with model.base_channels=6",
        ),
        (
            "seed: {type: int, low: 0, high: 9}, "  # noqa: ISC004
            "objective.label_set: {type: categorical, choices: [sqroot], when: {seed: 1}}",
            "sqroot",
        ),
    ],
)
def test_a_choice_that_no_point_may_have_is_refused_before_the_start(
    train: str, message: str, tmp_path: Path
) -> None:
    text = f"description: d\nbase: {{objective.name: cbdm}}\ntrain: {{{train}}}"
    with pytest.raises(UsageProblem, match=message):
        sweep_of(text, tmp_path, "objective.name=cbdm").points.check()


def test_a_choice_that_fits_some_points_is_kept(tmp_path: Path) -> None:
    text = """
description: six channels with three groups, eight with four
train:
  model.base_channels: {type: categorical, choices: [6, 8]}
  model.norm_groups: {type: categorical, choices: [3, 4]}
"""
    sweep_of(text, tmp_path).points.check()


def test_a_sweep_in_which_nothing_was_trained_starts_over_with_corrected_values(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "sweeps/s"
    folder.mkdir(parents=True)
    study = opened(folder, WIDTHS)
    assert study.ask() is not None
    study.close()
    sweep_of(WIDTHS, tmp_path)._open_parent(Mock(), IMAGES)
    other = WIDTHS.replace("high: 8", "high: 12")
    corrected = sweep_of(other, tmp_path, "optimizer.lr=1e-3")

    with pytest.raises(UsageProblem, match="already"):
        corrected.check_identity(resume=False)
    assert corrected.check_identity(resume=True) is False
    same = sweep_of(WIDTHS, tmp_path)
    assert same.check_identity(resume=True) is True
    same._check_images(OTHER_IMAGES)
    assert same._starts_over
    study = opened(folder, other, starts_over=True)
    assert study.ask() == Point(0, {"model.base_channels": 4}, resumed=False)
    study.close()

    shard = folder / "trials/0000" / layout.CHECKPOINTS / "images-000000000640" / "shard-0"
    shard.parent.mkdir(parents=True)
    shard.write_text("")
    with pytest.raises(UsageProblem, match="another search space"):
        corrected.check_identity(resume=True)
    with pytest.raises(UsageProblem, match="the data are not those"):
        sweep_of(WIDTHS, tmp_path)._check_images(OTHER_IMAGES)


def end(searcher: StudySearcher, **report: Any) -> None:
    """Report the end of the next training."""
    searcher.suggest("t")
    searcher.on_trial_complete("t", {"diverged": False, "own": False, "fix": "f", **report})


def searching(tmp_path: Path) -> tuple[StudySearcher, PointQueue]:
    sweep, study = sweep_of(WIDTHS, tmp_path), opened(tmp_path, WIDTHS)
    points = queue_of(study, sweep)
    stop = SimpleNamespace(is_set=lambda: False)
    return StudySearcher(points, sweep.experiment, False, stop), points  # type: ignore[arg-type]


def test_a_reason_that_all_trainings_share_ends_the_sweep_and_costs_no_trial(
    tmp_path: Path,
) -> None:
    searcher, points = searching(tmp_path)
    end(searcher, outcome="blocked", what="bees/train: no such folder", fix="correct data.root")
    assert points.problem is not None
    assert points.problem.what == "bees/train: no such folder"
    assert points.problem.fix == "correct data.root; then the same command with --resume"
    assert points.status.stop_requested.is_set()
    assert points.take() is None
    points.study.close()
    again = opened(tmp_path, WIDTHS)
    assert again.ask() == Point(0, {"model.base_channels": 4}, resumed=True)
    again.close()


def test_a_point_that_its_trial_refuses_is_never_tried_again(tmp_path: Path) -> None:
    searcher, points = searching(tmp_path)
    end(searcher, outcome="refused", what="there is no guide s/3", fix="name one")
    assert points.problem is None
    points.study.close()
    again = opened(tmp_path, WIDTHS)
    (row,) = again.table()
    assert (row["state"], row["failure"]) == ("fail", "there is no guide s/3 — name one")
    assert again.ask() != Point(0, {"model.base_channels": 4}, resumed=True)
    assert [p for p in iter(again.ask, None) if p.values == row["values"]] == []
    again.close()


def test_an_aborted_driver_marks_the_runs_that_its_trials_have_made(tmp_path: Path) -> None:
    sweep, study = sweep_of(WIDTHS, tmp_path), opened(tmp_path, WIDTHS)
    tracker, made = Mock(), Mock()
    tracker.existing.side_effect = lambda key: made if key.endswith("/0") else None
    points = PointQueue(study, partial(sweep._trial_spec, tracker, Mock()), sweep.status)
    taken = [points.take(), points.take()]
    assert None not in taken
    tracker.run.assert_not_called()
    with pytest.raises(KeyError), points.marking_unfinished():
        raise KeyError
    made.finish.assert_called_once_with("KILLED")
    assert tracker.existing.call_count == len(taken)
    study.close()


@pytest.mark.parametrize(("own", "ends"), [(False, True), (True, False)])
def test_the_same_reason_twice_ends_the_sweep_unless_it_is_each_trainings_own(
    own: bool, ends: bool, tmp_path: Path
) -> None:
    searcher, points = searching(tmp_path)
    for _ in range(2):
        assert points.problem is None
        end(searcher, outcome="failed", what="unexpected KeyError: 'x'", own=own)
    assert (points.problem is not None) == ends
    points.study.close()


def test_a_sweep_without_a_finished_training_has_failed(tmp_path: Path) -> None:
    study = opened(tmp_path, WIDTHS)
    point = study.ask()
    assert point is not None
    study.fail(point.number, str(Problem("the loss is nan", "lower the rate")), diverged=True)
    rows = study.table()
    study.close()
    goal = Goal.parse("kid/overall")
    result = SweepResult("s", rows, best_row(rows, goal), Mock(), parent := Mock())
    assert result.problem is not None
    assert result.problem.what == "no training of sweep s finished: the loss is nan"
    log_result(result, "kid/overall")
    parent.finish.assert_called_once_with("FAILED")
