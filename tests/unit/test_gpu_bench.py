"""The driver of the GPU benchmark and what it makes of a profile; `gpu.py --toy` runs all of it."""

from __future__ import annotations

import importlib
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import psutil
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`gpu.py`; `gpu` alone would be the folder of tests."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = spec_from_file_location("gpu_bench", BENCHMARKS / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_bench", module)  # where dataclasses look
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules the driver runs as parts."""
    folder = tmp_path / "gpu_parts"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return folder


def ended(pid: int) -> bool:
    """Whether a process is gone or only waits to be collected, within some seconds."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_a_part_that_runs_over_is_ended_with_what_it_started(
    driver: ModuleType, parts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (parts / "slow.py").write_text(
        "import subprocess, time\n"
        "from gpu_parts.rows import Row, say\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "print('talk')\n"
        "say(Row('slow', 'child', {'pid': child.pid}))\n"
        "time.sleep(600)\n"
    )
    start = time.monotonic()
    told, stopped = driver.run(driver.Part("slow", "slow", 2), 2.0, [])
    assert time.monotonic() - start < 30
    assert told.what == "child"
    assert (stopped.what, stopped.met) == ("stopped", None)
    assert "child" in capfd.readouterr().out  # at once, not at the end
    assert ended(int(told.numbers["pid"]))


def test_a_part_that_fails_is_a_row(
    driver: ModuleType, parts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (parts / "broken.py").write_text("raise SystemExit(7)")
    (failed,) = driver.run(driver.Part("broken", "broken", 60), 60.0, [])
    assert (failed.what, failed.note, failed.met) == ("failed", "exit code 7", False)
    capfd.readouterr()


def test_rows_are_read_as_they_were_said(
    driver: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = importlib.import_module("gpu_parts.rows")
    row = rows.Row("a", "b | c", {"images/s": 12345.6, "% MFU": 0.1234}, "note", True)
    rows.say(row)
    assert rows.read(capfd.readouterr().out) == row
    assert rows.read("anything else") is None
    assert driver.table([row]).splitlines()[-1] == (
        "| a | b / c | 12,346 images/s, 0.123 % MFU, note | yes |"
    )


def test_gaps_between_kernels_on_all_streams(driver: ModuleType) -> None:  # noqa: ARG001
    gaps = importlib.import_module("gpu_parts.gaps")
    kernels = [
        gaps.Span("a", 0, 10),
        gaps.Span("b", 5, 20),  # on another stream
        gaps.Span("c", 26, 30),
        gaps.Span("d", 12, 18),  # within b
        gaps.Span("e", 32, 40),
    ]
    busy, found = gaps.find_gaps(kernels, [gaps.Span("backward", 25, 31)])
    assert busy == pytest.approx((20 + 4 + 8) / 40)
    assert found == [gaps.Gap(6, "b", "c", "backward"), gaps.Gap(2, "c", "e", "between")]
    assert gaps.longest_kernels(kernels)[0] == ("b", pytest.approx(15 / 43))
