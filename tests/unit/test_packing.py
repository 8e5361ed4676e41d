"""A packed set has exactly the images of its source, is made once, and is found again by the runs that use it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter
from support.servers import Server

from whipray.platform.datasets import load, pack_workers, packing
from whipray.platform.datasets.load import load_images
from whipray.platform.datasets.packing import Packed, find_whole, pack
from whipray.platform.datasets.source_state import source_state
from whipray.platform.housekeeping.garbage import AGE_S, find_garbage
from whipray.platform.housekeeping.inventory import Inventory
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.trainers.data import DataConfig, Digits, Splits
from whipray.trainers.data.locations import open_files
from whipray.trainers.data.packed_set import open_packed_set
from whipray.trainers.disk import DiskProblem
from whipray.trainers.errors import DataProblem, UsageProblem

STORE = StorageConfig(uri="./runs")


def write_images(folder: Path, counts: tuple[int, ...] = (40, 20, 5), first: int = 0) -> None:
    """Write a folder of class folders; one image is in it twice."""
    for c, count in enumerate(counts):
        (folder / f"class{c}").mkdir(parents=True, exist_ok=True)
        for i in range(first, count):
            pixels = np.random.default_rng(100 * c + i).integers(0, 256, (10, 12, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"class{c}" / f"{i:03d}.png")
    shutil.copy(folder / "class0" / "000.png", folder / "class0" / "copy.png")


def data_at(root: Path | str, **settings: Any) -> DataConfig:
    section = {"source": "folder", "root": root, "image_size": 8} | settings
    config: DataConfig = TypeAdapter[DataConfig](DataConfig).validate_python(section)
    return config


def pack_into(data: DataConfig, folder: Path | str, cache: Path) -> Packed:
    return pack(data, open_files(folder), cache, STORE)


def assert_same(ours: Splits, theirs: Splits) -> None:
    for mine, its in ((ours.train, theirs.train), (ours.reference, theirs.reference)):
        np.testing.assert_array_equal(mine.images[:], its.images[:])
        np.testing.assert_array_equal(mine.labels, its.labels)
        assert mine.fingerprint() == its.fingerprint()
        assert mine.class_names == its.class_names
    assert ours.report == theirs.report
    assert (ours.available, ours.borrowed) == (theirs.available, theirs.borrowed)
    assert (ours.hold_out, ours.validation) == (theirs.hold_out, theirs.validation)
    assert ours.train_name is not None
    assert theirs.train_name is not None
    last = len(ours.train.labels) - 1
    assert ours.train_name(last) == theirs.train_name(last)


@pytest.mark.parametrize(
    "settings",
    [
        {},  # the class of five lends its images to be compared with
        {"validation": {"share": 0.3}},
        {"long_tail": {"kind": "none"}, "channels": 1},
    ],
)
def test_a_packed_set_is_its_source(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "LEAST_ROWS", 16)
    monkeypatch.setattr(packing, "SHARDS_AT_LEAST", 4)
    write_images(tmp_path / "images")
    data = data_at(tmp_path / "images", **settings)
    packed = pack_into(data, tmp_path / "set", tmp_path / "cache")
    assert packed.made == len(packed.description.shards) > 3
    opened = open_packed_set(open_files(tmp_path / "set"), tmp_path / "other cache")
    assert_same(opened, data.load(tmp_path / "cache"))
    assert opened.report.count("repeated") == 1

    again = pack_into(data, tmp_path / "set", tmp_path / "cache")
    assert (again.made, again.found) == (0, 0)
    same = data_at(tmp_path / "images/../images", **settings)
    assert source_state(same, None) == source_state(data, None)
    assert again.description.as_json() == packed.description.as_json()
    (tmp_path / "images/class1/more.png").write_bytes(
        (tmp_path / "images/class0/001.png").read_bytes()
    )
    with pytest.raises(DataProblem, match="a packed set of other images, or of these as they were"):
        pack_into(data, tmp_path / "set", tmp_path / "cache")


def test_what_a_kill_leaves_is_found_again(tmp_path: Path) -> None:
    write_images(tmp_path / "images", (900, 900))
    data = data_at(tmp_path / "images")
    command = (sys.executable, "-m", "whipray.platform.cli.main", "data", "pack", "--image-size=8")
    run = subprocess.Popen(
        [*command, tmp_path / "images", tmp_path / "set"],
        env=os.environ | {"WHIPRAY_CACHE": str(tmp_path / "cache")},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    parts = tmp_path / "set/parts"
    while not (parts.is_dir() and any(parts.glob("*.safetensors"))):
        assert run.poll() is None
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert find_whole(open_files(tmp_path / "set"), source_state(data, None)) is None
    written = {file.name: file.stat().st_mtime_ns for file in parts.glob("*.safetensors")}
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "set/shards").glob("*.bin")}
    packed = pack_into(data, tmp_path / "set", tmp_path / "cache")
    assert packed.found == len(written)
    assert packed.made + packed.found == len(packed.description.shards)
    unchanged = [file for file, at in kept.items() if file.stat().st_mtime_ns == at]
    assert len(unchanged) >= packed.found
    opened = open_packed_set(open_files(tmp_path / "set"), tmp_path / "other cache")
    assert_same(opened, data.load(tmp_path / "cache"))


@pytest.mark.parametrize("damaged", ["a byte", "a shard", "the index"])
def test_a_damaged_set_is_made_again(damaged: str, tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    data = data_at(tmp_path / "images")
    packed = pack_into(data, tmp_path / "set", tmp_path / "cache")
    shard = tmp_path / "set" / packed.description.shards[0].file
    whole = shard.read_bytes()
    if damaged == "a byte":
        shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    else:
        (shard if damaged == "a shard" else tmp_path / "set/index.safetensors").unlink()
    again = pack_into(data, tmp_path / "set", tmp_path / "cache")
    assert again.made == 1
    assert shard.read_bytes() == whole
    assert again.description.as_json() == packed.description.as_json()
    assert pack_into(data, tmp_path / "set", tmp_path / "cache").made == 0


def test_a_small_disk_and_a_damaged_image_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "images")
    data = data_at(tmp_path / "images")
    (tmp_path / "images/class1/004.png").write_bytes(b"no image")
    with pytest.raises(DataProblem, match=r"class1/004.png: not an image") as raised:
        pack_into(data, tmp_path / "set", tmp_path / "cache")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "set/packed.json").exists()
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _path: free)
    with pytest.raises(DiskProblem, match="packed set needs"):
        pack_into(data, tmp_path / "other", tmp_path / "cache")
    with pytest.raises(UsageProblem, match="nothing to pack"):
        pack_into(Digits(), tmp_path / "x", tmp_path / "cache")


@pytest.mark.slow
def test_a_source_in_a_bucket_is_packed_into_the_store_once(
    moto: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "")  # set by `use_endpoint`, and undone by this
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path / "cache"))
    moto.make_bucket("lab")
    store = Storage(StorageConfig(uri="s3://lab/store", endpoint_url=moto.endpoint))
    write_images(tmp_path / "images")
    local = data_at(tmp_path / "images").load(tmp_path / "local cache")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto.endpoint)
    bucket = open_files("s3://lab/images")
    for name in open_files(tmp_path / "images").list():
        bucket.write(name, tmp_path / "images" / name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "")

    data, said = data_at("s3://lab/images"), []
    first = load_images(data, store, said.append)
    assert first.train.fingerprint() == local.train.fingerprint()
    assert any(line.startswith("packing the images: decoding") for line in said)
    sets = {name.split("/")[1] for name in store.list("data")}
    assert len(sets) == 2  # the set, and what points to it
    before = store.details("data")
    load._state.cache_clear()
    assert load_images(data, store).train.fingerprint() == local.train.fingerprint()
    assert store.details("data") == before

    monkeypatch.setattr(load, "in_ray_worker", lambda: True)
    monkeypatch.setattr(load, "source_state", lambda *_: pytest.fail("a worker lists the source"))
    assert load_images(data, store).train.fingerprint() == local.train.fingerprint()
    monkeypatch.undo()
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto.endpoint)
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path / "cache"))
    load._state.cache_clear()
    bucket.write("class1/new.png", bucket.read("class0/001.png"))
    changed = load_images(data, store)
    assert len(changed.train.labels) + len(changed.reference.labels) > len(local.train.labels)
    later = time.time() + 2 * AGE_S
    found = [each for each in find_garbage(Inventory(store), None, later) if not each.is_local]
    assert [each.kind for each in found] == ["packed images of a source as it was before"]
    assert found[0].name.split("/")[1] in sets
    secret = moto.secret_key
    for name in store.list("data"):
        if name.endswith(".json"):
            assert secret not in store.read_text(name)


@pytest.mark.slow
def test_nodes_of_ray_pack_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LEAST_ROWS", 16)
    monkeypatch.setattr(packing, "SHARDS_AT_LEAST", 4)
    monkeypatch.setattr(pack_workers, "in_cluster_job", lambda: True)
    write_images(tmp_path / "images")
    data = data_at(tmp_path / "images")
    packed = pack_into(data, tmp_path / "set", tmp_path / "cache")
    assert packed.made > 3
    opened = open_packed_set(open_files(tmp_path / "set"), tmp_path / "other cache")
    assert_same(opened, data.load(tmp_path / "cache"))


def test_the_command_says_what_to_write_into_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from whipray.platform.cli import main as cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path / "cache"))
    write_images(Path("images"))

    def say(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["whipray", "data", "pack", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0), *capsys.readouterr()

    code, out, _ = say("images", "set", "--dry-run", "--json")
    plan = json.loads(out)
    assert (code, plan["images"], plan["shards"]) == (0, 66, 1)
    assert not Path("set").exists()
    code, _, err = say("images", "set", "data.image_size=8")
    assert code == 0
    assert f"data.source=packed data.path={tmp_path / 'set'}" in err
    code, _, err = say("images", "set", "--image-size", "8")
    assert "nothing to do: this set is whole" in err
    code, _, err = say("images", "set", "--image-size", "16")
    assert code == 1
    assert "holds a packed set of other images" in err
    for words, what in (
        (("images",), "no SOURCE or no DEST"),
        (("nothing", "set"), "nothing"),
        (("./nothing", "set"), "no such file or folder"),
        (("images", "./images"), "would change its own source"),
        (("images", "images/set"), "would change its own source"),
        (("images", "set", "training.images=4"), "training.images is no setting of the images"),
        (("s3://k:hidden@b/x", "set"), "with a login in it"),
    ):
        code, out, err = say(*words)
        assert code == 2, err
        assert what in err
        assert "hidden" not in err
        assert out == ""
