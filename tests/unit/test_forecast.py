"""What a launch is said to take, before anything is sent."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from support.training import tiny

from whipray.platform.cli import remote
from whipray.platform.config.experiment import with_values
from whipray.platform.config.space_files import load_space
from whipray.platform.launching import forecast as forecasts
from whipray.platform.launching.forecast import Forecast, Work, of_sweep
from whipray.platform.launching.launch import Launch
from whipray.platform.launching.tasks import Task, evaluate_task, train_task
from whipray.platform.runs.speed import Speed, step_key
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.layout import Tag
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.tracker import open_tracker
from whipray.trainers.errors import UsageProblem

SPEED = Speed(100.0, "first", time.time())


def test_hours_and_money_are_those_of_all_workers_and_time_that_of_the_rounds() -> None:
    experiment = tiny(
        scaling__workers=2,
        scaling__gpus_per_worker=1,
        scaling__price_per_hour=3.0,
        tuning__trials=9,
    )
    work = Work(experiment, trainings=10, images=10 * 360_000, at_once=None)
    plenty = Forecast(work, SPEED, room=8)  # four trainings at once: 4 + 4 + 2
    said = plenty.lines()
    assert said["room"] == "8 workers, 4 at once"
    assert said["takes"].startswith("at most 3:00:00 of training")  # three rounds of an hour
    assert said["takes"].endswith("20 GPU-hours")  # ten of an hour, two GPUs each
    assert (said["costs"], plenty.money) == ("at most 60.00", 60.0)

    few = Forecast(work, SPEED, room=1).lines()
    assert few["room"] == "1 workers, 1 at once; waits until there are 2"
    assert Forecast(work, None, room=8).money is None
    assert "costs" not in Forecast(work, None, room=8).lines()


def test_a_sweep_is_its_trials_baselines_and_one_pretraining() -> None:
    space = load_space("cbdm")
    experiment = tiny(training__images=1000, tuning__trials=5, tuning__concurrent=2)
    work = of_sweep(experiment, space)
    assert (work.trainings, work.images) == (5 + len(space.baselines), 1000 * work.trainings)
    assert work.at_once == 2

    pretrained = load_space("cbdm_finetune")
    assert pretrained.pretrain is not None
    once = round(1000 * pretrained.pretrain.share)
    work = of_sweep(experiment, pretrained)
    assert work.images == once + work.trainings * (1000 - once)


@pytest.mark.filterwarnings("ignore::UserWarning:mlflow")
@pytest.mark.filterwarnings("ignore::FutureWarning:mlflow")
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own
def test_the_speed_is_that_of_the_latest_run_with_the_same_step(tmp_path: Path) -> None:
    mine = tiny(storage__uri=str(tmp_path / "runs"))
    assert forecasts.latest_speed(mine) is None
    assert not (tmp_path / "runs").exists()  # asking made nothing

    tracker = open_tracker(mine.tracking, Storage(mine.storage))
    slower = with_values(mine, {"training.batch_size": 2 * mine.training.batch_size}, "test")
    for name, experiment, speed in (("a", mine, 10.0), ("b", slower, 5.0), ("c", mine, 20.0)):
        run = tracker.run(f"run/{name}", name, {Tag.STEP: step_key(experiment)})
        run.log_metrics({"images_per_second": speed}, 320)
        run.finish("FINISHED")
        time.sleep(0.01)  # MLflow knows milliseconds
    tracker.run("run/d", "d", {Tag.STEP: step_key(mine)})  # has not made a step yet

    found = forecasts.latest_speed(mine.model_copy(update={"seed": 7}))
    assert found is not None
    assert (found.run, found.images_per_second) == ("c", 20.0)


class Cluster:
    """A cluster that takes every job, and the launches to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, forecast: Forecast | None) -> None:
        self.sent: list[str] = []
        monkeypatch.setattr(Launch, "check", lambda _launch: None)
        monkeypatch.setattr(Launch, "forecast", lambda _launch: forecast)
        monkeypatch.setattr(Launch, "submit", lambda launch: self.sent.append(launch.job))
        monkeypatch.setattr(remote, "follow", lambda *_: sys.exit(0))

    def send(self, task: Task, *, as_json: bool, yes: bool) -> None:
        with pytest.raises(SystemExit):
            remote.send("http://head:8265", task, {}, as_json, yes)


def priced(price: float, speed: Speed | None, *, evaluation: bool) -> tuple[Task, Forecast | None]:
    if evaluation:
        override = f"scaling.price_per_hour={price}"
        return evaluate_task("a", [override], StorageConfig(uri="/shared"), None), None
    values = {"scaling__price_per_hour": price, "training__images": 360_000}
    task = train_task("a", tiny(storage__uri="/shared", **values))
    assert task.work is not None
    return task, Forecast(task.work, speed, room=1)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("speed", "evaluation", "costs"),
    [(SPEED, False, "2.00"), (None, False, "an unknown amount"), (None, True, "an unknown amount")],
)
def test_what_costs_money_is_sent_only_with_a_yes(
    monkeypatch: pytest.MonkeyPatch,
    speed: Speed | None,
    evaluation: bool,
    costs: str,
    as_json: bool,
) -> None:
    task, forecast = priced(2.0, speed, evaluation=evaluation)
    cluster = Cluster(monkeypatch, forecast)
    questions = []

    def answer(question: str, err: bool) -> bool:
        assert err  # stdout is for data
        questions.append(question)
        return False

    monkeypatch.setattr(remote.typer, "confirm", answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    cluster.send(task, as_json=as_json, yes=False)
    assert (questions, cluster.sent) == ([f"spend {costs}?"], [])

    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    with pytest.raises(UsageProblem, match=f"costs {costs}, .* nothing was sent — add --yes"):
        remote.send("http://head:8265", task, {}, as_json)
    assert cluster.sent == []
    cluster.send(task, as_json=as_json, yes=True)
    assert len(cluster.sent) == len(questions) == 1


@pytest.mark.parametrize("evaluation", [False, True])
def test_what_costs_nothing_is_sent_without_a_question(
    monkeypatch: pytest.MonkeyPatch, evaluation: bool
) -> None:
    task, forecast = priced(0.0, None, evaluation=evaluation)
    cluster = Cluster(monkeypatch, forecast)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    cluster.send(task, as_json=False, yes=False)
    assert len(cluster.sent) == 1
