"""What a sweep adds to its trainings: wall time from asking for a trial to its first step.

A real sweep of tiny one-worker trainings, one after the other, with Ray, MLflow and the study; the
times are those that MLflow holds. They mean something on an idle machine only.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import Result, hand_over
from mlflow import MlflowClient

from whipray.platform.config.experiment import load_experiment
from whipray.platform.config.space import Space
from whipray.platform.tracking.tracker import open_tracker
from whipray.platform.tuning.status import SweepStatus
from whipray.platform.tuning.sweep import Sweep
from whipray.trainers.errors import Problem

TRIALS = 4
BATCH = 64
SPACE = {
    "description": "anything",
    "base": {"objective": {"name": "cbdm"}},
    "train": {"objective.tau": {"type": "float", "low": 0.1, "high": 5.0}},
}
SETTINGS = {
    "tuning.trials": TRIALS,
    "tuning.concurrent": 1,
    "training.images": 10 * BATCH,
    "training.batch_size": BATCH,
    "training.report_every_images": BATCH,  # the first report comes after the first step
    "evaluation.features.epochs": 1,  # made once, beside Ray's start
    "evaluation.images_per_class": 4,
    "evaluation.bootstrap_resamples": 20,
    "sampling.sampler.steps": 2,
}


class Stamped(SweepStatus):
    """A status that records when it showed which line, in seconds since the epoch."""

    def __init__(self, status: SweepStatus) -> None:
        super().__init__(status.total, status.clock)
        self.at: dict[str, float] = {}

    def say(self, line: str) -> None:
        super().say(line)
        self.at[line] = time.time()


def first_step(client: MlflowClient, run_id: str) -> float:
    """Return when it began, in seconds since the epoch: the first report's time less the step's."""
    report = min(client.get_metric_history(run_id, "images_per_second"), key=lambda m: m.step)
    return float(report.timestamp / 1000 - BATCH / report.value)


def main() -> None:
    for elsewhere in ("RAY_ADDRESS", "WHIPRAY_STUDY_URL"):
        os.environ.pop(elsewhere, None)
    with TemporaryDirectory(prefix="whipray-bench-") as scratch:
        os.environ["WHIPRAY_CACHE"] = f"{scratch}/cache"
        store = f"{scratch}/runs"
        here = {"storage.uri": store, "tracking.uri": f"sqlite:///{store}/mlflow.db"}
        overrides = [f"{key}={value}" for key, value in (SETTINGS | here).items()]
        experiment = load_experiment("digits-demo", overrides).value
        sweep = Sweep("bench", experiment, Space.model_validate(SPACE))
        sweep.status = stamped = Stamped(sweep.status)
        Path(store).mkdir()
        try:
            sweep.run()
        except Problem as problem:
            sys.exit(str(problem))

        tracker = open_tracker(experiment.tracking, sweep.root)
        ready = stamped.at["starting trainings"]
        waits = []
        for number in range(TRIALS):
            run = tracker.client.get_run(tracker.find(f"sweep/bench/{number}").run_id)
            # Points are sampled one ahead: count from when Ray is up and the trial before is done.
            asked = max(run.info.start_time / 1000, ready)
            waits.append(first_step(tracker.client, run.info.run_id) - asked)
            ready = run.info.end_time / 1000
    ray = stamped.at["training the feature network on the reference images"]
    hand_over(
        [
            Result("sweep, Ray's start, once", [ray - stamped.at["starting Ray"]], "s"),
            Result("sweep, first trial: ask to first step", waits[:1], "s", at_most=10.0),
            Result("sweep, later trials: ask to first step", waits[1:], "s", at_most=10.0),
        ]
    )


if __name__ == "__main__":
    main()
