"""A source in a bucket gives the images that it gives on this machine."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from pydantic import TypeAdapter
from support.servers import Server

from whipray.trainers.data import DataConfig, Splits
from whipray.trainers.data.bucket_files import BucketFiles
from whipray.trainers.data.locations import open_files
from whipray.trainers.errors import DataProblem

CLASSES = ("ant", "bee", "cat")


def jpeg(seed: int) -> bytes:
    """Return an image of its own, 12 x 10 pixels."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 12, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_all(folder: Path) -> None:
    """Write 3 x 14 images as class folders, as lists, and as two Parquet files of several row groups."""
    for split, count, first in (("train", 10, 0), ("test", 4, 100)):
        rows, lines = [], []
        for c, name in enumerate(CLASSES):
            (folder / "folder" / split / name).mkdir(parents=True)
            for i in range(count):
                content = jpeg(first + 20 * c + i)
                (folder / "folder" / split / name / f"{i}.png").write_bytes(content)
                rows.append({"image": {"bytes": content, "path": f"{i}.png"}, "label": c})
                lines.append(f"{split}/{name}/{i}.png {c}\n")
        (folder / f"{split}.txt").write_text("".join(lines))
        table = pa.Table.from_pylist(rows)
        names = '{"info": {"features": {"label": {"names": ["ant", "bee", "cat"]}}}}'
        table = table.replace_schema_metadata({"huggingface": names})
        (folder / "tables").mkdir(exist_ok=True)
        file = folder / "tables" / f"{split}-00000-of-00001.parquet"
        parquet.write_table(table, file, row_group_size=7)


def load(section: dict[str, Any], cache: Path) -> Splits:
    config: DataConfig = TypeAdapter[DataConfig](DataConfig).validate_python(section)
    return config.load(cache)


@pytest.mark.slow
def test_a_bucket_holds_the_sources_of_a_folder(
    moto: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (moto.environment() | {"AWS_ENDPOINT_URL": moto.endpoint}).items():
        monkeypatch.setenv(name, value)
    moto.make_bucket("images")
    write_all(tmp_path / "here")
    bucket = open_files("s3://images/some")
    for name in open_files(tmp_path / "here").list():
        bucket.write(name, tmp_path / "here" / name)
    tail = {"long_tail": {"kind": "exponential", "ratio": 5}}
    for section in (
        {"source": "folder", "root": "{}/folder"},
        {"source": "folder", "root": "{}/folder/train", "hold_out": {"remaining": 2, "share": 0.5}},
        {
            "source": "list_files",
            "root": "{}/folder",
            "train_list": "{}/train.txt",
            "reference_list": "{}/test.txt",
        },
        {"source": "parquet", "path": "{}/tables", **tail},
        {"source": "parquet", "path": "{}/tables/t*.parquet", "validation": {}},
    ):
        ours, theirs = (
            load(
                {k: v.format(at) if isinstance(v, str) else v for k, v in section.items()}
                | {"image_size": 8},
                tmp_path / "cache" / str(at)[:2],
            )
            for at in (tmp_path / "here", "s3://images/some")
        )
        assert ours.train.fingerprint() == theirs.train.fingerprint()
        assert ours.reference.fingerprint() == theirs.reference.fingerprint()
        assert ours.report == theirs.report

    bucket.delete("folder/train/bee/3.png")
    lists = {"root": "s3://images/some/folder", "train_list": "s3://images/some/train.txt"}
    with pytest.raises(DataProblem, match=r"train.txt:14 .*no image at s3://images/some/folder/tr"):
        load({"source": "list_files", "image_size": 8, **lists}, tmp_path / "cache")
    with pytest.raises(DataProblem, match="s3://images/none: no such folder"):
        load({"source": "folder", "root": "s3://images/none"}, tmp_path / "cache")


def test_rows_are_read_a_row_group_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path)
    read: list[int] = []
    whole = parquet.ParquetFile.read_row_group

    def counted(self: Any, group: int, **settings: Any) -> pa.Table:
        read.append(group)
        return whole(self, group, **settings)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", counted)
    splits = load({"source": "parquet", "path": tmp_path / "tables"}, tmp_path / "cache")
    assert len(splits.train.labels) == 30
    # 5 + 2 groups, once to be hashed and once to be decoded, not once for each of 42 images.
    assert 7 <= len(read) <= 14


def test_the_address_of_a_bucket_survives_a_pickle() -> None:
    files = open_files("s3://images/some")
    assert isinstance(files, BucketFiles)
    assert files.below("a").uri == "s3://images/some/a"
