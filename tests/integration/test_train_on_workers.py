"""Ray Train: a worker that is lost, and a problem that no retry would mend."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.ray_train import Diary, KillTheOther, Surroundings, Unreadable
from support.shards import ShardDiary, process_id
from support.training import BATCH, Done, at, distance, state, tiny, train
from support.workers import Workers

from whipray.platform.compute.ray_session import ray_session, run_on_worker
from whipray.platform.config.scaling import ScalingConfig
from whipray.platform.generation.shards import RealShard
from whipray.platform.generation.workers import Workers as ShardWorkers
from whipray.platform.runs.ray_training import train_on_workers
from whipray.trainers.errors import DataProblem, DivergenceProblem, UsageProblem

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`use_.* is deprecated"),  # Ray Data, of its own
]

HALF, END = 4 * BATCH, 8 * BATCH
TWO = {"scaling__workers": 2, "scaling__max_failures": 1}


@pytest.fixture(scope="module")
def _ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHIPRAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # of the workers
        with ray_session():
            yield


@pytest.mark.usefixtures("_ray")
def test_a_killed_worker_comes_back_at_the_last_checkpoint(tmp_path: Path) -> None:
    """Twice, though one failure is allowed: a checkpoint was written between the two."""
    with Workers(2) as two:
        undisturbed: Done = two.run(train, tiny(**TWO), tmp_path / "undisturbed")[0]
    diary = Diary(tmp_path / "diary")
    kill = KillTheOther(2 * BATCH, HALF + 2 * BATCH, folder=tmp_path)
    trained = train_on_workers(tiny(**TWO), at(tmp_path / "run"), [diary], kill)

    assert all(once.exists() for once in kill.killed.values())
    assert (trained.images_seen, trained.checkpoint) == (END, undisturbed.trained.checkpoint)
    assert trained.notes == [f"resumed from {HALF} images"]
    lines = diary.lines()
    assert sum("lost" in line for line in lines) == 2
    expected = {r.images_seen: r.metrics["loss/total"] for r in undisturbed.reports}
    reports = [line for line in lines if "images" in line]
    assert {line["images"] for line in reports} == expected.keys()
    assert len(reports) > len(expected)  # what came after the checkpoint was done again
    for line in reports:
        assert line["losses"] == [expected[line["images"]]] * 2  # to the last bit
    (_, found), (_, reference) = state(tmp_path / "run"), state(tmp_path / "undisturbed")
    for kind in reference:
        assert distance(reference[kind], found[kind]) == 0


@pytest.mark.usefixtures("_ray")
def test_a_problem_of_the_workers_is_raised_in_the_driver_and_not_retried(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "diary")
    absurd = tiny(
        **TWO,
        optimizer__lr=1e38,
        optimizer__warmup_images=0,
        scaling__environment={"NCCL_DEBUG": "WARN"},
    )
    with pytest.raises(DivergenceProblem, match=f"loss/total is nan after {2 * BATCH} images"):
        train_on_workers(absurd, at(tmp_path / "run"), [diary], Surroundings(tmp_path / "around"))
    around = json.loads((tmp_path / "around").read_text())
    assert around["ports"] == 1  # Ray's own, which asks for its token
    assert (around["NCCL_DEBUG"], around["NCCL_RAS_ENABLE"]) == ("WARN", "0")
    assert "NCCL_SOCKET_IFNAME" not in around  # on one host
    assert [line.get("images") for line in diary.lines()] == [BATCH]


@pytest.mark.usefixtures("_ray")
def test_images_that_one_worker_cannot_read_end_all_of_them_at_once(tmp_path: Path) -> None:
    """The other waits for its gradients, for `scaling.timeout_s` if nobody ended it."""
    diary = Diary(tmp_path / "diary")
    with pytest.raises(DataProblem, match=r"^shards/0\.bin: damaged — pack the set again$"):
        train_on_workers(
            tiny(**TWO), at(tmp_path / "run"), [diary], Unreadable(HALF, tmp_path / "now")
        )
    assert [line["lost"] for line in diary.lines() if "lost" in line] == [[1]]


@pytest.mark.usefixtures("_ray")
def test_more_workers_than_this_machine_holds_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match=r"512 workers with 1 CPUs .* this machine has room for"):
        train_on_workers(tiny(scaling__workers=512), at(tmp_path / "run"), [])


@pytest.mark.usefixtures("_ray")
def test_as_many_evaluate_as_trained_and_metrics_are_computed_by_one_of_them(
    tmp_path: Path,
) -> None:
    shards = [RealShard("real", first, 1) for first in range(4)]
    said: list[str] = []
    done: list[float] = []
    two = tiny(scaling__workers=2).scaling
    with ShardWorkers(ShardDiary(tmp_path / "two"), None, two) as workers:
        workers.run("generate", shards, done.append)
        computed_by = workers.compute(process_id, said.append)
    pids = {int(file.name.rpartition("-")[2]) for file in (tmp_path / "two/real").iterdir()}
    assert len(pids) == 2
    assert computed_by in pids - {os.getpid()}
    assert (done[-1], said) == (4, ["computing"])

    one = tiny().scaling
    with ShardWorkers(ShardDiary(tmp_path / "one"), None, one) as workers:
        assert workers.compute(process_id, said.append) == os.getpid()
    # A run of a cluster, evaluated on a machine that has no room for one of its workers.
    large = tiny(scaling__workers=8, scaling__cpus_per_worker=512).scaling
    with ShardWorkers(ShardDiary(tmp_path / "one"), None, large) as workers:
        assert workers.compute(process_id, said.append) == os.getpid()


@pytest.mark.usefixtures("_ray")
def test_a_task_that_is_lost_counts_its_failures_since_it_last_got_on(tmp_path: Path) -> None:
    done = tmp_path / "done"

    def work() -> int:
        done.mkdir(exist_ok=True)
        steps = len([*done.iterdir()])
        (done / str(steps)).touch()
        if steps < 1:
            os._exit(1)
        return steps

    reached = run_on_worker(
        ScalingConfig(), work, lambda: done.exists() and len([*done.iterdir()]), max_retries=0
    )
    assert reached == 1
