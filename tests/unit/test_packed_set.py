"""A packed set gives the splits that it was packed from, whole or not at all, and is fetched once a machine."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.packing import write_set
from support.servers import Moto

from whipray.trainers.data import Digits, PackedImages, Splits
from whipray.trainers.data.decoding import UNREAD
from whipray.trainers.data.files import LocalFiles
from whipray.trainers.data.locations import open_files
from whipray.trainers.data.packed_config import Packed
from whipray.trainers.data.packed_set import local_copy, open_packed_set, opening, shard_rows
from whipray.trainers.data.packed_set.rows import SetRows
from whipray.trainers.errors import DataProblem

ROWS_OF_SHARD = 100


@pytest.fixture(scope="module")
def digits() -> Splits:
    return Digits().load(Path("unused"))


@pytest.fixture
def packed(digits, tmp_path) -> Path:
    write_set(digits, tmp_path / "set", ROWS_OF_SHARD)
    return tmp_path / "set"


def same(images: PackedImages, expected: PackedImages) -> None:
    assert (images.images[:] == expected.images[:]).all()
    assert (images.labels == expected.labels).all()
    assert images.class_names == expected.class_names
    assert images.fingerprint() == expected.fingerprint()


def copy_of(cache: Path) -> Path:
    (folder,) = (cache / "sets").iterdir()
    return folder


def shards_of(folder: Path) -> list[Path]:
    """Return the shards' files in the order of their rows."""
    described = json.loads((folder / "packed.json").read_text())
    return [folder / shard["file"] for shard in described["shards"]]


def fetched_whole(splits: Splits) -> None:
    """Wait until the copy on this machine is whole, or its fetching has failed."""
    rows = splits.train.images
    if isinstance(rows, SetRows):
        assert rows.reader.copy is not None
        rows.reader.copy.wait_for(np.arange(rows.reader.description.rows))
        rows.reader.copy.check()


def test_a_set_gives_the_splits_that_it_was_packed_from(digits, packed, tmp_path) -> None:
    for _ in range(2):  # fetched, then mapped
        splits = Packed(path=packed).load(tmp_path / "cache")
        same(splits.train, digits.train)
        same(splits.reference, digits.reference)
        assert splits.available == digits.available
        assert splits.train_name is not None
        assert splits.train_name(3) == "image 3"
        fetched_whole(splits)
    assert isinstance(splits.train.images, np.ndarray)
    assert not splits.train.images.flags.writeable
    recomputed = PackedImages(splits.train.images, splits.train.labels, splits.train.class_names)
    assert recomputed.fingerprint() == digits.train.fingerprint()
    assert Packed(path=packed).image_shape == digits.train.image_shape


def test_rows_are_read_as_of_an_array(digits, packed, tmp_path, monkeypatch) -> None:
    """Also from a disk that has no room for them, where each is asked for by itself."""
    monkeypatch.setattr(opening, "KEPT_FREE_BYTES", 1 << 60)
    images = open_packed_set(open_files(packed), tmp_path / "cache").train.images
    assert isinstance(images, SetRows)
    array = digits.train.images
    assert images.shape == array.shape
    mask = digits.train.labels == 3
    for key in (0, -1, slice(None), slice(95, 305), slice(None, None, 7), [5, 250, 5, -2], mask):
        assert (images[key] == array[key]).all()
    out = np.empty((3, *array.shape[1:]), np.uint8)
    assert images.gather(np.array([300, 2, 1]), out) is out
    assert (out == array[[300, 2, 1]]).all()
    assert (np.asarray(images) == array).all()
    with pytest.raises(IndexError):
        images[[len(array)]]
    rows = copy_of(tmp_path / "cache") / "rows.bin"
    assert rows.stat().st_blocks == 0


def test_without_reading_it_is_described(digits, packed) -> None:
    splits = open_packed_set(open_files(packed), UNREAD)
    assert (splits.train.labels == digits.train.labels).all()
    assert splits.train.fingerprint() == digits.train.fingerprint()


@pytest.mark.parametrize("file", ["packed.json", "index.safetensors"])
def test_a_set_that_is_not_whole_is_refused(file, packed, tmp_path) -> None:
    (packed / file).unlink()
    with pytest.raises(DataProblem, match=file):
        open_packed_set(open_files(packed), tmp_path / "cache")


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_shard_is_named_and_never_used(damage, packed, tmp_path) -> None:
    shard = shards_of(packed)[3]
    content = bytearray(shard.read_bytes())
    content[77] ^= 1
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(content if damage == "flipped" else content[:-1])
    with pytest.raises(DataProblem, match=f"{shard.name}: (damaged|missing)") as caught:
        fetched_whole(open_packed_set(open_files(packed), tmp_path / "cache"))
    assert "pack the set again" in caught.value.fix
    assert (copy_of(tmp_path / "cache") / "written").read_bytes()[3] == 0


def test_a_row_that_is_asked_for_by_itself_is_checked(packed, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(opening, "KEPT_FREE_BYTES", 1 << 60)
    shard = shards_of(packed)[2]
    content = bytearray(shard.read_bytes())
    content[64 * 5] ^= 1
    shard.write_bytes(content)
    images = open_packed_set(open_files(packed), tmp_path / "cache").train.images
    assert images[204].shape == (1, 8, 8)
    with pytest.raises(DataProblem, match=f"{shard.name}: damaged"):
        images[205]


def test_what_was_damaged_on_its_way_is_fetched_again(
    digits, packed, tmp_path, monkeypatch
) -> None:
    read, bad = LocalFiles.read, []

    def damaging(self: LocalFiles, name: str, start: int = 0, length: int | None = None) -> bytes:
        content = read(self, name, start, length)
        if name.startswith("shards/") and name not in bad:
            bad.append(name)
            return content[:-1] + bytes([content[-1] ^ 1])
        return content

    monkeypatch.setattr(LocalFiles, "read", damaging)
    splits = open_packed_set(open_files(packed), tmp_path / "cache")
    fetched_whole(splits)
    same(splits.train, digits.train)
    assert len(bad) == len(shards_of(packed))


def test_after_a_restart_of_the_machine_the_copy_is_checked(
    digits, packed, tmp_path, monkeypatch, caplog
) -> None:
    cache = tmp_path / "cache"
    fetched_whole(open_packed_set(open_files(packed), cache))
    boot = tmp_path / "boot"
    boot.write_text("another start")
    monkeypatch.setattr("whipray.trainers.data.row_store.BOOT_ID", boot)
    monkeypatch.setattr("whipray.trainers.data.row_store._opened", {})  # as another process
    rows = copy_of(cache) / "rows.bin"
    before = rows.stat()
    with rows.open("r+b") as stream:
        stream.seek(ROWS_OF_SHARD * 64 * 2 + 5)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 4]))
    os.utime(rows, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if the disk had done it
    reads = []
    read = local_copy.read_shard
    monkeypatch.setattr(
        local_copy, "read_shard", lambda *args: (reads.append(args[1].file), read(*args))[1]
    )
    splits = open_packed_set(open_files(packed), cache)
    fetched_whole(splits)
    same(splits.train, digits.train)
    assert reads == [f"shards/{shards_of(packed)[2].name}"]
    assert "fetching it again" in caplog.text


FETCH = """
import hashlib, sys, time
from pathlib import Path
import numpy as np
from whipray.trainers.data.files import LocalFiles
from whipray.trainers.data.locations import open_files
from whipray.trainers.data.packed_set import local_copy, open_packed_set

folder, cache, log, pause = sys.argv[1:]
read = local_copy.read_shard
def slow(files, shard, start, length):
    with open(log, "a") as lines:
        lines.write(shard.file + "\\n")
    time.sleep(float(pause))
    return read(files, shard, start, length)
local_copy.read_shard = slow
splits = open_packed_set(open_files(folder), Path(cache))
if not isinstance(splits.train.images, np.ndarray):  # else the other process has fetched it all
    copy = splits.train.images.reader.copy
    copy.wait_for(np.arange(copy.description.rows))
    copy.check()
print(hashlib.sha256(splits.train.images[:].tobytes()).hexdigest())
"""


def fetcher(packed: Path, tmp_path: Path, log: str, pause: float) -> subprocess.Popen[str]:
    arguments = [str(packed), str(tmp_path / "cache"), str(tmp_path / log), str(pause)]
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, *arguments], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_fetch_each_shard_once(digits, packed, tmp_path) -> None:
    both = [fetcher(packed, tmp_path, "log", 0.02) for _ in range(2)]
    expected = hashlib.sha256(digits.train.images.tobytes()).hexdigest()
    assert [process.communicate()[0].strip() for process in both] == [expected] * 2
    fetched = (tmp_path / "log").read_text().split()
    assert sorted(fetched) == sorted(f"shards/{shard.name}" for shard in shards_of(packed))


def test_a_killed_fetcher_leaves_its_shards_to_the_next(packed, tmp_path) -> None:
    killed = fetcher(packed, tmp_path, "first", 0.3)
    while not (tmp_path / "first").exists() or len(marked(tmp_path)) < 4:
        assert killed.poll() is None
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    done = marked(tmp_path)
    assert 0 < len(done) < len(shards_of(packed))
    process = fetcher(packed, tmp_path, "second", 0)
    assert process.communicate()[0]
    again = (tmp_path / "second").read_text().split()
    assert len(again) == len(shards_of(packed)) - len(done)


def marked(tmp_path: Path) -> list[int]:
    """Return the shards that are marked as there."""
    maps = list((tmp_path / "cache").glob("sets/*/written"))
    states = maps[0].read_bytes()[: len(shards_of(tmp_path / "set"))] if maps else b""
    return [piece for piece, state in enumerate(states) if state == 1]


@pytest.fixture(scope="module")
def moto(tmp_path_factory) -> Iterator[Moto]:
    server = Moto(tmp_path_factory.mktemp("moto"))
    server.start()
    server.make_bucket("images")
    yield server
    server.kill()


@pytest.mark.slow
def test_a_set_in_a_bucket(digits, moto, tmp_path, monkeypatch) -> None:
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint)
    write_set(digits, "s3://images/digits", ROWS_OF_SHARD)
    config = Packed(path="s3://images/digits")
    splits = config.load(tmp_path / "cache")
    first = splits.train.gather(np.array([300, 3, 150]))  # before its shards are there
    assert (first == digits.train.images[[300, 3, 150]]).all()
    fetched_whole(splits)
    same(splits.train, digits.train)
    monkeypatch.setattr(opening, "KEPT_FREE_BYTES", 1 << 60)
    same(config.load(tmp_path / "small").reference, digits.reference)


def test_a_shard_is_of_some_hundred_megabytes_at_most() -> None:
    assert shard_rows((3, 64, 64)) * 3 * 64 * 64 <= 128 << 20
    assert shard_rows((3, 10**4, 10**4)) == 1
