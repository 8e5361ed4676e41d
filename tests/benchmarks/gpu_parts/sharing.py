"""Several trainings on one card at once, as a sweep with `scaling.gpus_per_worker=0.25` has them.

Each is a process of its own with its part of the card's memory, first taking turns, then under NVIDIA's
multi-process service where it can be started.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from .setting import Setting, parse
from .trial import SHARE

COUNTS = (1, 2, 4)
SECONDS = 4.0
LEAST_S = 25.0
"""What one count may take; with less time left it is not begun."""
CONTROL = "nvidia-cuda-mps-control"


def images_per_second(setting: Setting, count: int, environment: dict[str, str]) -> list[float]:
    """The speed of each of `count` trainings that run at once."""
    command = [sys.executable, "-m", "gpu_parts.trial", *["--toy"] * setting.toy]
    if setting.images is not None:
        command += ["--images", str(setting.images)]
    trials = [
        subprocess.Popen(
            command,
            env=os.environ | environment | {SHARE: str(1 / count)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        for trial in trials:
            _say(trial, "ready")
        for trial in trials:
            assert trial.stdin is not None
            print(0.0 if setting.toy else SECONDS, file=trial.stdin, flush=True)
        return [float(_say(trial)) for trial in trials]
    finally:
        for trial in trials:
            trial.kill()
            trial.wait()


def _say(trial: subprocess.Popen[str], expected: str | None = None) -> str:
    """The next line of a training; others may come before the expected one."""
    assert trial.stdout is not None
    for line in trial.stdout:
        if expected is None or line.strip() == expected:
            return line
    raise RuntimeError(f"a training ended with exit code {trial.wait()}")


@contextmanager
def multi_process_service(setting: Setting) -> Iterator[dict[str, str] | None]:
    """The environment of NVIDIA's service within this context; None where it cannot be started."""
    with TemporaryDirectory() as folder:
        place = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        environment = os.environ | place
        try:
            subprocess.run([CONTROL, "-d"], env=environment, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            setting.say("multi-process service", {}, f"cannot be started: {str(error)[:100]}")
            yield None
            return
        try:
            yield place
        finally:
            subprocess.run([CONTROL], env=environment, input="quit\n", text=True, check=False)
            Path(folder).mkdir(exist_ok=True)  # the service may have removed it


def measure(setting: Setting, how: str, environment: dict[str, str], alone: float) -> float:
    """Say a row for each count, and return the speed of one training alone."""
    for count in COUNTS[:2] if setting.toy else COUNTS:
        if not setting.toy and setting.left() < LEAST_S:
            setting.say(f"{count} trainings, {how}", {}, "not reached in the time given")
            continue
        try:
            found = images_per_second(setting, count, environment)
        except RuntimeError as error:
            setting.say(f"{count} trainings, {how}", {}, str(error), False)
            continue
        alone = alone or found[0]
        numbers = {"images/s together": sum(found), "x one alone": sum(found) / alone}
        setting.say(f"{count} trainings, {how}", {**numbers, "slowest": min(found)})
    return alone


def main(setting: Setting) -> None:
    alone = measure(setting, "taking turns", {}, 0.0)
    with multi_process_service(setting) as environment:
        if environment is not None:
            measure(setting, "multi-process service", environment, alone)


if __name__ == "__main__":
    main(parse("sharing"))
