"""Disks that are full or cannot be written: one line that names the folder and what to set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from whipray.trainers.disk import (
    DiskProblem,
    cache_folder,
    check_cache,
    save_tensors,
    unexpected_disk_problem,
)
from whipray.trainers.integrity import save_arrays


def test_tensors_and_arrays_that_do_not_fit_say_where_and_how_much(small_disk: Path) -> None:
    size = r"the disk at \S+small-disk is full \(2\.0 MiB needed, "
    with pytest.raises(DiskProblem, match=f"small-disk/file: {size}"):
        save_tensors({"a": torch.zeros(1 << 19)}, small_disk / "file")
    with pytest.raises(DiskProblem, match=f"small-disk/file: {size}"):
        save_arrays({"a": np.zeros(1 << 19, np.float32)}, small_disk / "file")


@pytest.mark.parametrize("name", ["WHIPRAY_CACHE", "TMPDIR"])
def test_what_decides_the_folder_is_named(
    small_disk: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHIPRAY_CACHE", "/elsewhere")
    monkeypatch.setenv(name, str(small_disk))
    monkeypatch.setattr("tempfile.tempdir", None)  # which Python keeps once it is known
    with pytest.raises(DiskProblem, match=f"set {name} to another folder"):
        save_tensors({"a": torch.zeros(1 << 19)}, small_disk / "file")


def test_a_full_disk_is_no_defect_whoever_finds_it(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHIPRAY_CACHE", str(small_disk))
    with pytest.raises(OSError, match="No space left") as caught:
        (small_disk / "file").write_bytes(bytes(2 << 20))  # as of a library: it names no file
    of_a_library = RuntimeError()
    of_a_library.__cause__ = caught.value
    problem = unexpected_disk_problem(of_a_library)
    assert problem is not None
    assert problem.what.startswith(f"{small_disk}: the disk at {small_disk} is full (")
    assert "set WHIPRAY_CACHE" in problem.fix
    assert unexpected_disk_problem(RuntimeError()) is None


def test_a_home_that_cannot_be_written_costs_the_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("WHIPRAY_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    check_cache()
    assert cache_folder() == cache_folder()
    assert cache_folder().is_dir()
    (warning,) = caplog.messages
    assert "file/.cache/whipray: cannot be written (Not a directory)" in warning
    assert "set WHIPRAY_CACHE" in warning


def test_a_cache_that_was_asked_for_and_cannot_be_written_is_named_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path / "file"))
    with pytest.raises(DiskProblem, match=r"/file: cannot be written.*set WHIPRAY_CACHE"):
        check_cache()
