"""Commands that are asked to stop: SIGTERM, and a terminal that is closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
import yaml
from support.marks import MLFLOW_WARNINGS
from support.shell import TINY, WAIT_S, Shell
from support.tracking import metrics, statuses

pytestmark = [
    pytest.mark.slow,
    pytest.mark.faults,
    *MLFLOW_WARNINGS,
]

SPACE = {
    "description": "tau",
    "train": {"objective.tau": {"type": "float", "low": 0.1, "high": 5.0, "log": True}},
    "base": {"objective": {"name": "cbdm"}},
    "baselines": [
        {"name": "alone", "set": {"objective.name": "ddpm"}},
        {"name": "pair", "set": {"objective.name": "ddpm", "scaling.workers": 2}},
    ],
}


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, shell: Shell, *arguments: str) -> None:
        self._end, inner = os.openpty()
        self.process = subprocess.Popen(
            ["setsid", "-c", sys.executable, "-m", "whipray.platform.cli.main", *arguments],
            cwd=shell.folder,
            env=shell.environment,
            stdin=inner,
            stdout=inner,
            stderr=inner,
        )
        os.close(inner)
        os.set_blocking(self._end, False)

    def read(self) -> bytes:
        """Return what was written since: a terminal that nobody reads holds its writers up."""
        try:
            return os.read(self._end, 1 << 20)
        except OSError:  # nothing yet, or nobody any more
            return b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:  # the test has failed
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self, by: str) -> int:
        """Ask the command to stop, and return its exit code."""
        if by == "SIGTERM":
            self.process.terminate()
            self.wait_until(lambda: self.process.poll() is not None)
        else:  # the kernel sends SIGHUP to every process that was started from it
            os.close(self._end)
        return self.process.wait(WAIT_S)

    def wait_until(self, condition: Callable[[], object], running: bool = False) -> None:
        """Wait for a condition; fail if the command ends before it though it has to be running."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            shown = self.read()
            assert not running or self.process.poll() is None, shown
            assert time.monotonic() < deadline, shown
            time.sleep(0.1)


@pytest.mark.parametrize("by", ["SIGTERM", "closed terminal"])
def test_a_run_that_evaluates_is_marked_and_goes_on_later(by: str, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    slow = (
        "sampling.sampler.steps=50",
        "evaluation.images_per_class=100",
        "evaluation.shard_images=10",
    )
    settings = (*TINY, "training.images=640", *slow)
    with Terminal(shell, *["train", "digits-demo", "--run", "r"], *settings) as terminal:
        samples = (tmp_path / "whipray-runs/runs/r/samples").rglob
        terminal.wait_until(lambda: list(samples("*.images.safetensors")), running=True)
        assert terminal.stop(by) == 130
    assert statuses(tmp_path) == {"run/r": "KILLED"}

    fast = ("evaluation.images_per_class=2", "sampling.sampler.steps=2")
    code, _, err = shell.run(*["train", "digits-demo", "--run", "r"], *settings, *fast)
    assert code == 0, err
    assert statuses(tmp_path) == {"run/r": "FINISHED"}


@pytest.mark.parametrize("by", ["SIGTERM", "closed terminal"])
def test_a_sweep_saves_its_training_and_marks_every_run(by: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    shell = Shell(tmp_path)
    command = "sweep space.yaml --recipe digits-demo --name s --trials 1 tuning.concurrent=2"
    images = 640_000
    endless = (f"training.images={images}", f"training.checkpoint_every_images={images}")
    with Terminal(shell, *command.split(), *TINY, *endless) as terminal:
        terminal.wait_until((tmp_path / "whipray-runs/sweeps/s/sweep.json").exists, running=True)
        terminal.wait_until(lambda: "loss/total" in metrics(tmp_path, "sweep/s/0"), running=True)
        assert terminal.stop(by) == 130
    assert statuses(tmp_path) == dict.fromkeys(["sweep/s", "sweep/s/0"], "KILLED")
    saved = tmp_path / "whipray-runs/sweeps/s/trials/0000/checkpoints"
    assert list(saved.glob("*/manifest.json")), "no checkpoint was due but at the stop"
