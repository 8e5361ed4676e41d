"""What a launch is said to take, before anything is sent."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.training import tiny

from whipray.platform.cli import remote
from whipray.platform.config.experiment import with_values
from whipray.platform.config.space_files import load_space
from whipray.platform.launching import forecast as forecasts
from whipray.platform.launching.forecast import Forecast, Work, of_sweep, of_training
from whipray.platform.runs.speed import Speed, step_key
from whipray.platform.storage.layout import Tag
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.tracker import open_tracker

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


@pytest.mark.parametrize(
    ("price", "person", "asked"), [(2.0, True, True), (2.0, False, False), (0.0, True, False)]
)
def test_one_is_asked_where_it_costs_and_somebody_is_there(
    monkeypatch: pytest.MonkeyPatch, price: float, person: bool, asked: bool
) -> None:
    questions = []

    def answer(question: str, err: bool) -> bool:
        assert err  # stdout is for data
        questions.append(question)
        return False

    monkeypatch.setattr(remote.typer, "confirm", answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: person)
    experiment = tiny(scaling__price_per_hour=price, training__images=360_000)
    launch = Forecast(of_training(experiment), SPEED, room=1)
    if asked:
        with pytest.raises(SystemExit):
            remote.confirm_costs(launch)
    else:
        remote.confirm_costs(launch)
    assert questions == (["spend 2.00?"] if asked else [])
