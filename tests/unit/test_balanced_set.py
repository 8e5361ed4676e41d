"""A balanced set on disk: three forms, read by others and by us; killed, full, foreign and changed folders."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from whipray.platform.analysis.balance import manifest, writing
from whipray.platform.analysis.balance.folder import check_folder, claimed
from whipray.platform.analysis.balance.manifest import Form, GeneratedRows, SetContent
from whipray.platform.analysis.balance.pictures import encode
from whipray.platform.analysis.balance.writing import WrittenSet, write_set
from whipray.platform.inspection.inspect import inspect
from whipray.platform.inspection.source import source_of
from whipray.trainers.data import Balanced, Folder, LongTail, PackedImages, Parquet, Splits
from whipray.trainers.data.decoding import UNREAD
from whipray.trainers.disk import DiskProblem
from whipray.trainers.errors import DataProblem, UsageProblem

NAMES = ("zebra/a", "..", "Äpfel", "äpfel", "b\n\x1b", "train")
"""Names of classes that are no names of folders, two of them alike where case is ignored."""
FORMS: tuple[Form, ...] = ("folder", "parquet", "torchvision")


def images(counts: list[int], seed: int, shape: tuple[int, int, int] = (3, 8, 8)) -> PackedImages:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = rng.integers(0, 256, (len(labels), *shape), np.uint8)
    return PackedImages(pixels, rng.permutation(labels), NAMES)


def content(
    identity: str = "0123", shape: tuple[int, int, int] = (3, 8, 8), times: int = 1
) -> SetContent:
    """9, 5, 2, 1, 1 and 1 real images; classes are filled up to 6, every fourth image is rejected."""
    splits = Splits(images([9, 5, 2, 1, 1, 1], 0, shape), images([2] * 6, 1, shape))
    labels = np.repeat(np.arange(6), np.array([0, 1, 4, 5, 5, 5]) * times)
    made = np.random.default_rng(2).integers(0, 256, (len(labels), *shape), np.uint8)
    n = np.arange(len(labels))
    kept = n % 4 != 3
    generated = GeneratedRows(
        labels=labels,
        indices=np.concatenate([np.arange(c) for c in np.bincount(labels)]),
        kept=kept,
        reasons=["" if keep else "probability" for keep in kept],
        near_copy=n == 2,
        pixel_distance=(n * 100).astype(np.float32),
        nearest=n % 3,
        feature_distance=(n / 10).astype(np.float32),
        nearest_features=n % 2,
        probability=1 / (n + 1),
        copy_ratio=n / 20,
        copy_of=n % 5,
        read=lambda rows: made[rows],
    )
    about = {"title": f"of models:/m/1, {identity}"}
    return SetContent(splits, generated, "models:/m/1", "ab" * 32, "{}", 7, identity, about)


def write(folder: Path, form: Form, of: SetContent | None = None) -> WrittenSet:
    return write_set(of or content(), folder, form, lambda: "<p>sheet</p>")


def expected(of: SetContent) -> tuple[PackedImages, PackedImages]:
    """The images of both splits in the manifest's order."""
    real, rows = of.splits.train, of.kept_rows
    pixels = np.concatenate([real.images, of.generated.read(rows)])
    labels = np.concatenate([real.labels, of.generated.labels[rows]])
    return PackedImages(pixels, labels, NAMES), of.splits.reference


def state(folder: Path) -> dict[str, tuple[int, str]]:
    """Time of writing and hash of every file."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_back_to_the_same_pixels_and_is_written_once(
    form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "SHARD_BYTES", 5 * 3 * 8 * 8)  # five images in a shard
    of, folder = content(), tmp_path / "set"
    assert write(folder, form) == WrittenSet(folder, form, 46, 46)
    config = Balanced(path=folder, image_size=8)
    splits = config.load(tmp_path / "cache")
    train, test = expected(of)
    assert splits.train.fingerprint() == train.fingerprint()
    assert splits.reference.fingerprint() == test.fingerprint()
    assert config.load(UNREAD).train.class_counts.tolist() == train.class_counts.tolist()
    small = config.model_copy(update={"image_size": 4, "long_tail": LongTail(kind="none")})
    assert small.load(tmp_path / "cache").train.image_shape == (3, 4, 4)

    before = state(folder)
    assert not [name for name in before if Path(name).name.startswith(".")]
    assert write(folder, form).written == 0
    assert state(folder) == before

    # what is damaged or gone is written again, and nothing else is
    victims = [n for n in before if n.endswith(".png")][:2] or [n for n in before if "data/" in n][
        :2
    ]
    for harm in (
        lambda file: file.unlink(),
        lambda file: file.write_bytes(file.read_bytes()[:-20]),
    ):
        victim = victims.pop()
        harm(folder / victim)
        again = write(folder, form)
        assert 0 < again.written < again.images
        after = state(folder)
        assert {n: digest for n, (_, digest) in after.items()} == {
            n: digest for n, (_, digest) in before.items()
        }
        late = {name for name in after if after[name] != before[name]}
        assert {n for n in late if n.endswith(".png") or "data/" in n} == {victim}
        before = after


def test_the_manifest_has_every_image_with_its_origin(tmp_path: Path) -> None:
    write(tmp_path, "folder")
    rows = parquet.read_table(tmp_path / "manifest.parquet").to_pylist()
    of = content()
    assert len(rows) == 19 + 20 + 12
    assert [row["kept"] for row in rows].count(False) == 5
    for row in rows:
        assert row["class_name"] == NAMES[row["class_id"]]
        if row["kept"]:
            data = (tmp_path / row["file"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == row["sha256"]
        else:
            assert (row["file"], row["sha256"], row["reason"]) == (None, None, "probability")
        if not row["generated"]:
            assert {row[key] for key in ("model", "seed", "probability", "near_copy")} == {None}
            split = of.splits.train if row["split"] == "train" else of.splits.reference
            assert split.labels[row["index"]] == row["class_id"]
            continue
        generated = of.generated
        (n,) = np.flatnonzero(
            (generated.labels == row["class_id"]) & (generated.indices == row["index"])
        )
        assert (row["model"], row["weights"], row["seed"]) == ("models:/m/1", "ab" * 32, 7)
        assert row["probability"] == generated.probability[n]
        assert row["pixel_distance"] == generated.pixel_distance[n]
        assert (row["nearest"], row["copy_of"]) == (n % 3, n % 5)
        assert row["near_copy"] == (n == 2)


def test_torchvision_reads_the_models_class_ids(tmp_path: Path) -> None:
    import torchvision

    write(tmp_path, "torchvision")
    train, test = expected(content())
    for split, images_of in (("train", train), ("test", test)):
        read = torchvision.datasets.ImageFolder(str(tmp_path / split))
        counts = np.bincount(read.targets).tolist()
        assert counts == images_of.class_counts.tolist()
        for label in range(len(NAMES)):
            ours = {image.tobytes() for image in images_of.images[images_of.labels == label]}
            theirs = {
                np.asarray(image).transpose(2, 0, 1).tobytes() for image, c in read if c == label
            }
            assert ours == theirs
        suffixes = {path.suffix for path in (tmp_path / split).rglob("*") if path.is_file()}
        assert suffixes == {".png"}


def test_parquet_is_as_hugging_face_writes_it(tmp_path: Path) -> None:
    write(tmp_path, "parquet")
    (file,) = (tmp_path / "data").glob("train-00000-of-00001.parquet")
    table = parquet.read_table(file)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"]["names"] == list(NAMES)
    assert set(features) == set(table.column_names)
    train, test = expected(content())
    assert table["label"].to_pylist() == train.labels.tolist()
    assert table["generated"].to_pylist() == [False] * 19 + [True] * 15
    for cell, pixels in zip(table["image"].to_pylist(), train.images, strict=True):
        assert np.array_equal(
            np.asarray(Image.open(io.BytesIO(cell["bytes"]))).transpose(2, 0, 1), pixels
        )
    ours = Parquet(path=tmp_path / "data", image_size=8).load(tmp_path / "cache")
    assert ours.train.fingerprint() == train.fingerprint()
    assert ours.reference.fingerprint() == test.fingerprint()


def test_a_tree_is_read_as_any_folder_and_looked_at_as_a_set(tmp_path: Path) -> None:
    write(tmp_path / "set", "folder")
    plain = Folder(root=tmp_path / "set", image_size=8).load(tmp_path / "cache")
    train, test = expected(content())
    assert sorted(plain.train.class_counts) == sorted(train.class_counts)
    assert len(plain.reference.labels) == len(test.labels)
    config = source_of([tmp_path / "set"])
    assert config == Balanced(path=tmp_path / "set", image_size=8)
    found = inspect(config, lambda _line: None)
    assert found.problem() is None
    assert [each.count for each in found.classes] == train.class_counts.tolist()


def test_a_grey_image_stays_grey(tmp_path: Path) -> None:
    of = content(shape=(1, 8, 8))
    write(tmp_path / "set", "folder", of)
    splits = Balanced(path=tmp_path / "set", image_size=8, channels=1).load(tmp_path / "cache")
    assert splits.train.fingerprint() == expected(of)[0].fingerprint()


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from test_balanced_set import content, write, manifest, writing
from pathlib import Path
manifest.SHARD_BYTES = 5 * 3 * 8 * 8
count = 0
real = Path.replace
def replace(self, to):
    global count
    count += 1
    if count == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, to)
Path.replace = replace
write(Path({folder!r}), {form!r})
"""


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_a_command_that_was_killed_goes_on(
    form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "SHARD_BYTES", 5 * 3 * 8 * 8)
    folder, whole = tmp_path / "set", tmp_path / "whole"
    script = KILLED.format(
        path=[str(Path(__file__).parent), *sys.path], folder=str(folder), form=form, after=5
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, env=dict(os.environ))
    assert ended.returncode == -signal.SIGKILL
    with pytest.raises(DataProblem, match=r"balanced\.json: missing.*completes it"):
        Balanced(path=folder, image_size=8).load(tmp_path / "cache")
    before = state(folder)
    written = write(folder, form)
    there = sum(name.endswith(".png") for name in before)
    there += 5 * sum(name.endswith(".parquet") for name in before)
    assert there
    assert written.written == 46 - there
    write(whole, form)
    after = state(folder)
    kept = [name for name in before if not Path(name).name.startswith(".")]
    assert all(after[name] == before[name] for name in kept)
    assert {n: digest for n, (_, digest) in after.items()} == {
        n: digest for n, (_, digest) in state(whole).items()
    }


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_a_disk_without_room_is_refused_before_anything_is_written(
    form: Form, small_disk: Path
) -> None:
    of = content(shape=(3, 64, 64), times=10)
    with pytest.raises(DiskProblem, match=r"is full \(\d\.\d MiB needed, .* free\)") as caught:
        write(small_disk / "set", form, of)
    assert "nothing is lost" in caught.value.fix
    assert not [path for path in (small_disk / "set").rglob("*.*") if path.name[0] != "."]


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_a_disk_that_is_full_half_way_leaves_whole_files_and_the_command_goes_on(
    form: Form, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        writing, "bytes_needed", lambda *_: 0
    )  # as where others fill the disk meanwhile
    monkeypatch.setattr(manifest, "SHARD_BYTES", 20 * 3 * 64 * 64)
    of, folder = content(shape=(3, 64, 64), times=10), small_disk / "set"
    with pytest.raises(DiskProblem, match=f"{folder}: the disk at {small_disk} is full") as caught:
        write(folder, form, of)
    assert "nothing is lost" in caught.value.fix
    before = state(folder)
    whole = [name for name in before if name.endswith((".png", ".parquet"))]
    assert whole
    for name in whole:
        if name.endswith(".png"):
            Image.open(folder / name).load()
        else:
            parquet.read_table(folder / name)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    written = write(folder, form, of)
    assert 0 < written.written < written.images
    after = state(folder)
    assert all(after[name] == before[name] for name in whole)
    config = Balanced(path=folder, image_size=64)
    assert config.load(tmp_path / "cache").train.fingerprint() == expected(of)[0].fingerprint()


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    def refusal(folder: Path, form: Form = "folder", identity: str = "0123") -> str:
        before = state(tmp_path)
        with pytest.raises((UsageProblem, DiskProblem)) as caught:
            write(folder, form, content(identity))
        assert "--out" in caught.value.fix
        assert state(tmp_path) == before
        return caught.value.what

    (tmp_path / "other").mkdir()
    for name in ("a.txt", "b.txt", "c.txt", "d\n.txt"):
        (tmp_path / "other" / name).touch()
    assert refusal(tmp_path / "other") == (
        f"{tmp_path}/other already holds a.txt, b.txt, c.txt and 1 more"
    )
    assert refusal(tmp_path / "other/a.txt") == f"{tmp_path}/other/a.txt is a file"
    assert "cannot be written" in refusal(tmp_path / "other/a.txt/below")
    write(tmp_path / "set", "folder")
    described = f"{tmp_path}/set holds another balanced set: of models:/m/1, 0123, as folder"
    assert refusal(tmp_path / "set", identity="4567") == described
    assert refusal(tmp_path / "set", form="parquet") == described
    check_folder(tmp_path / "set", None, "folder")  # which set it will be is not known yet


def test_images_that_were_changed_are_named(tmp_path: Path) -> None:
    write(tmp_path / "set", "torchvision")
    config: dict[str, Any] = {"path": tmp_path / "set", "image_size": 8}
    file = next((tmp_path / "set/train").rglob("generated-*.png"))
    file.write_bytes(encode(np.zeros((3, 8, 8), np.uint8)))
    with pytest.raises(DataProblem, match=f"not the images that were written: {file}"):
        Balanced(**config).load(tmp_path / "cache")
    file.unlink()
    with pytest.raises(DataProblem, match=f"{file}: no image"):
        Balanced(**config).load(tmp_path / "cache")
    assert write(tmp_path / "set", "torchvision").written == 1
    Balanced(**config).load(tmp_path / "cache")
    (tmp_path / "set/manifest.parquet").write_bytes(b"")
    with pytest.raises(DataProblem, match=r"manifest\.parquet: cannot be read"):
        Balanced(**config).load(tmp_path / "cache")


def test_a_folder_that_is_being_written_is_left_to_its_writer(tmp_path: Path) -> None:
    of, folder = content(), tmp_path / "set"
    being_written = claimed(of, folder, "folder")
    with being_written, pytest.raises(UsageProblem, match="another command is writing this set"):
        write(folder, "folder")
