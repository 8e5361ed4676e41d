from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from support.servers import Server

from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.errors import MissingObject, StorageProblem
from whipray.platform.storage.s3 import environment as s3_environment
from whipray.platform.storage.store import Storage
from whipray.platform.storage.writer_lock import FileLock, is_held
from whipray.trainers import whole_files
from whipray.trainers.disk import DiskProblem, save_tensors
from whipray.trainers.errors import UsageProblem
from whipray.trainers.integrity import save_arrays


def s3(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return Storage(StorageConfig(uri=uri, endpoint_url=server.endpoint))


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.slow)])
def storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Storage:
    if request.param == "folder":
        return Storage(StorageConfig(uri=str(tmp_path / "runs")))
    server: Server = request.getfixturevalue("moto")
    bucket = f"bucket-{os.urandom(4).hex()}"
    server.make_bucket(bucket)
    return s3(server, f"s3://{bucket}/some/prefix", monkeypatch)


def test_files_and_text_come_back_as_they_were(storage: Storage, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "a.bin").write_bytes(content)
    storage.put_file(tmp_path / "a.bin", "x/a.bin")
    storage.get_file("x/a.bin", tmp_path / "deep/er/b.bin")
    assert (tmp_path / "deep/er/b.bin").read_bytes() == content
    storage.write_text("x/note.txt", "a long tail")
    storage.write_text("x/note.txt", "über")
    assert storage.read_text("x/note.txt") == "über"
    assert storage.list() == {"x/a.bin": 3 << 20, "x/note.txt": 5}


def test_deleting_and_listing_stay_in_their_folder(storage: Storage) -> None:
    for name in ("a/1", "a/b/2", "ab/3", "c"):
        storage.write_text(name, name)
    assert list(storage.list("a")) == ["a/1", "a/b/2"]
    assert list(storage.child("a").list()) == ["1", "b/2"]
    storage.child("a").delete("b")
    assert list(storage.list()) == ["a/1", "ab/3", "c"]
    storage.delete("a")
    storage.delete("a")  # nothing there is fine
    assert list(storage.list()) == ["ab/3", "c"]
    assert storage.exists("ab/3")
    assert not storage.exists("ab")  # a folder is no file
    assert not storage.exists("nothing")
    assert storage.list("nothing") == {}


def test_an_interrupted_write_leaves_no_half_file(storage: Storage) -> None:
    def write_half() -> None:
        with storage._writer("x.bin", 8) as target:
            target.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert storage.list() == {}


HOLD = """
import sys
from pathlib import Path
from whipray.trainers.whole_files import whole_file
with whole_file(Path(sys.argv[1])) as stream:
    stream.write(b"half")
    stream.flush()
    print("writing", flush=True)
    input()
"""


def test_half_written_files_of_killed_processes_go_and_those_of_living_ones_stay(
    tmp_path: Path,
) -> None:
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path / "a"], stdin=pipe, stdout=pipe
        ) as a,
        subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path / "b"], stdin=pipe, stdout=pipe
        ) as b,
    ):
        for writer in (a, b):
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
        (killed,) = tmp_path.glob(".a.*")
        (living,) = tmp_path.glob(".b.*")
        a.kill()
        a.wait()
        whole_files.clear(tmp_path)
        assert killed.exists()  # it might have been made this moment
        then = time.time() - 2 * whole_files.UNLOCKED_GRACE_S
        for partial in (killed, living):
            os.utime(partial, (then, then))
        Storage(StorageConfig(uri=str(tmp_path))).write_text("c", "whole")
        assert not killed.exists()
        assert living.exists()
        b.communicate(b"\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_have_the_rights_that_the_umask_leaves(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        save_tensors({"a": torch.zeros(2)}, tmp_path / "tensors")
        save_arrays({"a": np.zeros(2)}, tmp_path / "arrays")
        storage = Storage(StorageConfig(uri=str(tmp_path / "store")))
        storage.put_file(tmp_path / "tensors", "deep/tensors")
        storage.get_file("deep/tensors", tmp_path / "back/tensors")
        FileLock(tmp_path / "lock", "is here").release()
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_what_is_not_there_is_said_with_its_name(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(MissingObject, match=r"x/none\.bin: not found"):
        storage.get_file("x/none.bin", tmp_path / "none.bin")
    with pytest.raises(MissingObject, match=r"x/none\.txt: not found"):
        storage.read_text("x/none.txt")
    assert not (tmp_path / "none.bin").exists()


def test_a_pickled_storage_opens_the_same_place_elsewhere(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.child("run").write_text("note.txt", "hello")
    pickled = pickle.dumps(storage.child("run"))
    monkeypatch.chdir(tmp_path)
    again: Storage = pickle.loads(pickled)
    assert "filesystem" not in vars(again)  # each process opens its own
    assert again.read_text("note.txt") == "hello"
    assert again.uri == storage.uri_of("run")
    assert Server.secret_key.encode() not in pickled


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a\\b"])
def test_a_name_stays_inside_the_store(name: str, tmp_path: Path) -> None:
    storage = Storage(StorageConfig(uri=str(tmp_path)))
    for use in (storage.read_text, storage.delete, storage.child, storage.uri_of):
        with pytest.raises(UsageProblem, match="not a name inside the store"):
            use(name)


def test_a_relative_folder_is_resolved_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage(StorageConfig(uri="runs"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    storage.write_text("note.txt", "hello")
    assert (tmp_path / "runs/note.txt").exists()


@pytest.mark.slow
def test_boto3_and_pyarrow_follow_the_exported_environment(
    moto: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    import pyarrow.fs

    moto.make_bucket("exported")
    s3(moto, "s3://exported/runs", monkeypatch).write_text("note.txt", "hello")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    config = StorageConfig(uri="s3://exported/runs", endpoint_url=moto.endpoint, region="eu-west-3")
    storage = Storage(config)
    for name, value in s3_environment(storage.config).items():
        assert moto.secret_key not in value
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    assert client.meta.region_name == "eu-west-3"
    body = client.get_object(Bucket="exported", Key="runs/note.txt")["Body"]
    assert body.read() == b"hello"
    body.close()
    filesystem, path = pyarrow.fs.FileSystem.from_uri("s3://exported/runs/note.txt")
    with filesystem.open_input_stream(path) as stream:
        assert stream.read() == b"hello"


@pytest.mark.parametrize(
    "values",
    [
        {"uri": "s3://AKIA:hunter2@bucket/x"},
        {"uri": "s3://bucket/x?secret_key=hunter2"},
        {"uri": "http://me:hunter2@host/x"},
        {"uri": "s3://bucket", "endpoint_url": "http://me:hunter2@host:9000"},
    ],
)
def test_a_secret_in_the_config_is_refused_and_not_shown(values: dict[str, str]) -> None:
    with pytest.raises(UsageProblem, match="keys come from AWS") as caught:
        StorageConfig(**values)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        *({"uri": uri} for uri in ("", "s3://", "S3:/bucket", "gs://bucket", "S3A://bucket")),
        {"endpoint_url": "localhost:9000"},
    ],
)
def test_an_address_that_cannot_be_one_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        StorageConfig(**values)


@pytest.mark.parametrize("uri", ["S3://Bucket/Runs", "s3://Bucket/Runs/"])
def test_the_scheme_of_an_address_may_be_in_capitals(uri: str) -> None:
    config = StorageConfig(uri=uri)
    assert (config.uri, config.bucket) == ("s3://Bucket/Runs", "Bucket")


def test_a_closed_port_is_named_as_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = s3(Server(Path()), "s3://bucket/runs", monkeypatch)
    for use in (
        lambda: storage.write_text("a", "b"),
        lambda: storage.list(),
        lambda: storage.exists("a"),
    ):
        with pytest.raises(StorageProblem, match=r"127\.0\.0\.1:\d+ does not answer"):
            use()


FULL = r"the disk at \S+small-disk is full \(586 KiB needed, 4\d\d KiB free\)"


def test_a_full_disk_keeps_what_was_saved(small_disk: Path, tmp_path: Path) -> None:
    storage = Storage(StorageConfig(uri=str(small_disk / "runs")))
    first, second = os.urandom(600_000), os.urandom(600_000)
    (tmp_path / "file").write_bytes(first)
    storage.put_file(tmp_path / "file", "kept.bin")
    (tmp_path / "file").write_bytes(second)
    for name in ("new.bin", "kept.bin"):
        with pytest.raises(StorageProblem, match=f"{name}: {FULL}"):
            storage.put_file(tmp_path / "file", name)
    assert (small_disk / "runs/kept.bin").read_bytes() == first
    assert [path.name for path in (small_disk / "runs").iterdir()] == ["kept.bin"]
    elsewhere = Storage(StorageConfig(uri=str(tmp_path)))
    with pytest.raises(DiskProblem, match=r"small-disk/fetched: the disk at \S+small-disk is full"):
        elsewhere.get_file("file", small_disk / "fetched")


def test_a_folder_that_cannot_be_written_is_said_so(small_disk: Path) -> None:
    storage = Storage(StorageConfig(uri=str(small_disk)))
    storage.write_text("note.txt", "hello")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageProblem, match=r"new\.txt: permission denied"):
        storage.write_text("new.txt", "hello")
    assert storage.read_text("note.txt") == "hello"


def test_a_lock_outlives_questions_and_rivals_of_its_own_process(tmp_path: Path) -> None:
    root, path = Storage(StorageConfig(uri=str(tmp_path))), tmp_path / "writer.lock"
    code = f"import fcntl; fcntl.lockf(open({str(path)!r}, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"

    def another_process_gets_it() -> bool:
        return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    lock = FileLock(path, "is training this run")
    assert is_held(root, ["writer.lock"])
    with pytest.raises(UsageProblem, match="this process is training this run"):
        FileLock(path, "is training this run")
    assert not another_process_gets_it()
    lock.release()
    assert not is_held(root, ["writer.lock"])
    assert another_process_gets_it()
