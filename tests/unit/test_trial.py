"""How a trial ends that fails: what the study, MLflow and the log of its process have of it."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from whipray.platform.storage.errors import MissingObject, StorageProblem
from whipray.platform.tracking.errors import TrackingProblem
from whipray.platform.tuning import trial
from whipray.trainers.errors import (
    CheckpointProblem,
    DataProblem,
    DivergenceProblem,
    OutOfMemoryProblem,
    Problem,
    UsageProblem,
)


def fail_with(
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    *,
    of: str = "train",
    shares_data: bool = True,
    **mlflow: Any,
) -> dict[str, Any]:
    """The last report of a trial whose training, or another of its steps, raises this error."""
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.tune.report", reports.append)
    for step in ("prepare", "begin", "train"):
        monkeypatch.setattr(trial, step, Mock(side_effect=error if step == of else None))
    run = Mock(**{"system_metrics.return_value": nullcontext(), **mlflow})
    experiment = SimpleNamespace(
        tracking=SimpleNamespace(system_metrics=False), scaling=SimpleNamespace(workers=1)
    )
    plan = SimpleNamespace(experiment=experiment, run=run, store=Mock())
    spec = Mock(**{"plan.return_value": plan, "plan.side_effect": error if of == "plan" else None})
    config = {"spec": spec, "number": 3, "pruning": False, "stop": Mock()}
    trial.run_trial({**config, "shares_data": shares_data}, Mock())
    return reports[-1]


def test_an_unexpected_error_leaves_its_traceback_in_mlflow_and_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = fail_with(ValueError("no such thing"), monkeypatch)
    assert report == {
        "outcome": "failed",
        "what": "unexpected ValueError: no such thing",
        "fix": "its traceback is problem.json in its MLflow run",
        "diverged": False,
        "own": False,
    }
    assert "ValueError: no such thing" in capsys.readouterr().err


def test_when_mlflow_is_down_the_traceback_is_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    down = Problem("MLflow does not answer", "start it")
    calls = {"log_json.side_effect": down, "set_tags.side_effect": down}
    report = fail_with(ValueError("no such thing"), monkeypatch, **calls)
    assert report["outcome"] == "failed"
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "ValueError: no such thing" in err


@pytest.mark.parametrize(
    ("error", "outcome", "own"),
    [
        (DataProblem("no image", "add one"), "blocked", False),
        (StorageProblem("the disk is full", "free space"), "blocked", False),
        (TrackingProblem("MLflow refuses the login", "log in"), "blocked", False),
        (ModuleNotFoundError("No module named 'sklearn'"), "blocked", False),
        (OSError(28, "No space left on device"), "blocked", False),
        (MissingObject("its checkpoint is gone", "restore it"), "failed", False),
        (DivergenceProblem("the loss is nan", "lower the rate"), "failed", True),
        (OutOfMemoryProblem("out of memory", "lower micro_batch"), "failed", True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "failed", True),
        (UsageProblem("no such layer", "choose another"), "failed", False),
    ],
)
def test_what_all_trainings_share_is_told_apart_from_what_is_one_trainings_own(
    error: Exception, outcome: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = fail_with(error, monkeypatch)
    assert (report["outcome"], report["own"]) == (outcome, own)


@pytest.mark.parametrize(
    ("error", "shares_data", "outcome"),
    [
        (UsageProblem("no guide", "name one"), True, "refused"),
        (CheckpointProblem("begun with another rate", "restore it"), True, "refused"),
        (DataProblem("no image", "add one"), False, "refused"),
        (DataProblem("no image", "add one"), True, "blocked"),
        (StorageProblem("the disk is full", "free space"), False, "blocked"),
        (KeyError("x"), True, "failed"),
    ],
)
def test_what_its_beginning_does_not_allow_is_never_tried_again(
    error: Exception, shares_data: bool, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = fail_with(error, monkeypatch, of="begin", shares_data=shares_data)
    assert report["outcome"] == outcome


def test_a_trial_without_an_mlflow_run_still_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    down = TrackingProblem("MLflow does not answer", "start it")
    report = fail_with(down, monkeypatch, of="plan")
    assert (report["outcome"], report["what"]) == ("blocked", down.what)


def test_data_that_only_this_training_has_are_its_own_reason() -> None:
    assert not trial._is_shared(DataProblem("no image", "add one"), shares_data=False)


def test_where_the_traceback_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    plan: Any = SimpleNamespace(run=Mock())
    assert "problem.json" in trial._unexpected(plan, ValueError()).fix
    logged = plan.run.log_json.call_args.args
    assert "ValueError" in logged[0]["traceback"]
    plan.run.log_json.side_effect = Problem("MLflow does not answer", "start it")
    assert "its Ray worker" in trial._unexpected(plan, ValueError()).fix
    capsys.readouterr()
