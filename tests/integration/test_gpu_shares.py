"""Several trials on one GPU: Ray is given a GPU by declaration, which PyTorch does not find."""

from __future__ import annotations

import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from whipray.platform.compute.ray_session import own_token
from whipray.platform.config.experiment import load_experiment
from whipray.platform.config.space_files import parse_space
from whipray.platform.tracking.mlflow_runs import Run
from whipray.platform.tracking.tracker import Tracker
from whipray.platform.tuning import tune_runs
from whipray.platform.tuning.bridge import PointQueue
from whipray.platform.tuning.study import Study
from whipray.platform.tuning.sweep import Sweep

pytestmark = pytest.mark.slow

SPACE = "description: d\ntrain: {optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-3}}"
TRIALS = 4
WAIT_S = 600  # a bound on a hang


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU has to be a declared one")
def test_four_trials_with_a_quarter_of_a_gpu_run_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path / "cache"))
    started = tmp_path / "started"
    started.mkdir()

    def trial(config: dict[str, Any], prepared: None) -> None:  # noqa: ARG001
        """Wait for the others, which only come if all are placed at once; then look for the GPU."""
        import os

        from ray import tune

        from whipray.platform.compute.gpus import check_gpus
        from whipray.trainers.errors import UsageProblem

        scaling = config["spec"].experiment.scaling
        (started / str(config["number"])).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        deadline = time.monotonic() + WAIT_S
        while len(list(started.iterdir())) < TRIALS and time.monotonic() < deadline:
            time.sleep(0.05)
        try:
            check_gpus(scaling.gpus_per_worker)
        except UsageProblem as problem:
            what, fix = problem.what, problem.fix
            report = {"outcome": "failed", "what": what, "fix": fix, "diverged": False, "own": True}
            tune.report(report | {"at_once": len(list(started.iterdir()))})

    monkeypatch.setattr(tune_runs, "run_trial", trial)
    values = [f"storage.uri={tmp_path}", "scaling.gpus_per_worker=0.25"]
    sweep = Sweep("s", load_experiment("digits-demo", values).value, parse_space(SPACE, "test"))
    study = Study.open(tmp_path / "study.journal", "s", sweep.space, seed=0, total=TRIALS)
    database = f"sqlite:///{tmp_path}/unused.db"
    spec_for = partial(sweep._trial_spec, Tracker(database, "1"), Run(database, "parent"))
    features: Future[None] = Future()
    features.set_result(None)
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(sweep.status, "report", lambda _number, report: seen.append(report))
    with own_token():
        ray.init(address="local", num_cpus=TRIALS, num_gpus=1, include_dashboard=False)
        try:
            assert tune_runs._concurrent(sweep.experiment, sweep.experiment.scaling) == TRIALS
            points = PointQueue(study, spec_for, sweep.status)
            tune_runs.train_all(points, sweep.experiment, None, sweep.status, features)  # type: ignore[arg-type]
            rows = study.table()
        finally:
            ray.shutdown()
            study.close()
    assert {path.read_text() for path in started.iterdir()} == {"0"}
    assert [report["at_once"] for report in seen if "at_once" in report] == [TRIALS] * TRIALS
    refused = "scaling.gpus_per_worker=0.25 asks for 1 GPU, and PyTorch finds none"
    assert [refused in row["failure"] for row in rows] == [True] * TRIALS
