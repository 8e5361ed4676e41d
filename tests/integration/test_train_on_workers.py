"""Ray Train: a worker that is lost, and a problem that no retry would mend."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.train import UserCallback
from support.training import BATCH, Done, at, distance, state, tiny, train
from support.workers import Workers

from whipray.platform.local_ray import connected
from whipray.platform.training import train_on_workers
from whipray.trainers.errors import DivergenceProblem
from whipray.trainers.loop import Progress

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
        with connected():
            yield


class Diary(UserCallback):
    """What the controller hears, line by line in a file: it lives in another process."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def _write(self, line: dict[str, Any]) -> None:
        with self.file.open("a") as out:
            out.write(json.dumps(line) + "\n")

    def after_report(self, run_context: Any, metrics: list[Any], checkpoint: Any) -> None:  # noqa: ARG002
        images, losses = metrics[0]["images_seen"], [m["metrics"]["loss/total"] for m in metrics]
        self._write({"images": images, "losses": losses})

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Any]) -> None:  # noqa: ARG002
        self._write({"lost": sorted(worker_exceptions)})

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()]


class KillTheOther:
    """Told by worker 0: kills its sibling with SIGKILL, once."""

    def __init__(self, images_seen: int, once: Path) -> None:
        self.images_seen, self.once = images_seen, once

    def __call__(self, progress: Progress) -> bool:
        if progress.images_seen == self.images_seen and not self.once.exists():
            me = psutil.Process()
            siblings = me.parent().children()  # of this test's own Ray
            (other,) = [p for p in siblings if p != me and p.cmdline() == me.cmdline()]
            self.once.write_text(str(other.pid))
            os.kill(other.pid, signal.SIGKILL)
        return False


@pytest.mark.usefixtures("_ray")
def test_a_killed_worker_comes_back_at_the_last_checkpoint(tmp_path: Path) -> None:
    with Workers(2) as two:
        undisturbed: Done = two.run(train, tiny(**TWO), tmp_path / "undisturbed")[0]
    diary = Diary(tmp_path / "diary")
    kill = KillTheOther(HALF + 2 * BATCH, tmp_path / "killed")
    trained = train_on_workers(tiny(**TWO), at(tmp_path / "run"), [diary], kill)

    assert kill.once.exists()
    assert (trained.images_seen, trained.checkpoint) == (END, undisturbed.trained.checkpoint)
    assert trained.notes == [f"resumed from {HALF} images"]
    lines = diary.lines()
    assert sum("lost" in line for line in lines) == 1
    expected = {r.images_seen: r.metrics["loss/total"] for r in undisturbed.reports}
    told = [line for line in lines if "images" in line]
    assert {line["images"] for line in told} == expected.keys()
    assert len(told) > len(expected)  # what came after the checkpoint was done again
    for line in told:
        assert line["losses"] == [expected[line["images"]]] * 2  # to the last bit
    (_, found), (_, reference) = state(tmp_path / "run"), state(tmp_path / "undisturbed")
    for kind in reference:
        assert distance(reference[kind], found[kind]) == 0


@pytest.mark.usefixtures("_ray")
def test_a_problem_of_the_workers_is_the_driver_s_and_not_retried(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "diary")
    absurd = tiny(**TWO, optimizer__lr=1e38, optimizer__warmup_images=0)
    with pytest.raises(DivergenceProblem, match=f"loss/total is nan after {2 * BATCH} images"):
        train_on_workers(absurd, at(tmp_path / "run"), [diary])
    assert [line.get("images") for line in diary.lines()] == [BATCH]
