"""The checkpoint that the workers of a machine go on from, each a thread with locks of its own."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import make_checkpoint, save
from support.shell import WAIT_S
from support.training import at

from whipray.platform.runs.resume import VERIFIED, resume_point
from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.trainers.checkpoint import Manifest, verify
from whipray.trainers.errors import CheckpointProblem, Problem

WORKERS = 4


@dataclass
class Thread:
    """One worker of several threads."""

    rank: int
    values: list[Any]
    meeting: threading.Barrier
    size: int = WORKERS

    def all_gather(self, value: Any) -> list[Any]:
        self.values[self.rank] = value
        self.meeting.wait(WAIT_S)
        gathered = list(self.values)
        self.meeting.wait(WAIT_S)
        return gathered

    def begin_group(self) -> None:
        raise AssertionError("no process group is needed")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointStore:
    (tmp_path / "machine").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "machine"))
    store = CheckpointStore(at(tmp_path / "run"))
    for images_seen in (800, 1600):
        save(store, make_checkpoint(tmp_path, images_seen))
    return store


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the checkpoints that were downloaded."""
    names: list[str] = []
    fetch = CheckpointStore.fetch

    def counted(self: CheckpointStore, name: str, folder: Path) -> Manifest:
        names.append(name)
        return fetch(self, name, folder)

    monkeypatch.setattr(CheckpointStore, "fetch", counted)
    return names


def on_all(action: Callable[[Thread], Any]) -> list[Any]:
    """What each worker returned or raised."""
    values, meeting = [None] * WORKERS, threading.Barrier(WORKERS)

    def run(rank: int) -> Any:
        try:
            return action(Thread(rank, values, meeting))
        except Problem as problem:
            return problem

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(run, range(WORKERS)))


def resumed(store: CheckpointStore) -> Callable[[Thread], tuple[int, Path, list[str]]]:
    def enter(worker: Thread) -> tuple[int, Path, list[str]]:
        with resume_point(store, worker) as (point, notes):
            assert point is not None
            worker.all_gather(None)  # as when a training begins
            assert verify(point.folder) == point.manifest
            return point.manifest.images_seen, point.folder, notes

    return enter


def alter(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_a_machine_downloads_once_and_keeps_nothing(
    store: CheckpointStore, downloads: list[str]
) -> None:
    (one, *others) = on_all(resumed(store))
    assert one[0] == 1600
    assert others == [one] * (WORKERS - 1)  # the same folder
    assert downloads == ["images-000000001600"]
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_what_one_finds_damaged_all_pass_over_without_reading_it_again(
    store: CheckpointStore, downloads: list[str]
) -> None:
    newest = Path(store.storage.uri) / "images-000000001600"
    alter(newest / "shard-1.safetensors")  # of the right size, so only the download can tell
    (one, *others) = on_all(resumed(store))
    assert one[0] == 800
    assert others == [one] * (WORKERS - 1)
    assert one[2] == [
        f"skipped {newest.name}: {newest}/shard-1.safetensors: its content does not match the manifest"
    ]
    assert downloads == [newest.name, "images-000000000800"]
    assert store.names() == ["images-000000000800"]  # the other one can be written again
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_when_all_are_damaged_all_say_so(store: CheckpointStore) -> None:
    for folder in Path(store.storage.uri).iterdir():
        alter(folder / "shard-0.safetensors")
    for problem in on_all(resumed(store)):
        assert isinstance(problem, CheckpointProblem)
        assert problem.what.startswith("none of 2 checkpoints in ")
    assert len(store.names()) == 2
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_half_a_download_of_a_killed_process_is_not_taken_for_whole(
    store: CheckpointStore, downloads: list[str]
) -> None:
    whole: list[Path] = []

    def enter(worker: Thread) -> None:
        with resume_point(store, worker) as (point, _):
            assert point is not None
            whole.append(point.folder)

    on_all(enter)
    left = whole[0]
    left.mkdir(mode=0o700)
    (left / "shard-0.safetensors").write_bytes(b"half of a sha")
    (left / "manifest.json").write_text("{}")
    images_seen, folder, _ = on_all(resumed(store))[0]
    assert (images_seen, folder) == (1600, left)
    assert len(downloads) == 2
    left.mkdir(mode=0o700)
    for file in (Path(store.storage.uri) / "images-000000001600").iterdir():
        (left / file.name).write_bytes(file.read_bytes())
    (left / VERIFIED).touch()
    on_all(resumed(store))
    assert len(downloads) == 2  # what was whole is used
    assert not left.exists()


def test_a_run_without_a_checkpoint_begins(tmp_path: Path) -> None:
    def enter(worker: Thread) -> object:
        with resume_point(CheckpointStore(at(tmp_path / "new")), worker) as resume:
            return resume

    assert on_all(enter) == [(None, [])] * WORKERS
