"""Tar archives and Hugging Face's image folders give the images and labels that their files hold."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from pydantic import TypeAdapter
from support.servers import Server

from whipray.platform.datasets.source_state import source_state
from whipray.platform.inspection.data_of import data_of
from whipray.platform.inspection.inspect import inspect
from whipray.platform.inspection.source import source_of
from whipray.trainers.data import DataConfig, ImageFolder, Splits, TarShards
from whipray.trainers.data.locations import open_files
from whipray.trainers.errors import DataProblem


def png(value: int) -> bytes:
    """Return an image of one value all over."""
    stream = io.BytesIO()
    Image.new("L", (8, 8), value).save(stream, "PNG")
    return stream.getvalue()


def write_tar(file: Path, members: dict[str, bytes]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))


def load(config: DataConfig, cache: Path) -> Splits:
    return config.load(cache)


def data(source: str, **settings: Any) -> DataConfig:
    section = {"source": source, "image_size": 8, "channels": 1} | settings
    config: DataConfig = TypeAdapter[DataConfig](DataConfig).validate_python(section)
    return config


def assert_labelled(splits: Splits, train: int, reference: int) -> None:
    """Check that each image's value is its class times 100, plus at most 20."""
    for split, count in ((splits.train, train), (splits.reference, reference)):
        assert len(split.labels) == count
        np.testing.assert_array_equal(split.images[:][:, 0, 0, 0] // 100, split.labels)


LABELS = {
    "cls": lambda c: (".cls", str(c).encode()),
    "json": lambda c: (".json", json.dumps({"caption": "x", "label": "ab"[c]}).encode()),
}


@pytest.mark.parametrize("kind", ["cls", "json", "folder"])
def test_members_of_archives_have_their_labels(kind: str, tmp_path: Path) -> None:
    for split, numbers in (("train", (0, 1)), ("val", (0,))):
        for number in numbers:
            members = {}
            for c in (0, 1):
                for i in range(6):
                    key = f"{'ab'[c]}/{number}{i}" if kind == "folder" else f"{number}{c}{i}.v"
                    key = key.replace(".v", "")
                    members[f"{key}.png"] = png(100 * c + 10 * number + i)
                    if kind != "folder":
                        suffix, content = LABELS[kind](c)
                        members[f"{key}{suffix}"] = content
            write_tar(tmp_path / "shards" / f"{split}-{number:03d}.tar", members)
    splits = load(data("tar", path=tmp_path / "shards"), tmp_path / "cache")
    assert_labelled(splits, 24, 12)
    assert splits.train.class_names == (("0", "1") if kind == "cls" else ("a", "b"))
    assert splits.train_name is not None
    assert "train-000.tar: " in splits.train_name(0)
    braces = f"{tmp_path}/shards/train-{{000..001}}.tar"
    held = {"hold_out": {"remaining": 1, "at_least": 1, "share": 0.5}}
    alone = load(data("tar", path=braces, **held), tmp_path / "cache")
    assert len(alone.train.labels) + len(alone.reference.labels) == 24
    assert source_of([tmp_path / "shards"]) == TarShards(path=tmp_path / "shards")
    assert inspect(source_of([tmp_path / "shards"])).problem() is None


def test_what_is_wrong_with_an_archive_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"one.png": png(1), "two.png": png(2), "two.cls": b"0"})
    with pytest.raises(DataProblem, match=r"a.tar: one.png: no label"):
        load(data("tar", path=tmp_path / "a.tar"), tmp_path / "cache")
    (tmp_path / "b.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(DataProblem, match=r"b.tar: not a tar archive"):
        load(data("tar", path=tmp_path / "b.tar"), tmp_path / "cache")
    with pytest.raises(DataProblem, match=r"c-1.tar: no tar archive"):
        load(data("tar", path=f"{tmp_path}/c-{{1..2}}.tar"), tmp_path / "cache")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_tables_of_image_folders_have_the_labels(form: str, tmp_path: Path) -> None:
    for split, count in (("train", 6), ("test", 2)):
        folder = tmp_path / split
        folder.mkdir()
        rows = [{"file_name": f"{c}-{i}.png", "label": c} for c in (0, 1) for i in range(count)]
        for row in rows:
            name = str(row["file_name"])
            (folder / name).write_bytes(png(100 * int(row["label"]) + int(name[2])))
        if form == "csv":
            lines = [f"{row['file_name']},{row['label']}" for row in rows]
            (folder / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
        elif form == "jsonl":
            (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        else:
            named = '{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'
            table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": named})
            parquet.write_table(table, folder / "metadata.parquet")
    splits = load(data("imagefolder", root=tmp_path), tmp_path.parent / "cache")
    assert_labelled(splits, 12, 4)
    assert splits.train.class_names == (("cat", "dog") if form == "parquet" else ("0", "1"))
    assert source_of([tmp_path]) == ImageFolder(root=tmp_path)
    assert inspect(source_of([tmp_path])).problem() is None
    (tmp_path / "train/0-3.png").unlink()
    with pytest.raises(DataProblem, match=r"metadata.* \(train/0-3.png\): no image at"):
        load(data("imagefolder", root=tmp_path), tmp_path.parent / "cache")


@pytest.mark.slow
def test_archives_and_image_folders_may_be_in_a_bucket(
    moto: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (moto.environment() | {"AWS_ENDPOINT_URL": moto.endpoint}).items():
        monkeypatch.setenv(name, value)
    moto.make_bucket("shards")
    bucket = open_files("s3://shards/x")
    for split, count in (("train", 6), ("test", 3)):
        members, lines = {}, ["file_name,label"]
        for c in (0, 1):
            for i in range(count):
                members |= {f"{c}{i}.png": png(100 * c + i), f"{c}{i}.cls": str(c).encode()}
                bucket.write(f"folder/{split}/{c}{i}.png", png(100 * c + i))
                lines.append(f"{c}{i}.png,{c}")
        bucket.write(f"folder/{split}/metadata.csv", "\n".join(lines).encode())
        write_tar(tmp_path / "a.tar", members)
        bucket.write(f"tars/{split}-0.tar", tmp_path / "a.tar")
    for config in (
        data("tar", path="s3://shards/x/tars"),
        data("imagefolder", root="s3://shards/x/folder"),
    ):
        assert_labelled(load(config, tmp_path / "cache"), 12, 6)
    assert isinstance(source_of(["s3://shards/x/tars"]), TarShards)
    assert isinstance(source_of(["s3://shards/x/folder"]), ImageFolder)


def test_a_pattern_of_archives_and_a_folder_of_tables_are_known_by_what_they_are(
    tmp_path: Path,
) -> None:
    images = {f"{c}/{i}.png": png(100 * c + i) for c in range(2) for i in range(20)}
    for number in range(2):
        half = {name: content for name, content in images.items() if int(name[2:-4]) % 2 == number}
        write_tar(tmp_path / f"tars/{number}.tar", half)
    config = data_of([str(tmp_path / "tars/{0..1}.tar")], None, ["data.image_size=8"])
    assert isinstance(config, TarShards)
    before = source_state(config, None)
    write_tar(tmp_path / "tars/1.tar", images)
    assert source_state(config, None) != before
    table = pa.table({"image": list(images.values()), "label": [int(name[0]) for name in images]})
    (tmp_path / "tables").mkdir()
    parquet.write_table(table, tmp_path / "tables/a.parquet")
    assert source_of([tmp_path / "tables"]).source == "parquet"
