"""Checkpoints go to the store while the training goes on."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from support.checkpoints import make_checkpoint
from support.shell import WAIT_S
from support.training import at

from whipray.platform.runs.hooks import StoreHooks
from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.trainers.checkpoint import Manifest, parse_manifest
from whipray.trainers.checkpoint_names import MANIFEST
from whipray.trainers.devices import join_workers
from whipray.trainers.errors import Problem
from whipray.trainers.hooks import Progress
from whipray.trainers.state_copy import WrittenShare

PROGRESS = Progress(320, 640, {"loss/total": 1.0})


class Slow(CheckpointStore):
    """A store that takes a shard once `go` is set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(at(folder))
        self.go = threading.Event()
        self.problem: Problem | None = None

    def put_shard(self, name: str, local: Path) -> None:
        assert self.go.wait(WAIT_S)
        if self.problem:
            raise self.problem
        super().put_shard(name, local)


@pytest.fixture
def store(tmp_path: Path) -> Slow:
    join_workers(torch.device("cpu"))
    return Slow(tmp_path / "run")


class Made:
    """A checkpoint that was made before, as one that a training has in memory."""

    def __init__(self, folder: Path, images_seen: int) -> None:
        self.folder = make_checkpoint(folder, images_seen)

    def write(self, folder: Path) -> WrittenShare:
        for file in self.folder.glob("shard-*"):
            shutil.copy(file, folder)
        return WrittenShare(self.manifest([]).files, {})

    def manifest(self, shares: Sequence[WrittenShare]) -> Manifest:
        assert len(shares) <= 1
        return parse_manifest((self.folder / MANIFEST).read_text(), "")


def hand_over(hooks: StoreHooks, folder: Path, images_seen: int) -> Made:
    """Hand a checkpoint to the hooks."""
    made = Made(folder, images_seen)
    hooks.checkpoint(made.folder.name, lambda: made)
    return made


def test_a_training_goes_on_while_its_checkpoint_is_uploaded(store: Slow, tmp_path: Path) -> None:
    reports = []
    hooks = StoreHooks(store, lambda progress: bool(reports.append(progress)))
    hand_over(hooks, tmp_path, 320)
    hooks.report(PROGRESS)
    hooks.report(PROGRESS)
    assert len(reports) == 2
    assert store.latest() is None

    store.go.set()
    deadline = time.monotonic() + WAIT_S
    while store.latest() is None and time.monotonic() < deadline:
        hooks.report(PROGRESS)  # nothing but reports is needed
    assert store.latest() == "images-000000000320"
    store.fetch(store.latest(), tmp_path / "got")  # whole

    hand_over(hooks, tmp_path, 640)
    hand_over(hooks, tmp_path, 960)
    hooks.wait_for_uploads()
    assert store.names() == ["images-000000000640", "images-000000000960"]


def test_a_checkpoint_counts_once_the_reports_before_it_are_written(
    store: Slow, tmp_path: Path
) -> None:
    known = threading.Event()

    def settle() -> None:
        assert known.wait(WAIT_S)

    hooks = StoreHooks(store, lambda _progress: False, flush_metrics=settle)
    store.go.set()
    hand_over(hooks, tmp_path, 320)
    for _ in range(3):
        hooks.report(PROGRESS)
        time.sleep(0.1)  # far longer than it takes to write a manifest
    assert store.latest() is None
    known.set()
    hooks.wait_for_uploads()
    assert store.latest() == "images-000000000320"


def test_a_problem_of_the_store_is_raised_once(store: Slow, tmp_path: Path) -> None:
    hooks = StoreHooks(store, lambda _progress: False)
    store.problem = Problem("the disk is full", "make room")
    hand_over(hooks, tmp_path, 320)
    store.go.set()
    with pytest.raises(Problem, match="the disk is full"):
        hooks.wait_for_uploads()
    hooks.wait_for_uploads()
    assert store.latest() is None


def test_a_checkpoint_is_worth_more_than_the_reports_before_it(store: Slow, tmp_path: Path) -> None:
    def refused() -> None:
        raise Problem("MLflow refuses", "ask its owner")

    hooks = StoreHooks(store, lambda _progress: False, flush_metrics=refused)
    store.go.set()
    hand_over(hooks, tmp_path, 320)
    with pytest.raises(Problem, match="MLflow refuses"):
        hooks.wait_for_uploads()
    assert store.latest() == "images-000000000320"
