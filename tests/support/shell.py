"""Run `whipray` as a user does, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WAIT_S = 1500  # a bound on a hang, not a target: machines differ by ten
TINY = (
    "training.report_every_images=320",
    "training.checkpoint_every_images=640",
    "training.validation_images=32",
    "model.base_channels=8",
    "model.norm_groups=4",
    "evaluation.images_per_class=2",
    "evaluation.bootstrap_resamples=20",
    "evaluation.features.epochs=2",
    "sampling.sampler.steps=2",
    "tracking.system_metrics=false",
)


class Shell:
    """Runs the command in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = ("RAY_", "MLFLOW_", "WHIPRAY_", "AWS_")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        self.environment |= {"WHIPRAY_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "whipray.platform.cli.main", *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        with self.start(*arguments, **environment) as process:
            out, err = process.communicate(timeout=WAIT_S)
        return process.returncode, out, err
