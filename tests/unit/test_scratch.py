"""Temporary folders, also those of processes that could not clean up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from whipray.trainers.scratch import UNLOCKED_GRACE_S, Scratch, clear, shared_scratch

HOLD = """
from pathlib import Path
from whipray.trainers.scratch import Scratch
held = Scratch()
(Path(held.name) / "shard").write_bytes(b"0")
print(held.name, flush=True)
input()
"""


def age(folder: Path) -> None:
    then = time.time() - 2 * UNLOCKED_GRACE_S
    os.utime(folder, (then, then))


def test_what_a_killed_process_left_goes_and_what_is_held_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = [sys.executable, "-c", HOLD]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as killed,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as living,
    ):
        assert killed.stdout is not None
        assert living.stdout is not None
        left, held = (Path(p.stdout.readline().strip()) for p in (killed, living))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        other = tmp_path / "whipray-12"  # not ours to judge
        other.mkdir()
        clear(tmp_path)
        assert left.exists()  # it might have been made this moment
        for folder in (left, held, other):
            age(folder)
        with Scratch() as mine:  # the first one of a process clears
            assert not left.exists()
            assert {path.name for path in tmp_path.iterdir()} == {
                Path(mine).name,
                held.name,
                other.name,
            }
        living.communicate("\n")
    assert list(tmp_path.iterdir()) == [other]


def test_it_can_be_cleaned_up_twice() -> None:
    with Scratch() as folder:
        pass
    assert not Path(folder).exists()
    again = Scratch()
    again.cleanup()
    again.cleanup()


JOIN = """
from whipray.trainers.scratch import shared_scratch
with shared_scratch("key") as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    input()
"""


def test_a_shared_one_goes_with_its_last_user_even_if_others_were_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", JOIN]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        folder = Path(other.stdout.readline().strip())
        with shared_scratch("key") as same, shared_scratch("another") as another:
            assert (same, another) == (folder, tmp_path / another.name)
            assert another != folder
            age(folder)
            clear(tmp_path)
            assert (same / "file").exists()
        assert list(tmp_path.iterdir()) == [folder]  # the other one is in it
        with shared_scratch("key") as same:
            other.send_signal(signal.SIGKILL)
            other.wait()
        assert list(tmp_path.iterdir()) == []
    folder.mkdir()  # as it is left where all were killed
    age(folder)
    clear(tmp_path)
    assert list(tmp_path.iterdir()) == []
