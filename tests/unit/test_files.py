"""Files of a folder and of a bucket are read and written alike, and what fails is one line."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from support.servers import Server

from whipray.trainers.data.files import Files, MissingFile
from whipray.trainers.data.locations import Location, open_files
from whipray.trainers.errors import Problem, UsageProblem


def use(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process a server and its keys, as a person's shell does."""
    for name, value in (server.environment() | {"AWS_ENDPOINT_URL_S3": server.endpoint}).items():
        monkeypatch.setenv(name, value)


def go_through(files: Files, tmp_path: Path) -> None:
    assert files.list() == {}
    (tmp_path / "large").write_bytes(bytes(range(256)) * 64)
    files.write("b/two words.bin", tmp_path / "large")
    files.write("a.txt", b"first")
    listed = files.list()
    assert {name: facts.bytes for name, facts in listed.items()} == {
        "a.txt": 5,
        "b/two words.bin": 16384,
    }
    assert list(files.list("b")) == ["b/two words.bin"]
    again: Files = pickle.loads(pickle.dumps(files))
    assert again.read("a.txt") == b"first"
    assert again.read("b/two words.bin", 250, 10) == bytes(
        [250, 251, 252, 253, 254, 255, 0, 1, 2, 3]
    )
    assert again.read("a.txt", 3) == b"st"
    assert files.below("b").read("two words.bin") == (tmp_path / "large").read_bytes()
    with pytest.raises(MissingFile, match="no such file"):
        files.read("c.txt")
    files.delete("a.txt")
    files.delete("a.txt")
    assert list(files.list()) == ["b/two words.bin"]


def test_a_folder_holds_files(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    files = open_files(folder)
    go_through(files, tmp_path)
    before = files.list()["b/two words.bin"]
    files.write("b/two words.bin", b"\0" * 16384)
    assert files.list()["b/two words.bin"] != before


@pytest.mark.slow
def test_buckets_hold_files(
    moto: Server, swift: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for server in (moto, swift):
        use(server, monkeypatch)
        server.make_bucket("files")
        go_through(open_files("s3://files/some/prefix/"), tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-0123456789")
    with pytest.raises(Problem, match="access denied") as raised:
        open_files("s3://files/some").list()
    assert "secret-0123" not in str(raised.value)
    assert "\n" not in str(raised.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto.endpoint)
    with pytest.raises(Problem, match="s3://nothing/a: the bucket does not exist"):
        open_files("s3://nothing").list("a")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://user:hidden@127.0.0.1:9")
    with pytest.raises(Problem, match="does not answer") as raised:
        open_files("s3://files").read("a")
    assert "hidden" not in str(raised.value)


def test_an_address_holds_no_login_and_keeps_its_slashes() -> None:
    with pytest.raises(UsageProblem) as raised:
        open_files("s3://key:hidden@bucket/prefix")
    assert "hidden" not in str(raised.value)
    with pytest.raises(UsageProblem, match="gs://"):
        open_files("gs://bucket/prefix")
    location = TypeAdapter[object](Location)
    assert location.validate_python("s3://bucket/a/") == "s3://bucket/a"
    assert location.validate_python(Path("s3://bucket/a")) == "s3://bucket/a"
    assert location.validate_python("photos/a") == Path("photos/a")
