"""Checkpoints in a folder; the same on S3 servers that fail is tests/integration."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.checkpoints import fetch_latest_usable, make_checkpoint, save, save_averages
from support.training import tiny

from whipray.platform.runs.find_run import find_run
from whipray.platform.runs.run import Plan, finished_before
from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.errors import StorageProblem
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.mlflow_runs import Run
from whipray.trainers.averaging import MOMENTS
from whipray.trainers.checkpoint import read_tensors
from whipray.trainers.checkpoint_names import MANIFEST, checkpoint_name
from whipray.trainers.errors import CheckpointProblem


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(Storage(StorageConfig(uri=str(tmp_path / "run"))), keep=2)


def folder_of(store: CheckpointStore, images_seen: int) -> Path:
    return Path(store.storage.uri, checkpoint_name(images_seen))


def truncate(folder: Path) -> None:
    shard = folder / "shard-1.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])


def alter(folder: Path) -> None:
    shard = folder / "shard-1.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


def lose_a_file(folder: Path) -> None:
    (folder / "shard-1.safetensors").unlink()


def rename_in_manifest(folder: Path) -> None:
    manifest = folder / MANIFEST
    manifest.write_text(manifest.read_text().replace("shard-1.safetensors", "shard-9.safetensors"))


def flip_in_manifest(folder: Path) -> None:
    """One bit: 5 images of a class become 4."""
    manifest = folder / MANIFEST
    text = manifest.read_text()
    damaged = re.sub(r'("class_counts": \[\s*)5', r"\g<1>4", text)
    assert damaged != text
    manifest.write_text(damaged)


def point_outside(folder: Path) -> None:
    manifest = folder / MANIFEST
    manifest.write_text(manifest.read_text().replace("shard-1.safe", "../../shard-1.safe"))


def point_to_a_folder(folder: Path) -> None:
    manifest = folder / MANIFEST
    manifest.write_text(manifest.read_text().replace("shard-1.safetensors", ".."))


def read_elsewhere(folder: Path) -> None:
    """The files are where they were, but a tensor is said to be somewhere else."""
    found = json.loads((folder / MANIFEST).read_text())
    found["tensors"]["weights/layer1"] = "/etc/hostname"
    (folder / MANIFEST).write_text(json.dumps(found))


def cut_manifest(folder: Path) -> None:
    manifest = folder / MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:100] + b"\xff")


def test_what_ranks_saved_comes_back(store: CheckpointStore, tmp_path: Path) -> None:
    assert store.latest() is None
    assert fetch_latest_usable(store, tmp_path / "got") is None
    save(store, make_checkpoint(tmp_path, 800))
    name = save(store, make_checkpoint(tmp_path, 12_800))
    assert name == "images-000000012800"
    assert pickle.loads(pickle.dumps(store)).names() == [checkpoint_name(800), name]
    fetched = fetch_latest_usable(store, tmp_path / "got")
    assert fetched is not None
    assert (fetched.name, fetched.damaged) == (name, {})
    weights = read_tensors(tmp_path / "got", fetched.manifest, "weights")
    assert torch.equal(weights["layer1"], torch.full((64,), 12_801.0))


def test_without_its_manifest_a_checkpoint_is_invisible(
    store: CheckpointStore, tmp_path: Path
) -> None:
    save(store, make_checkpoint(tmp_path, 800))
    unfinished = make_checkpoint(tmp_path, 1600)
    store.put_shard(unfinished.name, unfinished / "shard-0.safetensors")
    with pytest.raises(CheckpointProblem, match=r"shard-1\.safetensors is missing"):
        store.commit(unfinished.name, unfinished / MANIFEST)
    truncate(unfinished)
    store.put_shard(unfinished.name, unfinished / "shard-1.safetensors")
    with pytest.raises(CheckpointProblem, match=r"shard-1\.safetensors has \d+ bytes"):
        store.commit(unfinished.name, unfinished / MANIFEST)
    assert store.latest() == checkpoint_name(800)
    with pytest.raises(CheckpointProblem, match=f"choose one of: {checkpoint_name(800)}"):
        store.fetch(unfinished.name, tmp_path / "got")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "has .* bytes, the manifest says"),
        (alter, "does not match the manifest"),
        (lose_a_file, "is missing"),
        (rename_in_manifest, "altered since it was written"),
        (flip_in_manifest, "altered since it was written"),
        (point_outside, "outside the checkpoint"),
        (point_to_a_folder, "outside the checkpoint"),
        (read_elsewhere, "outside the checkpoint"),
        (cut_manifest, "not a checkpoint manifest"),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    store: CheckpointStore, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    older = save(store, make_checkpoint(tmp_path, 800))
    newer = save(store, make_checkpoint(tmp_path, 1600))
    damage(folder_of(store, 1600))
    with pytest.raises(CheckpointProblem, match=said) as caught:
        store.fetch(newer, tmp_path / "got")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "got" / MANIFEST).exists()

    fetched = fetch_latest_usable(store, tmp_path / "got")
    assert fetched is not None
    assert fetched.name == older
    assert fetched.manifest.images_seen == 800
    assert list(fetched.damaged) == [newer]

    for name in fetched.damaged:  # and the run that resumes writes it again
        store.set_aside(name)
    assert store.latest() == older
    save(store, tmp_path / newer)
    assert store.fetch(newer, tmp_path / "got").images_seen == 1600


@pytest.mark.parametrize("file", ["shard-1.safetensors", MANIFEST])
def test_one_bad_read_does_not_set_a_good_checkpoint_aside(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Its first read is one bit off, as a network or a cut answer makes it."""
    for images_seen in (800, 1600):
        save(store, make_checkpoint(tmp_path, images_seen))
    get_file, reads = Storage.get_file, []

    def get_file_badly(self: Storage, name: str, local: Path) -> None:
        get_file(self, name, local)
        if name.endswith(file) and not reads:
            reads.append(name)
            content = bytearray(local.read_bytes())
            content[-1] ^= 1
            local.write_bytes(content)

    monkeypatch.setattr(Storage, "get_file", get_file_badly)
    fetched = fetch_latest_usable(store, tmp_path / "got")
    assert reads == [f"{checkpoint_name(1600)}/{file}"]
    assert fetched is not None
    assert (fetched.name, fetched.damaged) == (checkpoint_name(1600), {})


def test_a_damaged_file_is_named_where_it_is_in_the_store(
    store: CheckpointStore, tmp_path: Path
) -> None:
    name = save(store, make_checkpoint(tmp_path, 800))
    alter(folder_of(store, 800))
    with pytest.raises(CheckpointProblem) as caught:
        store.fetch(name, tmp_path / "got")
    assert caught.value.what.startswith(f"{store.storage.uri_of(name)}/shard-1.safetensors: ")


def test_when_all_are_damaged_it_does_not_start_from_nothing(
    store: CheckpointStore, tmp_path: Path
) -> None:
    for images_seen in (800, 1600):
        save(store, make_checkpoint(tmp_path, images_seen))
        alter(folder_of(store, images_seen))
    with pytest.raises(
        CheckpointProblem, match=f"none of 2 checkpoints .*{checkpoint_name(1600)}: "
    ):
        fetch_latest_usable(store, tmp_path / "got")


def test_a_committed_checkpoint_is_never_rewritten(store: CheckpointStore, tmp_path: Path) -> None:
    save(store, make_checkpoint(tmp_path, 800))
    before = {path: path.stat().st_mtime_ns for path in folder_of(store, 800).iterdir()}
    again = make_checkpoint(tmp_path / "again", 800, numbers=3)  # of another size, to be seen
    save(store, again)
    assert {path: path.stat().st_mtime_ns for path in folder_of(store, 800).iterdir()} == before
    assert store.fetch(checkpoint_name(800), tmp_path / "got").images_seen == 800


def test_prune_keeps_the_last_and_the_unfinished_newest(
    store: CheckpointStore, tmp_path: Path
) -> None:
    for images_seen in (1, 2, 3, 4, 5):
        save(store, make_checkpoint(tmp_path, images_seen))
    for images_seen in (0, 6):
        shard = make_checkpoint(tmp_path, images_seen) / "shard-0.safetensors"
        store.put_shard(checkpoint_name(images_seen), shard)
    store.storage.write_text("notes/readme.txt", "not a checkpoint")
    assert store.prune() == [checkpoint_name(n) for n in (0, 1, 2, 3)]
    assert store.names() == [checkpoint_name(n) for n in (4, 5)]
    assert {path.split("/")[0] for path in store.storage.list()} == {
        *(checkpoint_name(n) for n in (4, 5, 6)),
        "notes",
    }
    assert store.prune() == []


def test_prune_takes_the_manifest_first(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prune that dies in the middle of a folder leaves no manifest over missing files."""
    for images_seen in (1, 2, 3):
        save(store, make_checkpoint(tmp_path, images_seen))
    delete = store.storage.delete

    def dies(prefix: str) -> None:
        if prefix == checkpoint_name(1):
            delete(f"{prefix}/shard-0.safetensors")
            raise KeyboardInterrupt
        delete(prefix)

    monkeypatch.setattr(store.storage, "delete", dies)
    with pytest.raises(KeyboardInterrupt):
        store.prune()
    assert store.names() == [checkpoint_name(2), checkpoint_name(3)]


def with_averages(folder: Path, images_seen: int) -> Path:
    made = make_checkpoint(folder, images_seen)
    save_averages(made, {w: torch.full((64,), images_seen + w) for w in (0.05, 0.1)})
    return made


def test_power_function_averages_outlast_their_checkpoints(
    store: CheckpointStore, tmp_path: Path
) -> None:
    names = []
    for images_seen in (1, 2, 3, 4, 5):
        names.append(save(store, with_averages(tmp_path / "made", images_seen)))
        store.prune()
    assert store.names() == names[-2:]
    assert {path.name for path in folder_of(store, 1).iterdir()} == {
        "averages.json",
        "averages-0.safetensors",
    }
    assert list(store.averages(names[-1])) == names
    kept = store.averages(names[2])
    assert list(kept) == names[:3]
    manifest = store.fetch_averages(names[0], kept[names[0]], tmp_path / "got")
    assert (manifest.images_seen, manifest.profiles) == (1, (0.05, 0.1))
    assert (
        read_tensors(tmp_path / "got", manifest, "ema_0.1")["layer0"].tolist()
        == [pytest.approx(1.1)] * 64
    )
    assert store.fetch(names[-1], tmp_path / "whole").profiles == (0.05, 0.1)
    with pytest.raises(CheckpointProblem, match=f"no finished checkpoint {names[0]}"):
        store.fetch(names[0], tmp_path / "got")


def test_a_prune_that_was_killed_is_finished_by_the_next(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The averages are described before the manifest goes, and what else there is goes last."""
    names = [save(store, with_averages(tmp_path, n)) for n in (1, 2, 3)]
    delete, done, allowed = store.storage.delete, [], [0]

    def dies(prefix: str) -> None:
        if len(done) == allowed[0]:
            raise KeyboardInterrupt
        done.append(prefix)
        delete(prefix)

    for attempt in range(3):
        done.clear()
        allowed[0] = min(attempt, 1)
        monkeypatch.setattr(store.storage, "delete", dies)
        with pytest.raises(KeyboardInterrupt):
            store.prune()
        assert list(store.averages(names[-1])) == names
        assert (names[0] in store.names()) == (attempt == 0)
    monkeypatch.setattr(store.storage, "delete", delete)
    store.prune()
    assert len(list(folder_of(store, 1).iterdir())) == 2


def test_averages_are_kept_at_so_many_moments(store: CheckpointStore, tmp_path: Path) -> None:
    for images_seen in range(1, 2 * MOMENTS):
        save(store, with_averages(tmp_path, images_seen))
        store.prune()
        shutil.rmtree(tmp_path / checkpoint_name(images_seen))
    kept = list(store.averages(checkpoint_name(2 * MOMENTS)))
    assert len(kept) == MOMENTS
    assert sorted({path.partition("/")[0] for path in store.storage.list()}) == kept


def test_damaged_averages_are_named_with_the_way_out(
    store: CheckpointStore, tmp_path: Path
) -> None:
    names = [save(store, with_averages(tmp_path, n)) for n in (1, 2, 3)]
    store.prune()
    folder = folder_of(store, 1)
    file = folder / "averages-0.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    described = store.averages(names[-1])[names[0]]
    with pytest.raises(CheckpointProblem, match="does not match the manifest") as caught:
        store.fetch_averages(names[0], described, tmp_path / "got")
    assert caught.value.fix.startswith(f"restore {store.storage.uri_of(names[0])} from a copy, or")
    damaged = (folder / "averages.json").read_text().replace('"images_seen": 1', '"images_seen": 7')
    (folder / "averages.json").write_text(damaged)
    with pytest.raises(CheckpointProblem, match=r"averages\.json: altered since it was written"):
        store.averages(names[-1])
    store.storage.delete(names[0])  # as the message says
    assert list(store.averages(names[-1])) == names[1:]


def test_a_disk_that_fills_up_keeps_the_checkpoint_before(small_disk: Path, tmp_path: Path) -> None:
    store = CheckpointStore(Storage(StorageConfig(uri=str(small_disk))))
    first = save(store, make_checkpoint(tmp_path, 800, numbers=80_000))  # 2 x 320 kB
    second = make_checkpoint(tmp_path, 1600, numbers=80_000)
    with pytest.raises(StorageProblem, match=r"the disk at \S+ is full \(\d+ KiB needed, "):
        save(store, second)
    assert store.latest() == first
    assert store.fetch(first, tmp_path / "got").images_seen == 800
    assert os.statvfs(small_disk).f_bavail > 0  # the half that was written is gone
    shutil.rmtree(small_disk / "checkpoints" / first)
    save(store, second)
    assert store.fetch(second.name, tmp_path / "got").images_seen == 1600


@pytest.fixture
def trained(tmp_path: Path) -> Plan:
    """A run that was trained to its end, with two checkpoints."""
    experiment = tiny(training__images=1600)
    plan = Plan(experiment, Storage(StorageConfig(uri=str(tmp_path))).child("runs/r"), Run("", ""))
    store = CheckpointStore(plan.store)
    config = experiment.model_dump(mode="json")
    for images_seen in (800, 1600):
        save(store, make_checkpoint(tmp_path / "local", images_seen, config=config))
    return plan


def test_a_finished_run_with_a_rotten_last_checkpoint_is_trained_again(
    trained: Plan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = finished_before(trained)
    assert done is not None
    assert done.images_seen == 1600
    assert caplog.messages == []
    folder = folder_of(CheckpointStore(trained.store), 1600)
    alter(folder)  # the same size
    assert finished_before(trained) is None
    assert caplog.messages == [
        f"{folder}/shard-1.safetensors: its content does not match the manifest; reading it again"
    ]
    with pytest.raises(CheckpointProblem, match=f"^{folder}/shard-1") as caught:
        CheckpointStore(trained.store).fetch(folder.name, tmp_path / "copy")
    assert "whipray train` again" in caught.value.fix


def test_a_run_that_is_not_whole_is_used_with_a_word(
    trained: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    root = trained.store.root
    assert find_run(root, "r").checkpoint == checkpoint_name(1600)
    assert caplog.messages == []
    (folder_of(CheckpointStore(trained.store), 1600) / MANIFEST).unlink()
    assert find_run(root, "r").checkpoint == checkpoint_name(800)
    (said,) = caplog.messages
    assert said.startswith("r: its last checkpoint is of 800 of 1,600 images; ")
    assert said.endswith("images-000000001600 is unfinished or lost its manifest.json")


def test_a_run_of_a_newer_version_is_refused_in_one_line(trained: Plan, tmp_path: Path) -> None:
    config = trained.experiment.model_dump(mode="json")
    config["model"]["rotary"] = True
    store = CheckpointStore(trained.store)
    save(store, make_checkpoint(tmp_path / "newer", 2400, config=config))
    with pytest.raises(CheckpointProblem) as caught:
        find_run(trained.store.root, "r")
    assert caught.value.what.startswith(f"{trained.store.uri}: made by another version of whipray:")
    assert "model.rotary" in caught.value.what
    assert "newer" in caught.value.fix
