"""Whole sweeps through the command line: real Ray, MLflow on SQLite, digits, and real kills."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from support.marks import MLFLOW_WARNINGS
from support.shell import TINY, WAIT_S

pytestmark = [
    pytest.mark.slow,
    *MLFLOW_WARNINGS,
]

IMAGES, CHECKPOINT_EVERY = 6400, 1600
SETTINGS = (
    *TINY,
    f"training.images={IMAGES}",
    f"training.checkpoint_every_images={CHECKPOINT_EVERY}",
    "tuning.sample_points=2",
    "tuning.concurrent=1",
)
GUIDANCE = {"sampling.guidance.omega": {"type": "float", "low": 0.0, "high": 1.0, "step": 1.0}}


@dataclass
class Place:
    """A folder to run commands in."""

    folder: Path
    cache: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`whipray ...` as the leader of its own process group, like a shell's foreground job."""
        own = ("RAY_", "MLFLOW_", "WHIPRAY_", "AWS_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        environment |= {"WHIPRAY_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"}
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "whipray.platform.cli.main", *arguments],
                cwd=self.folder,
                env=environment,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def run(self, *arguments: str) -> int:
        return self.start(*arguments).wait(WAIT_S)

    def sweep(self, name: str, trials: int, *more: str) -> tuple[str, ...]:
        """The arguments of a sweep over `NAME.yaml`."""
        location = ("sweep", f"{name}.yaml", "--recipe", "digits-demo", "--name", name)
        return (*location, "--trials", str(trials), "--json", *SETTINGS, *more)

    def space(self, name: str, content: dict[str, Any]) -> None:
        text = yaml.safe_dump({"description": name, "sample": GUIDANCE, **content})
        (self.folder / f"{name}.yaml").write_text(text)

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    @property
    def store(self) -> Path:
        return self.folder / "whipray-runs"

    @property
    def tracking(self) -> str:
        return f"sqlite:///{self.store}/mlflow.db"

    def until(self, process: subprocess.Popen[bytes], pattern: str) -> list[Path]:
        """Wait for files in the store while a command runs."""
        deadline = time.monotonic() + WAIT_S
        while not (found := sorted(self.store.glob(pattern))):
            assert process.poll() is None, f"ended before {pattern}: {self.err}"
            assert time.monotonic() < deadline, f"no {pattern}: {self.err}"
            time.sleep(0.02)
        return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded images and feature networks, for all sweeps of this file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def new_place(
    tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Iterator[Callable[[str], Place]]:
    places = []

    def make(name: str) -> Place:
        places.append(Place(tmp_path_factory.mktemp(name), cache))
        return places[-1]

    yield make
    for place in places:
        for process in place.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def runs(place: Place, sweep: str) -> tuple[Run, dict[int, Run]]:
    """The parent run, and the child runs by trial number."""
    client = MlflowClient(place.tracking)
    experiment = client.get_experiment_by_name("whipray")
    assert experiment is not None
    found = [
        run
        for run in client.search_runs([experiment.experiment_id])
        if run.data.tags["whipray.sweep"] == sweep
    ]
    (parent,) = (run for run in found if run.data.tags["whipray.kind"] == "sweep")
    children = [run for run in found if run is not parent]
    numbers = {int(run.data.tags["whipray.trial"]): run for run in children}
    assert len(numbers) == len(children), "a trial has two runs"
    for run in children:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    return parent, numbers


def steps(place: Place, run: Run) -> list[int]:
    """Images seen at each report of the loss, in the order of writing."""
    history = MlflowClient(place.tracking).get_metric_history(run.info.run_id, "loss/total")
    return [metric.step for metric in sorted(history, key=lambda m: (m.timestamp, m.step))]


def artifacts(run: Run) -> set[str]:
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}


def written(folder: Path, pattern: str) -> dict[Path, int]:
    """Files and when they were written."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob(pattern)}


# --- a sweep that nothing disturbs --------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """A finished sweep with two shapes of training."""

    place: Place
    document: dict[str, Any]

    def command(self, *more: str) -> tuple[str, ...]:
        return self.place.sweep("quiet", 1, *more)


@pytest.fixture(scope="module")
def done(new_place: Callable[[str], Place]) -> Done:
    place = new_place("quiet")
    place.space(
        "quiet",
        {
            "base": {"objective": {"name": "cbdm"}},
            "train": {"objective.tau": {"type": "float", "low": 0.1, "high": 5.0, "log": True}},
            "baselines": [
                {"name": "ddpm", "set": {"objective.name": "ddpm", "scaling.workers": 2}}
            ],
        },
    )
    assert place.run(*place.sweep("quiet", 1)) == 0, place.err
    return Done(place, json.loads(place.out))


def test_two_workers_and_one_train_in_the_same_sweep(done: Done) -> None:
    trials = done.document["trials"]
    assert [(row["state"], row["baseline"]) for row in trials] == [
        ("complete", "ddpm"),
        ("complete", None),
    ], done.place.err
    shards = {
        number: len(
            list(
                (done.place.store / f"sweeps/quiet/trials/{number:04d}").glob(
                    f"checkpoints/images-{IMAGES:012d}/shard-*"
                )
            )
        )
        for number in (0, 1)
    }
    assert shards == {0: 2, 1: 1}


def test_the_document_is_what_the_study_found(done: Done) -> None:
    document = done.document
    assert document["schema"] == 1
    values = {row["number"]: row["value"] for row in document["trials"]}
    assert document["best"] == min(values, key=lambda number: values[number])
    for row in document["trials"]:
        summary = row["attrs"]["summary"]
        assert summary["metrics"][document["rank_by"]] == row["value"]
        assert summary["images_seen"] == IMAGES
        assert summary["provenance"]["n_generated"] == 20
    assert document["model"] == "models:/digits-lt/1"
    assert Path(document["grid"]).is_file()


def test_mlflow_has_a_parent_and_a_child_for_each_trial(done: Done) -> None:
    parent, children = runs(done.place, "quiet")
    assert parent.info.run_id == done.document["mlflow_run"]
    assert parent.info.status == "FINISHED"
    assert sorted(children) == [0, 1]
    assert {"sweep.json", "space.yaml", "experiment.yaml"} <= artifacts(parent)
    for number, run in children.items():
        assert run.info.status == "FINISHED"
        assert run.data.params["training.images"] == str(IMAGES)
        assert run.data.params["objective.name"] == ("ddpm" if number == 0 else "cbdm")
        assert len(run.data.tags["mlflow.source.git.commit"]) == 40
        assert steps(done.place, run) == list(range(320, IMAGES + 1, 320))
        summary = done.document["trials"][number]["attrs"]["summary"]
        logged = run.data.metrics
        assert logged["kid/overall"] == pytest.approx(summary["metrics"]["kid/overall"])
        names = ("guidance.json", "provenance.json", "grid.png", "per_class.parquet", "report.html")
        files = artifacts(run)
        assert {f"evaluation/{name}" for name in names} <= files
        root = Path(run.info.artifact_uri.removeprefix("file://"))
        tried = json.loads((root / "evaluation/guidance.json").read_text())["tried"]
        assert sorted(point["omega"] for point in tried) == [0.0, 1.0]
        assert len(pd.read_parquet(root / "evaluation/per_class.parquet")) >= 10
        counts = json.loads((root / "dataset.json").read_text())["train"]
        assert len(counts) == 10
        assert counts[0] > counts[-1]


def test_the_champion_samples_as_anybody_would_load_it(done: Done) -> None:
    mlflow.set_tracking_uri(done.place.tracking)
    try:
        model = mlflow.pyfunc.load_model("models:/digits-lt@champion")
    finally:
        mlflow.set_tracking_uri(None)
    classes = pd.DataFrame({"class_id": [0, 9, 9]})
    images = model.predict(classes, params={"seed": 3})
    assert (images.shape, images.dtype) == ((3, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(images, model.predict(classes, params={"seed": 3}))
    assert (images != model.predict(classes, params={"seed": 4})).any()
    with pytest.raises(MlflowException, match="no class 10"):
        model.predict(pd.DataFrame({"class_id": [10]}))
    chosen = MlflowClient(done.place.tracking).get_model_version_by_alias("digits-lt", "champion")
    assert chosen.tags["whipray.trial"] == str(done.document["best"])
    assert chosen.description.startswith("# digits-lt\n")
    assert f"Sweep quiet: {done.document['verdict']}." in chosen.description
    row = next(r for r in done.document["trials"] if r["number"] == done.document["best"])
    best = row["attrs"]["summary"]["metrics"]
    assert f"{best['kid/few']:.3g} [{best['kid/few_low']:.3g}" in chosen.description


def test_again_without_resume_is_refused(done: Done) -> None:
    assert done.place.run(*done.command()) == 2
    error = json.loads(done.place.out)["error"]
    assert "sweep quiet already" in error["message"]
    assert "--resume" in error["hint"]


def test_resumed_with_another_objective_is_refused(done: Done) -> None:
    assert done.place.run(*done.command("--resume", "objective.gamma=0.5")) == 2
    assert "objective.gamma" in json.loads(done.place.out)["error"]["message"]


def test_resumed_when_finished_does_nothing_again(done: Done) -> None:
    before = written(done.place.store / "sweeps/quiet/trials", "*")
    assert done.place.run(*done.command("--resume")) == 0, done.place.err
    again = json.loads(done.place.out)
    assert again == done.document
    assert written(done.place.store / "sweeps/quiet/trials", "*") == before
    versions = MlflowClient(done.place.tracking).search_model_versions("name='digits-lt'")
    assert len(versions) == 1


def test_what_a_sweep_suggests_can_be_pasted(done: Done) -> None:
    words = [word for word in done.command("--resume") if word != "--json"]
    assert done.place.run(*words) == 0, done.place.err
    assert re.search(r"^trial +what +omega", done.place.out)
    suggested = map(shlex.split, done.place.err.partition("next:\n")[2].splitlines())
    sample = next(each for each in suggested if "sample" in each)
    assert sample[sample.index("--classes") + 1] == "9"  # the rarest
    assert done.place.run(*sample[1:]) == 0, done.place.err
    assert (done.place.folder / "tail.png").exists()


# --- sweeps that go wrong -----------------------------------------------------------------------


def test_a_killed_sweep_goes_on_where_it_was(new_place: Callable[[str], Place]) -> None:
    place = new_place("killed")
    place.space(
        "killed",
        {
            "train": {"objective.tau": {"type": "float", "low": 0.1, "high": 5.0, "log": True}},
            "sample": {
                "sampling.guidance.omega": {"type": "float", "low": 0.0, "high": 3.0, "step": 1.0}
            },
        },
    )
    # long enough to be killed in: four evaluations of a hundred images
    slow = ("sampling.sampler.steps=50", "evaluation.images_per_class=10", "tuning.sample_points=4")
    command = place.sweep("killed", 2, *slow, "--resume")
    trial = "sweeps/killed/trials/{:04d}".format
    first = f"checkpoints/images-{CHECKPOINT_EVERY:012d}/manifest.json"

    driver = place.start(*command)  # killed while training
    place.until(driver, f"{trial(0)}/{first}")
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    assert not list(place.store.glob(f"{trial(0)}/evaluations/*/result.json"))
    _, before = runs(place, "killed")

    driver = place.start(*command)  # killed while evaluating
    place.until(driver, f"{trial(0)}/evaluations/*/result.json")
    kill_all_of(driver)
    known = written(place.store / trial(0) / "evaluations", "result.json")
    assert len(known) < 4, "the kill came too late to prove anything"

    driver = place.start(*command)  # interrupted while training the second
    place.until(driver, f"{trial(1)}/{first}")
    driver.send_signal(signal.SIGINT)
    assert driver.wait(WAIT_S) == 130, place.err
    assert "error: interrupted" in place.err
    assert "Traceback" not in place.err

    assert place.run(*command) == 0, place.err
    rows = json.loads(place.out)["trials"]
    assert [row["state"] for row in rows] == ["complete", "complete"]
    assert rows[0]["values"] != rows[1]["values"]
    parent, after = runs(place, "killed")
    assert after[0].info.run_id == before[0].info.run_id
    assert {run.info.status for run in (parent, *after.values())} == {"FINISHED"}
    for run in after.values():
        seen = steps(place, run)
        assert set(seen) == set(range(320, IMAGES + 1, 320))
        assert seen.count(320) == 1, "it was trained from the start again"
    now = written(place.store / trial(0) / "evaluations", "result.json")
    assert known.items() <= now.items(), "images were generated again"
    assert len(now) == 5  # four of the search, and its best with other noise


def test_a_sweep_survives_divergence_a_lost_process_and_early_stops(
    new_place: Callable[[str], Place],
) -> None:
    place = new_place("rough")
    place.space(
        "rough",
        {
            "train": {"optimizer.lr": {"type": "float", "low": 1e-9, "high": 1.0, "log": True}},
            "seed_points": [{"optimizer.lr": 2e-3}, {"optimizer.lr": 1e-9}],
            "baselines": [{"name": "diverges", "set": {"optimizer.lr": 1e6}}],
        },
    )
    early = f"tuning.early_stop.min_images={CHECKPOINT_EVERY}"
    driver = place.start(*place.sweep("rough", 2, early))
    first = f"checkpoints/images-{CHECKPOINT_EVERY:012d}/manifest.json"
    place.until(driver, f"sweeps/rough/trials/0001/{first}")
    trainings = [
        child
        for child in psutil.Process(driver.pid).children(recursive=True)
        if "ImplicitFunc" in " ".join(child.cmdline())
    ]
    assert trainings
    for training in trainings:
        training.kill()
    assert driver.wait(WAIT_S) == 0, place.err

    rows = json.loads(place.out)["trials"]
    assert [row["state"] for row in rows] == ["fail", "complete", "pruned"]
    diverged, retried, stopped = rows
    assert diverged["attrs"]["diverged"]
    assert diverged["failure"]
    parent, children = runs(place, "rough")
    assert parent.info.status == "FINISHED"
    assert {number: run.info.status for number, run in children.items()} == {
        0: "FAILED",
        1: "FINISHED",
        2: "FINISHED",
    }
    assert children[0].data.tags["whipray.problem"] == diverged["failure"]
    assert children[2].data.tags["whipray.outcome"] == "stopped"
    seen = steps(place, children[retried["number"]])
    assert set(seen) == set(range(320, IMAGES + 1, 320))
    assert seen.count(320) == 1, "it was trained from the start again"
    assert max(steps(place, children[stopped["number"]])) < IMAGES


def test_trials_fine_tune_one_pretraining_and_one_that_begins_slowly_holds_up_no_other(
    new_place: Callable[[str], Place],
) -> None:
    place = new_place("branches")
    place.space(
        "branches",
        {
            "base": {"objective": {"name": "cbdm"}},
            "pretrain": {"share": 0.5, "set": {"objective.name": "ddpm"}},
            "train": {"objective.tau": {"type": "float", "low": 0.1, "high": 5.0, "log": True}},
        },
    )
    command = place.sweep("branches", 2, "--resume")
    driver = place.start(*command)  # interrupted during the pre-training
    pretrain = "sweeps/branches/pretrain/checkpoints/images-{:012d}/manifest.json".format
    place.until(driver, pretrain(CHECKPOINT_EVERY))
    driver.send_signal(signal.SIGINT)
    assert driver.wait(WAIT_S) == 130, place.err
    assert "Traceback" not in place.err

    # The second trial begins by reading what is a pipe here, and waits: the first ends meanwhile, though each of its
    # reports goes through the driver.
    record = place.store / "sweeps/branches/trials/0001/pretrained.json"
    record.parent.mkdir(parents=True)
    os.mkfifo(record)
    driver = place.start(*command, "tuning.concurrent=2")
    place.until(driver, "sweeps/branches/trials/0000/evaluations/*/result.json")
    assert list(record.parent.iterdir()) == [record], "it has begun"
    with record.open("w"):
        record.unlink()
    assert driver.wait(WAIT_S) == 1, place.err
    assert (
        "sweeps/branches/trials/0001/pretrained.json" in json.loads(place.out)["error"]["message"]
    )

    assert place.run(*command) == 0, place.err
    rows = json.loads(place.out)["trials"]
    assert [row["state"] for row in rows] == ["complete", "complete"]
    found = MlflowClient(place.tracking).search_runs(["1"])
    by_kind = {kind: [] for kind in ("sweep", "pretrain", "trial")}
    for run in found:
        by_kind[run.data.tags["whipray.kind"]].append(run)
    (parent,), (once,), branches = by_kind["sweep"], by_kind["pretrain"], by_kind["trial"]
    assert {run.info.status for run in found} == {"FINISHED"}
    assert once.data.tags["mlflow.parentRunId"] == parent.info.run_id
    for run in (once, *branches):  # half of the images each
        seen = steps(place, run)
        assert set(seen) == set(range(320, IMAGES // 2 + 1, 320))
        assert seen.count(320) == 1, "it was trained from the start again"
    assert {run.data.tags["whipray.pretrained.run_id"] for run in branches} == {once.info.run_id}
    assert len(list((place.store / "pretrained").iterdir())) == 1
    before = written(place.store, "manifest.json")
    assert place.run(*command) == 0, place.err
    assert written(place.store, "manifest.json") == before


def test_a_shared_failure_ends_a_sweep_and_its_name_serves_the_corrected_one(
    new_place: Callable[[str], Place],
) -> None:
    place = new_place("again")
    place.space(
        "again",
        {
            "train": {"objective.tau": {"type": "float", "low": 0.1, "high": 5.0}},
            "base": {"objective": {"name": "cbdm"}},
        },
    )
    first = place.store / "sweeps/again/trials/0000"
    first.parent.mkdir(parents=True)
    first.write_text("a file where its checkpoints belong")
    short = ("training.images=640", "training.checkpoint_every_images=640")
    assert place.run(*place.sweep("again", 4, *short)) == 1
    error = json.loads(place.out)["error"]
    assert "sweeps/again/trials/0000" in error["message"]
    assert "--resume" in error["hint"]
    assert len(error["message"].splitlines()) == 1
    parent, children = runs(place, "again")
    assert {run.info.status for run in (parent, *children.values())} == {"FAILED"}
    assert sorted(children) == [0], "another one was tried, too"

    # Nothing was trained, so everything may change. Four groups do not divide six channels.
    first.unlink()
    widths = {"model.base_channels": {"type": "int", "low": 4, "high": 8, "step": 2}}
    place.space("again", {"train": widths})
    assert place.run(*place.sweep("again", 4, *short, "--resume")) == 0, place.err
    rows = json.loads(place.out)["trials"]
    assert sorted(row["state"] for row in rows) == ["complete", "complete", "fail"]
    assert [row["values"] for row in rows if "norm_groups" in (row["failure"] or "")] == [
        {"model.base_channels": 6}
    ]
    parent, _ = runs(place, "again")
    assert parent.info.status == "FINISHED"


def kill_all_of(driver: subprocess.Popen[bytes]) -> None:
    """The driver, and every process that it started: what a power cut does."""
    for process in [psutil.Process(driver.pid), *psutil.process_iter()]:
        try:
            if os.getsid(process.pid) == driver.pid:
                process.kill()
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    driver.wait()
