"""Each source gives a long-tailed training split and a reference, and names what is wrong."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from pydantic import TypeAdapter, ValidationError
from sklearn.datasets import load_digits

from whipray.trainers.data import (
    Cifar,
    DataConfig,
    Digits,
    Folder,
    ListFiles,
    LongTail,
    Parquet,
    Splits,
    decoding,
)
from whipray.trainers.data.packed import PackedImages
from whipray.trainers.errors import DataProblem
from whipray.trainers.integrity import DIGEST_BYTES

RAW = load_digits()
PIXELS = np.rint(RAW.images * (255 / 16)).astype(np.uint8)
SHARED = Path(
    os.environ.get("WHIPRAY_DATA", Path(__file__).resolve().parents[2].parent / "shared/data")
)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def first_of(digit: int, count: int, skip: int = 0) -> np.ndarray:
    return np.flatnonzero(RAW.target == digit)[skip : skip + count]


def images_of(split: PackedImages, label: int) -> list:
    return split.images[split.labels == label, 0].tolist()


# ---- configs


def test_the_source_decides_the_config() -> None:
    adapter = TypeAdapter(DataConfig)
    cifar = adapter.validate_python({"source": "cifar100", "long_tail": {"ratio": 50}})
    assert isinstance(cifar, Cifar)
    assert cifar.long_tail == LongTail(kind="exponential", ratio=50)
    assert adapter.validate_json(adapter.dump_json(cifar)) == cifar
    for wrong in ({"source": "imagenet"}, {"source": "digits", "root": "x"}, {}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


def test_reading_a_config_imports_nothing_heavy() -> None:
    script = (
        "import sys, whipray.trainers.data\n"
        "print({'torch', 'torchvision', 'pyarrow', 'PIL', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


# ---- digits


def test_digits(tmp_path) -> None:
    splits = Digits().load(tmp_path)
    assert splits.train.class_counts[[0, -1]].tolist() == [100, 5]
    assert splits.reference.class_counts.tolist() == [74] * 10
    assert splits.train.image_shape == (1, 8, 8)
    assert (splits.train.images.min(), splits.train.images.max()) == (0, 255)
    for digit in range(10):
        pool = PIXELS[first_of(digit, 100)].tolist()
        assert all(image in pool for image in images_of(splits.train, digit))
        assert images_of(splits.reference, digit) == PIXELS[first_of(digit, 74, 100)].tolist()
    assert list(tmp_path.iterdir()) == []


# ---- folder


@pytest.fixture
def tree(tmp_path) -> Path:
    """Real digits 0, 1 and 2 as PNG files: 12, 6 and 3 to train on, 4 of each as reference."""
    for split, counts, skip in (("train", (12, 6, 3), 0), ("reference", (4, 4, 4), 50)):
        for digit, (name, count) in enumerate(zip(("zero", "one", "two"), counts, strict=True)):
            folder = tmp_path / "tree" / split / name
            folder.mkdir(parents=True)
            for number, index in enumerate(first_of(digit, count, skip)):
                (folder / f"{number:03}.png").write_bytes(png(PIXELS[index]))
    (tmp_path / "tree/train/zero/notes.txt").write_text("not an image")
    return tmp_path / "tree"


def test_folder(tree: Path, tmp_path) -> None:
    splits = Folder(root=tree, image_size=8, channels=1).load(tmp_path / "cache")
    assert splits.train.class_names == ("one", "two", "zero")
    assert splits.train.class_counts.tolist() == [6, 3, 12]
    assert images_of(splits.train, 2) == PIXELS[first_of(0, 12)].tolist()
    assert images_of(splits.reference, 1) == PIXELS[first_of(2, 4, 50)].tolist()


def test_folder_in_a_given_order_cut_to_a_tail(tree: Path, tmp_path) -> None:
    for name in ("zero", "one", "two"):  # balanced, as a tail is cut from
        for file in sorted((tree / "train" / name).iterdir())[3:]:
            file.unlink()
    config = Folder(
        root=tree,
        image_size=8,
        channels=1,
        class_order=("zero", "one", "two"),
        long_tail=LongTail(ratio=2),
    )
    splits = config.load(tmp_path / "cache")
    assert splits.train.class_counts.tolist() == [3, 2, 1]  # 9 images, so 3 for the head
    assert splits.reference.class_counts.tolist() == [4, 4, 4]
    pool = PIXELS[first_of(1, 6)].tolist()
    assert all(image in pool for image in images_of(splits.train, 1))


def test_folder_problems_are_named(tree: Path, tmp_path) -> None:
    def problem(**changes) -> str:
        with pytest.raises(DataProblem) as caught:
            Folder(root=tree, image_size=8, **changes).load(tmp_path / "cache")
        return caught.value.what

    assert "class three is not in both" in problem(class_order=("zero", "one", "two", "three"))
    assert "class two is not in both" in problem(class_order=("zero", "one"))
    (tree / "train/one/003.png").write_bytes(b"\x89PNG\r\n")
    assert problem().startswith(f"{tree}/train/one/003.png: not an image")
    for file in (tree / "reference/two").iterdir():
        file.unlink()
    assert problem() == "reference images: class 1 (two) has no image"
    (tree / "reference/two").rmdir()
    assert "class two is not in both" in problem()
    assert f"{tmp_path}/nowhere: no such folder" in problem_of_missing(tmp_path)


def test_a_folder_of_classes_is_enough(tree: Path, tmp_path) -> None:
    with_reference = Folder(root=tree, image_size=8, channels=1).load(tmp_path / "cache")
    config = Folder(root=tree / "train", image_size=8, channels=1)
    alone = config.load(tmp_path / "cache")
    assert alone.train.class_names == with_reference.train.class_names
    assert alone.available == with_reference.available == 21
    assert alone.hold_out is not None
    assert with_reference.hold_out is None


def test_the_images_to_compare_with_are_found_by_the_names_that_others_use(
    tree: Path, tmp_path
) -> None:
    def loaded(**changes) -> Splits:
        return Folder(root=tree, image_size=8, channels=1, **changes).load(tmp_path / "cache")

    expected = loaded().reference.fingerprint()
    (tree / "reference").rename(tree / "val")
    found = loaded()
    assert found.reference.fingerprint() == expected
    assert "train: compared with: val/ (data.reference_folder)" in found.report.lines()
    (tree / "Test").mkdir()  # without labels
    (tree / "Test/1.png").write_bytes(png(PIXELS[0]))
    assert loaded().reference.fingerprint() == expected
    assert "train: not read: Test/" in loaded().report.lines()
    (tree / "val").rename(tree / "mine")
    assert loaded().hold_out is not None
    assert loaded(reference_folder="mine").reference.fingerprint() == expected
    assert loaded(reference_folder="mine").train.fingerprint() == found.train.fingerprint()


def test_a_class_called_train_is_a_class(tree: Path, tmp_path) -> None:
    (tree / "train/zero").rename(tree / "train/train")
    splits = Folder(root=tree / "train", image_size=8, channels=1).load(tmp_path / "cache")
    assert splits.train.class_names == ("one", "train", "two")
    nested = tree / "train/train/more"
    nested.mkdir()
    (nested / "1.png").write_bytes(png(PIXELS[1]))
    splits = Folder(root=tree / "train", image_size=8, channels=1).load(tmp_path / "cache")
    assert splits.train.class_names == ("one", "train", "two")


def test_folders_that_are_splits_are_not_taken_for_classes(tree: Path, tmp_path) -> None:
    (tree / "train").rename(tree / "val")
    with pytest.raises(DataProblem, match="named as splits, not as classes: reference, val"):
        Folder(root=tree, image_size=8).load(tmp_path / "cache")


def problem_of_missing(tmp_path: Path) -> str:
    with pytest.raises(DataProblem) as caught:
        Folder(root=tmp_path / "nowhere").load(tmp_path / "cache")
    return caught.value.what


# ---- list files


@pytest.fixture
def lists(tree: Path) -> ListFiles:
    """The tree again, as lists: `zero` is class 0, `one` class 1, `two` class 2."""
    for split in ("train", "reference"):
        lines = [
            f"{split}/{name}/{file.name} {label}\n"
            for label, name in enumerate(("zero", "one", "two"))
            for file in sorted((tree / split / name).glob("*.png"))
        ]
        (tree / f"{split}.txt").write_text("".join(lines))
    return ListFiles(
        root=tree,
        train_list=tree / "train.txt",
        reference_list=tree / "reference.txt",
        image_size=8,
        channels=1,
    )


def test_list_files(lists: ListFiles, tmp_path) -> None:
    splits = lists.load(tmp_path / "cache")
    assert splits.train.class_names == ("0", "1", "2")
    assert splits.train.class_counts.tolist() == [12, 6, 3]
    assert images_of(splits.train, 1) == PIXELS[first_of(1, 6)].tolist()
    assert images_of(splits.reference, 2) == PIXELS[first_of(2, 4, 50)].tolist()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/zero/000.png", "train.txt:22: not `path label`"),
        ("train/zero/000.png one", "000.png): label one is a word, while others are numbers"),
        ("train/zero/000.png -1", "train.txt:22: label -1 is not the number of a class"),
        (" 1", "train.txt:22: not `path label`"),
        ("train/zero/999.png 0", "train.txt:22 (train/zero/999.png): no image at "),
        ("train/zero/notes.txt 0", "train.txt:22 (train/zero/notes.txt): not an image"),
        ("../train/zero/000.png 0", "train.txt:22: ../train/zero/000.png leads out of "),
        ("train/../../000.png 0", "train.txt:22: train/../../000.png leads out of "),
        ("/etc/hostname 0", "train.txt:22: /etc/hostname leads out of "),
        ("train/zero/000.png 900000000", "train.txt:22 (train/zero/000.png): label 900000000"),
        (
            "train/zero/000.png 4",
            "train.txt:22 (train/zero/000.png): label 4, but no image has label 3",
        ),
    ],
)
def test_a_wrong_line_is_named(lists: ListFiles, tmp_path, line: str, message: str) -> None:
    with lists.train_list.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataProblem) as caught:
        lists.load(tmp_path / "cache")
    assert message in caught.value.what


def test_a_list_without_one_to_compare_with_holds_images_out(lists: ListFiles, tmp_path) -> None:
    alone = lists.model_copy(update={"reference_list": None}).load(tmp_path / "cache")
    assert alone.hold_out is not None
    assert alone.available == 21


def test_after_the_cut_a_damaged_image_is_named_by_its_own_line(lists: ListFiles, tmp_path) -> None:
    lines = lists.train_list.read_text().splitlines()
    of_class = {c: [line for line in lines if line.endswith(f" {c}")] for c in range(3)}
    balanced = [line for c in range(3) for line in of_class[c][:3]]
    lists.train_list.write_text("\n".join(balanced))
    for file in (lists.root / "train/two").iterdir():  # lines 7 to 9, of which one is kept
        file.write_bytes(b"damaged")
    cut = lists.model_copy(update={"long_tail": LongTail(ratio=3)})
    with pytest.raises(DataProblem, match=r"train.txt:(7|8|9) \(train/two/"):
        cut.load(tmp_path / "cache")


def test_a_label_without_a_name_is_named_by_its_line(lists: ListFiles, tmp_path) -> None:
    short = lists.model_copy(update={"class_names": ("zero", "one")})
    with pytest.raises(DataProblem, match=r"train.txt:19 .*: label 2 is outside the 2 classes"):
        short.load(tmp_path / "cache")


def test_a_missing_list_is_named(lists: ListFiles, tmp_path) -> None:
    lists.reference_list.unlink()
    with pytest.raises(DataProblem, match=r"reference.txt: no such file"):
        lists.load(tmp_path / "cache")


# ---- Parquet


def write_table(file: Path, **columns) -> None:
    """Digits 0 and 1: five rows each to train on, two each as reference; columns replaced."""
    index = np.concatenate([first_of(0, 5), first_of(1, 5), first_of(0, 2, 50), first_of(1, 2, 50)])
    table = {
        "image": [png(PIXELS[i]) for i in index],
        "label": pa.array(RAW.target[index], pa.int32()),
        "split": ["train"] * 10 + ["test"] * 4,
    }
    table |= columns
    parquet.write_table(pa.table({k: v for k, v in table.items() if v is not None}), file)


def test_parquet(tmp_path) -> None:
    write_table(tmp_path / "digits.parquet")
    config = Parquet(path=tmp_path / "digits.parquet", image_size=8, channels=1)
    splits = config.load(tmp_path / "cache")
    assert splits.train.class_names == ("0", "1")
    assert images_of(splits.train, 1) == PIXELS[first_of(1, 5)].tolist()
    assert images_of(splits.reference, 0) == PIXELS[first_of(0, 2, 50)].tolist()


def test_parquet_problems_are_named(tmp_path) -> None:
    file = tmp_path / "digits.parquet"

    def problem(**columns) -> str:
        write_table(file, **columns)
        with pytest.raises(DataProblem) as caught:
            Parquet(path=file, image_size=8).load(tmp_path / "cache")
        return caught.value.what

    images = [png(PIXELS[i]) for i in range(14)]
    assert problem(image=[*images[:11], images[11][:50], *images[12:]]).startswith(
        f"{file}, row 11: not an image"
    )
    assert problem(image=[*images[:13], None]) == f"{file}, row 13: nothing in column image"
    assert problem(label=[0] * 9 + [1] * 4 + [-2]).startswith(
        f"{file}, row 13: label -2 is outside"
    )
    assert problem(label=[0] * 10 + [1] * 4) == "training images: class 1 (1) has no image"
    assert problem(label=[0.5] * 14) == f"{file}: column label is double, not whole numbers or text"
    assert problem(split=["a"] * 10 + ["test"] * 4).startswith(f"{file}: no row has `train`")
    file.write_bytes(b"PAR1 not really")
    with pytest.raises(DataProblem, match="not a Parquet file"):
        Parquet(path=file).load(tmp_path)
    with pytest.raises(DataProblem, match="not a Parquet file"):
        Parquet(path=tmp_path / "absent").load(tmp_path)


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_real_cifar_lt(name: str, classes: int, tmp_path) -> None:
    file = SHARED / f"{name}-lt.parquet"
    if not file.exists():
        pytest.skip(f"{file} is not there; WHIPRAY_DATA may name its folder")
    table = parquet.read_table(file)
    labels = table["label"].to_numpy()
    split = table["split"].cast(pa.string()).to_numpy()
    train = labels[split == "train"]
    assert train.tolist() == sorted(train.tolist())  # by class, as the cut gives them
    assert np.bincount(train).tolist() == LongTail(ratio=100).counts(50_000, classes)
    assert np.bincount(labels[split == "test"]).tolist() == [10_000 // classes] * classes

    rows = [
        row
        for where in ("train", "test")
        for c in range(classes)
        for row in np.flatnonzero((labels == c) & (split == where))[:4]
    ]
    parquet.write_table(table.take(rows), tmp_path / "few.parquet")
    splits = Parquet(path=tmp_path / "few.parquet").load(tmp_path / "cache")
    names = table.schema.metadata[b"class_names"].decode()
    assert ",".join(splits.train.class_names) == names
    assert splits.train.class_counts.tolist() == [4] * classes
    assert splits.reference.image_shape == (3, 32, 32)
    both = np.concatenate([splits.train.images, splits.reference.images])
    for image, row in zip(both[::7], rows[::7], strict=True):
        direct = Image.open(io.BytesIO(table["image"][row].as_py())).convert("RGB")
        assert image.tolist() == np.asarray(direct).transpose(2, 0, 1).tolist()


# ---- CIFAR


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    """An archive in CIFAR-10's format, as Python 2 pickled it, with 150 images for 60,000.

    Its hashes take the place of the real ones. Image i is filled with the value i, class i % 10.
    """
    from torchvision.datasets import CIFAR10

    def old_pickle(content: dict) -> bytes:
        new = pickle.dumps(content, protocol=2)
        return new.replace(b"\x89\x88\x87", b"K\x00K\x01\x87")  # dtype("u1", 0, 1)

    files = {}
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for number, name in enumerate(names):
        values = np.arange(25, dtype=np.uint8) + 25 * number
        data = np.repeat(values[:, None], 3072, axis=1)
        data[:, :1024] = 255  # red comes first
        data[:, 1024 + 31] = 200  # green, first row, last column
        labels = [int(v) % 10 for v in values]
        files[name] = old_pickle({"data": data, "labels": labels})
    files["batches.meta"] = old_pickle({"label_names": [f"kind {i}" for i in range(10)]})
    path = tmp_path / "root" / "cifar-10-python.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

    def md5(content: bytes) -> str:
        return hashlib.md5(content).hexdigest()

    hashes = [[name, md5(content)] for name, content in files.items()]
    monkeypatch.setattr(CIFAR10, "train_list", hashes[:5])
    monkeypatch.setattr(CIFAR10, "test_list", hashes[5:6])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": hashes[6][1]})
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(path.read_bytes()))
    return path


def test_cifar_from_its_archive(archive: Path, tmp_path) -> None:
    config = Cifar(root=archive.parent, long_tail=LongTail(ratio=6))
    splits = config.load(tmp_path / "cache")
    assert splits.train.class_names == tuple(f"kind {i}" for i in range(10))
    assert splits.train.class_counts.tolist() == LongTail(ratio=6).counts(125, 10)
    assert splits.train.image_shape == (3, 32, 32)
    assert (splits.train.images[:, 0] == 255).all()
    assert (splits.train.images[:, 1, 0, 31] == 200).all()
    blue = splits.train.images[:, 2, 31, 31]
    assert (blue % 10 == splits.train.labels).all()
    assert len(set(blue.tolist())) == len(blue)
    assert splits.reference.images[:, 1, 0, 0].tolist() == list(range(125, 150))

    archive.unlink()  # extracted by now
    whole = Cifar(root=archive.parent, long_tail=LongTail(ratio=6), reference="train")
    again = whole.load(tmp_path / "cache")
    assert again.reference.images[:, 1, 0, 0].tolist() == list(range(125))
    assert again.train.fingerprint() == splits.train.fingerprint()
    # Classifiers are not tested on what they are trained on.
    unseen = whole.for_classifiers.load(tmp_path / "cache")
    assert unseen.reference.fingerprint() == splits.reference.fingerprint()
    assert unseen.train.fingerprint() == splits.train.fingerprint()


def test_a_damaged_archive_is_named_and_nothing_is_fetched(archive: Path, tmp_path) -> None:
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(DataProblem, match=r"cifar-10-python.tar.gz: damaged"):
        Cifar(root=archive.parent).load(tmp_path)


@pytest.mark.parametrize(
    ("source", "file"),
    [("cifar10", "cifar-10-python.tar.gz"), ("cifar100", "cifar-100-python.tar.gz")],
)
def test_missing_cifar_says_what_to_put_where(source: str, file: str, tmp_path) -> None:
    with pytest.raises(DataProblem) as caught:
        Cifar(source=source, root=tmp_path / "data").load(tmp_path)
    assert f"put {file} into {tmp_path / 'data'}" in caught.value.fix
    assert not (tmp_path / "data").exists()


# ---- the cache of decoded images


def bmp_tree(folder: Path, shade: int) -> Path:
    """Two classes of equal names, sizes and times whatever the shade."""
    for split in ("train", "reference"):
        for name in ("a", "b"):
            file = folder / split / name / "0.bmp"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), shade).save(file)
            os.utime(file, (10**9, 10**9))
    return folder


def shade_of(root: Path, cache: Path) -> int:
    splits = Folder(root=root, image_size=8, channels=1).load(cache)
    (shade,) = set(splits.train.images.ravel().tolist())
    return int(shade)


def test_folders_of_equal_names_sizes_and_times_are_told_apart(tmp_path: Path) -> None:
    first, second = bmp_tree(tmp_path / "first", 10), bmp_tree(tmp_path / "second", 20)
    assert shade_of(first, tmp_path / "cache") == 10
    assert shade_of(second, tmp_path / "cache") == 20


@pytest.mark.parametrize("settled", [False, True], ids=["just written", "long there"])
def test_a_file_changed_in_place_with_its_time_kept_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: bool
) -> None:
    if settled:
        monkeypatch.setattr(decoding, "SETTLED_S", -1.0)
    root, cache = bmp_tree(tmp_path / "tree", 10), tmp_path / "cache"
    assert shade_of(root, cache) == 10
    bmp_tree(root, 20)
    assert shade_of(root, cache) == 20
    assert len(list(cache.glob("*.key"))) == (4 if settled else 0)


def test_files_that_stay_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "SETTLED_S", -1.0)
    root, cache = bmp_tree(tmp_path / "tree", 10), tmp_path / "cache"
    assert shade_of(root, cache) == 10
    monkeypatch.setattr(decoding, "_hash_one", None)
    assert shade_of(root, cache) == 10


def test_a_flipped_bit_in_decoded_images_or_their_key_has_them_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decoding, "SETTLED_S", -1.0)
    root, cache = bmp_tree(tmp_path / "tree", 10), tmp_path / "cache"
    assert shade_of(root, cache) == 10
    for file in sorted(file for file in cache.rglob("*") if file.is_file()):
        size = file.stat().st_size
        for at in {-1 % size, size // 2, (-DIGEST_BYTES - 1) % size} if size else ():
            content = bytearray(file.read_bytes())
            content[at] ^= 4
            file.write_bytes(content)
            caplog.clear()
            assert shade_of(root, cache) == 10
            assert ("decoding them again" in caplog.text) == (file.suffix == ".bin")
