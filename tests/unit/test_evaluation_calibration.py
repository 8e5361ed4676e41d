"""Intervals hold the truth, and equal models are hardly called different, also with few images."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/calibration.py"


@pytest.fixture(scope="module")
def calibration() -> ModuleType:
    """The benchmark, of which two settings are repeated with fewer repetitions."""
    spec = importlib.util.spec_from_file_location("calibration", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["calibration"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("setting", "metrics", "outputs"),
    [
        ("10x2x20-normal", ["kid", "fid"], {"kid", "fid"}),
        (
            "10x10x20-gamma",
            ["precision_recall", "inception_score"],
            {"precision", "recall", "inception_score"},
        ),
    ],
)
def test_intervals_and_verdicts_are_calibrated(
    calibration: ModuleType, setting: str, metrics: list[str], outputs: set[str]
) -> None:
    found = calibration.measure(calibration.Setting.parse(setting), 200, metrics)
    assert found.keys() == outputs
    for output, counted in found.items():
        assert counted.covered >= 0.93, output  # of 400 intervals
        assert (counted.independent + counted.paired) / 2 <= 0.07, output  # of 200 pairs
