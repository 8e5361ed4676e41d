"""What lies in people's folders, lists and tables is read, or named; nothing is lost silently."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from whipray.trainers.data import Folder, ListFiles, Parquet, Splits
from whipray.trainers.data.packed import PackedImages
from whipray.trainers.errors import DataProblem

SIZE = 8
ORIENTATION = 0x0112


def picture(shade: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """Return a picture like no other shade's."""
    return Image.new("RGB", size, (shade, 255 - shade, 77))


def encoded(shade: int) -> bytes:
    buffer = io.BytesIO()
    picture(shade).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Classes a and b, two images each to train on and as reference."""
    for shade, (split, name, number) in enumerate(
        (split, name, number)
        for split in ("train", "reference")
        for name in "ab"
        for number in range(2)
    ):
        folder = tmp_path / "root" / split / name
        folder.mkdir(parents=True, exist_ok=True)
        picture(10 * shade).save(folder / f"{number}.png")
    return tmp_path / "root"


def load(root: Path) -> Splits:
    return Folder(root=root, image_size=SIZE).load(root.parent / "cache")


def problem(root: Path) -> DataProblem:
    with pytest.raises(DataProblem) as caught:
        load(root)
    return caught.value


def said(splits: Splits) -> str:
    return "\n".join(splits.report.lines())


# ---- folders


def test_an_ordinary_folder_gives_nothing_to_say(root: Path) -> None:
    for junk in (".DS_Store", "Thumbs.db", "._0.png"):
        (root / "train/a" / junk).write_bytes(b"junk")
    assert said(load(root)) == ""


def test_other_formats_and_subfolders_are_read_and_what_is_left_out_is_counted(root: Path) -> None:
    picture(100).save(root / "train/a/photo.JFIF", "JPEG")
    (root / "train/b/trip/day 2").mkdir(parents=True)
    picture(110).save(root / "train/b/trip/day 2/x.ppm")
    (root / "train/b/trip/up").symlink_to("..")  # a loop
    for name in ("1.heic", "2.heic", "notes.txt", "README"):
        (root / "train/a" / name).write_bytes(b"?")
    os.mkfifo(root / "train/a/pipe.png")
    picture(120).save(root / "train/beside.png")
    for folder in ("train/__MACOSX", "train/a/@eaDir"):
        (root / folder).mkdir()
        picture(130).save(root / folder / "thumbnail.png")
    splits = load(root)
    assert splits.train.class_names == ("a", "b")
    assert splits.train.class_counts.tolist() == [3, 3]
    assert splits.report.count("left out") == 8
    text = said(splits)
    for part in (
        "train: 8 files left out: 2 .heic (a/1.heic)",
        "1 .txt (a/notes.txt)",
        "1 without a suffix (a/README)",
        "1 pipe, device or dangling link (a/pipe.png)",
        "1 beside the folders of the classes (beside.png)",
        "1 folder made by macOS, may be deleted (__MACOSX)",
        "1 folder made by Synology, may be deleted (a/@eaDir)",
        "train: used from sub-folders of classes: 1 image",
    ):
        assert part in text


def test_a_class_of_files_that_are_not_read_says_which(root: Path) -> None:
    for file in (root / "train/b").iterdir():
        file.rename(file.with_suffix(".heic"))
    found = problem(root)
    assert found.what == "train images: class 1 (b) has no image; not read: 2 .heic (0.heic)"
    assert ".jpeg" in found.fix


def test_problems_are_shown_ten_at_once(root: Path) -> None:
    for number in range(12):
        (root / f"train/a/broken {number:02}.png").write_bytes(b"\x89PNG\r\n")
    lines = problem(root).what.splitlines()
    assert lines[0] == "12 problems of the data:"
    assert [f"broken {number:02}.png: not an image" in lines[1 + number] for number in range(10)]
    assert lines[11] == "  and 2 more"
    for file in (root / "train/a").glob("broken*"):
        file.unlink()
    for name in "cd":
        (root / "reference" / name).mkdir()
    assert problem(root).what.count("is not in both the folder and the list") == 2


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda a: (a / "x.png").symlink_to("gone.png"), "x.png: a link to a file that is not"),
        (lambda a: (a / "x.png").symlink_to("x.png"), "x.png: a link to a file that is not"),
    ],
    ids=["dangling", "loop"],
)
def test_an_image_that_is_a_link_to_nothing_is_named(root: Path, make, what: str) -> None:
    make(root / "train/a")
    assert what in problem(root).what


def test_a_class_folder_whose_name_is_not_utf8_is_named(root: Path) -> None:
    for split in ("train", "reference"):
        os.rename(root / split / "a", os.fsencode(root / split) + b"/caf\xe9")
    found = problem(root)
    assert "caf\\udce9: a name that is not UTF-8" in found.what
    assert "convmv" in found.fix
    found.what.encode()


def test_a_file_whose_name_is_not_utf8_is_read_and_named_when_damaged(root: Path) -> None:
    file = os.fsencode(root / "train/a") + b"/caf\xe9.png"
    os.rename(root / "train/a/0.png", file)
    assert load(root).train.class_counts.tolist() == [2, 2]
    with open(file, "wb") as stream:
        stream.write(b"damaged")
    assert b"caf\\udce9.png: not an image" in problem(root).what.encode()


@pytest.mark.parametrize("name", ["x" * 6000, "a\0b", "x/" * 3000], ids=["long", "nul", "deep"])
def test_a_path_that_cannot_be_is_a_problem_of_the_data(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    (tmp_path / "list.txt").write_text("a.png 0\n")
    lists = {"train_list": tmp_path / "list.txt", "reference_list": tmp_path / "list.txt"}
    for source in (
        Folder(root=root),
        ListFiles(root=root, **lists),
        ListFiles(root=tmp_path, train_list=root, reference_list=root),
        Parquet(path=root),
    ):
        with pytest.raises(DataProblem) as caught:
            source.load(tmp_path / "cache")
        assert len(caught.value.what) < 1000


def test_a_class_named_twice_is_refused(root: Path) -> None:
    with pytest.raises(DataProblem, match="class name a is given more than once"):
        Folder(root=root, class_order=("a", "b", "a")).load(root.parent / "cache")


def test_a_line_holds_ten_kinds_of_files_and_no_control_character(root: Path) -> None:
    for number in range(30):
        (root / f"train/a/scan.{number}\x1b[31m\n").write_bytes(b"?")
    (line,) = load(root).report.lines()
    assert line.startswith("train: 30 files left out: 1 .")
    assert line.endswith(" and 20 more")
    assert line.isprintable()


# ---- pixels


def test_an_image_is_turned_as_its_exif_data_say(root: Path) -> None:
    upright = picture(0, (40, 20))
    upright.paste((255, 0, 0), (0, 0, 20, 20))  # the left half is red
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # as a camera that was turned keeps it: its right is our bottom
    upright.transpose(Image.Transpose.ROTATE_90).save(root / "train/a/0.png", exif=exif)
    splits = load(root)
    image = splits.train.images[0].astype(int)
    assert (image[0, :, 0] > 200).all()
    assert (image[0, :, -1] < 50).all()
    assert "1 of 8 images turned or mirrored as the EXIF data say" in said(splits)
    assert "1 of 8 images not square" in said(splits)


@pytest.mark.filterwarnings("ignore:.*EXIF")
def test_damaged_exif_data_leave_an_image_as_it_is(root: Path) -> None:
    picture(0).save(root / "train/a/0.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    assert load(root).train.class_counts.tolist() == [3, 2]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_are_white_whatever_colour_they_hide(
    root: Path, mode: str, channels: int
) -> None:
    image = Image.new("RGBA", (SIZE, SIZE), (44, 56, 226, 0))
    image.paste((0, 0, 0, 255), (2, 2, 6, 6))
    if mode == "P":
        palette = Image.new("P", (SIZE, SIZE), 0)
        palette.putpalette([44, 56, 226, 0, 0, 0])
        palette.paste(1, (2, 2, 6, 6))
        palette.save(root / "train/a/0.png", transparency=0)
    else:
        image.convert(mode).save(root / "train/a/0.png")
    splits = Folder(root=root, image_size=SIZE, channels=channels).load(root.parent / "cache")
    expected = np.full((channels, SIZE, SIZE), 255)
    expected[:, 2:6, 2:6] = 0
    assert splits.train.images[0].tolist() == expected.tolist()
    assert splits.report.count("flattened") == 1


def test_an_opaque_alpha_channel_changes_nothing(root: Path) -> None:
    before = load(root).train.fingerprint()
    picture(0).convert("RGBA").save(root / "train/a/0.png")
    splits = load(root)
    assert splits.train.fingerprint() == before
    assert said(splits) == ""


def test_further_frames_and_small_images_are_said(root: Path) -> None:
    frames = [picture(shade, (4, 4)) for shade in (1, 2, 3)]
    frames[0].save(root / "train/a/0.gif", save_all=True, append_images=frames[1:])
    text = said(load(root))
    assert "1 of 9 images with several frames: only the first is used" in text
    assert "1 of 9 images smaller than the image size: enlarged" in text


def test_what_was_found_is_said_again_when_the_pixels_are_cached(root: Path) -> None:
    picture(0, (40, 20)).save(root / "train/a/0.png")
    first, again = load(root), load(root)
    assert again.report == first.report
    assert again.report.count("cropped") == 1


# ---- repeats


def test_equal_images_are_said_in_training_in_two_classes_and_in_both_splits(root: Path) -> None:
    same = (root / "train/a/0.png").read_bytes()
    (root / "train/a/copy.png").write_bytes(same)
    (root / "train/b/copy.png").write_bytes(same)
    (root / "reference/a/1.png").write_bytes(same)
    splits = load(root)
    kinds = ("repeated", "relabelled", "shared")
    assert [splits.report.count(kind) for kind in kinds] == [2, 1, 1]
    text = said(splits)
    assert f"{root}/train/b/copy.png is {root}/train/a/0.png" in text
    assert (
        f"1 of 4 reference images equal to a training image, so that metrics reward copies: {root}"
        in text
    )


# ---- lists


def listed(root: Path, content: bytes, **changes) -> ListFiles:
    (root / "train.txt").write_bytes(content)
    lines = [f"reference/{name}/{n}.png {c}\n" for c, name in enumerate("ab") for n in range(2)]
    (root / "reference.txt").write_text("".join(lines))
    config = ListFiles(
        root=root,
        train_list=root / "train.txt",
        reference_list=root / "reference.txt",
        image_size=SIZE,
    )
    return config.model_copy(update=changes)


GOOD = "train/a/0.png 0\ntrain/b/0.png 1\n"


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace(" ", "\t").encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace(" ", "  ").encode(),
        GOOD.encode("utf-16"),
        GOOD.replace(" ", ",").encode(),
        GOOD.replace(" ", ";").encode(),
        ("path label\n" + GOOD).encode(),
        b'label,image,width\n0,train/a/0.png,8\n1,"train/b/0.png",8\n',
        b"train\\a\\0.png 0\ntrain\\b\\0.png 1\n",
    ],
    ids=[
        "byte order mark",
        "tabs",
        "Windows line ends",
        "two spaces",
        "UTF-16",
        "commas",
        "semicolons",
        "header",
        "header of a table",
        "backslashes",
    ],
)
def test_a_list_of_other_systems_is_read(root: Path, content: bytes) -> None:
    splits = listed(root, content).load(root.parent / "cache")
    assert splits.train.class_counts.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("content", "what", "fix"),
    [
        (GOOD.encode("utf-16")[:-1], "not a list in UTF-16", "as UTF-8"),
        (b"foo,bar\ntrain/a/0.png,0\n", "train.txt: its header names foo, bar", "`path`"),
        (b"train/a/0.png,0,8\ntrain/b/0.png,1,8\n", "train.txt:1: 3 columns", "first line"),
        (b"train/a/0.png 0.0\n", "train.txt:1: label 0.0 is not the number", "0, 1, 2"),
        (
            b"train/a/0.png 0\ntrain/b/0.png b\n",
            "train.txt:2 (train/b/0.png): label b is a word, while others are numbers",
            "or all as words",
        ),
        (GOOD.encode() + b"train/a/\xe9.png 0", "train.txt:3: not a list in UTF-8", "as UTF-8"),
        (b"train/a/0.png 0\ntrain/\0/0.png 1\n", "train.txt:2: a byte 0", "as UTF-8"),
        (
            b"train/a/0.png 0 7\ntrain/b/0.png 1 7\n",
            "train.txt:1: three columns",
            "the image's path",
        ),
        (b"train/a/0.png\n", "train.txt:1: not `path label`", "a space and its class"),
        (b"train/a 0\ntrain/b/0.png 1\n", "train.txt:1 (train/a): a folder, pipe or", "the path"),
        (
            b"train/a/0.png 0\ntrain/b/0.png 3\n",
            "label 3, but no image has label 2",
            "without gaps",
        ),
        (b"", "train.txt: lists no image", "one line for each"),
    ],
)
def test_a_wrong_list_says_what_is_wrong_with_it(
    root: Path, content: bytes, what: str, fix: str
) -> None:
    with pytest.raises(DataProblem) as caught:
        listed(root, content).load(root.parent / "cache")
    assert what in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    "content",
    [
        b"train/b/0.png tench, Tinca tinca\ntrain/a/0.png golden retriever\n",
        b'image,label\ntrain/b/0.png,"tench, Tinca tinca"\ntrain/a/0.png,golden retriever\n',
        b"train/b/0.png\ttench, Tinca tinca\ntrain/a/0.png\tgolden retriever\n",
    ],
)
@pytest.mark.parametrize("names", [None, ("golden retriever", "tench, Tinca tinca")])
def test_labels_in_words_are_classes_of_both_lists(
    root: Path, content: bytes, names: tuple[str, ...] | None
) -> None:
    config = listed(root, content, class_names=names)
    config.reference_list.write_bytes(content.replace(b"train", b"reference"))
    splits = config.load(root.parent / "cache")
    assert splits.train.class_names == ("golden retriever", "tench, Tinca tinca")
    assert splits.train.labels.tolist() == [1, 0]
    assert splits.reference.labels.tolist() == [1, 0]


def test_a_word_that_is_no_class_is_named_by_its_line(root: Path) -> None:
    config = listed(root, b"train/a/0.png a\ntrain/b/0.png c\n", class_names=("a", "b"))
    config.reference_list.write_text("reference/a/0.png a\nreference/b/0.png b\n")
    with pytest.raises(DataProblem, match=r"train.txt:2 \(train/b/0.png\): label c is none of"):
        config.load(root.parent / "cache")


@pytest.mark.parametrize("names", [None, ("a", "b")])
def test_labels_that_start_at_1_are_said_so(root: Path, names: tuple[str, ...] | None) -> None:
    config = listed(root, b"train/a/0.png 1\ntrain/b/0.png 2\n", class_names=names)
    config.reference_list.write_text("reference/a/0.png 1\nreference/b/0.png 2\n")
    with pytest.raises(DataProblem) as caught:
        config.load(root.parent / "cache")
    assert "labels start at 1" in f"{caught.value}"
    assert "subtract 1 from every label" in caught.value.fix


def test_a_pipe_or_device_is_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "pipe")
    for path in (root / "pipe", Path("/dev/zero"), root):
        for source in (listed(root, b"", train_list=path), Parquet(path=path)):
            with pytest.raises(DataProblem, match=r"not a (Parquet )?file"):
                source.load(root.parent / "cache")
    with pytest.raises(DataProblem, match="a folder, pipe or device"):
        listed(root, b"pipe 0\ntrain/b/0.png 1\n").load(root.parent / "cache")


def test_wrong_lines_are_shown_ten_at_once(root: Path) -> None:
    with pytest.raises(DataProblem) as caught:
        listed(root, b"no label\n" * 300).load(root.parent / "cache")
    lines = caught.value.what.splitlines()
    assert lines[0] == "300 problems of the data:"
    assert lines[10].endswith("train.txt:10: not `path label` but `no label`")
    assert lines[11:] == ["  and 290 more"]


# ---- Parquet


def table(tmp_path: Path, metadata: dict[str, bytes] | None = None, **columns) -> Parquet:
    """Four classes, an image each to train on and as reference."""
    content = {
        "image": [encoded(shade) for shade in range(8)],
        "label": [0, 1, 2, 3] * 2,
        "split": ["train"] * 4 + ["test"] * 4,
        **columns,
    }
    rows = pa.table({name: column for name, column in content.items() if column is not None})
    parquet.write_table(rows.replace_schema_metadata(metadata or {}), tmp_path / "x.parquet")
    return Parquet(path=tmp_path / "x.parquet", image_size=SIZE)


HUGGING_FACE = {
    "info": {
        "features": {
            "image": {"_type": "Image"},
            "label": {"names": ["tench, Tinca", "b", "c", "d"], "_type": "ClassLabel"},
        }
    }
}


def test_tables_of_hugging_face_are_read_with_their_class_names(tmp_path: Path) -> None:
    images = [{"bytes": encoded(shade), "path": f"{shade}.png"} for shade in range(8)]
    names = {"huggingface": json.dumps(HUGGING_FACE).encode()}
    splits = table(tmp_path, names, image=images).load(tmp_path / "cache")
    assert splits.train.class_names == ("tench, Tinca", "b", "c", "d")
    assert splits.train.images[3, 0, 0, 0] == 3
    for wrong in (
        [{"bytes": None, "path": f"{shade}.png"} for shade in range(8)],
        [{"path": f"{shade}.png"} for shade in range(8)],
    ):
        with pytest.raises(DataProblem, match="bytes") as caught:
            table(tmp_path, image=wrong).load(tmp_path / "cache")
        assert "write the images themselves into the file" in caught.value.fix


def test_class_names_with_commas_are_a_json_list(tmp_path: Path) -> None:
    names = ["tench, Tinca", "b", "c", "d"]
    splits = table(tmp_path, {"class_names": json.dumps(names).encode()}).load(tmp_path / "cache")
    assert list(splits.train.class_names) == names
    with pytest.raises(DataProblem, match="5 class names for 4 classes") as caught:
        table(tmp_path, {"class_names": ",".join(names).encode()}).load(tmp_path / "cache")
    assert "JSON list if a name holds a comma" in caught.value.fix


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (b"caf\xe9,b,c,d", "class names in its metadata that cannot be read"),
        (b'["a", "b"', "class names in its metadata that cannot be read"),
        (b"[" * 100_000, "class names in its metadata that cannot be read"),
        (b"[1, 2, 3, 4]", "not a list of texts"),
        (b"a,,c,d", "class 1 has no name"),
        (b"a,b,a,d", "class name a is given more than once"),
    ],
)
def test_class_names_that_are_none_are_refused(tmp_path: Path, names: bytes, what: str) -> None:
    with pytest.raises(DataProblem, match=what):
        table(tmp_path, {"class_names": names}).load(tmp_path / "cache")


def rows_of(tmp_path: Path, file: str, shades: list[int], labels: list, **columns) -> None:
    """Write a file as Hugging Face does: images with their names, no column of splits."""
    images = [{"bytes": encoded(shade), "path": f"{shade}.png"} for shade in shades]
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"image": images, "label": labels, **columns}), tmp_path / file)


def shades_of(images: PackedImages) -> list[int]:
    return images.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (
            ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
            "test-00000-of-00001.parquet",
        ),
        (
            ["default/train/0000.parquet", "default/train/0001.parquet"],
            "default/validation/0000.parquet",
        ),
    ],
)
def test_a_split_of_several_files_is_known_by_their_names(
    tmp_path: Path, train: list[str], test: str
) -> None:
    rows_of(tmp_path / "data", train[0], [1, 2], [0, 1])
    rows_of(tmp_path / "data", train[1], [3, 4], [0, 1])
    rows_of(tmp_path / "data", test, [5, 6], [0, 1])
    files = tuple(tmp_path / "data" / file for file in (*train, test))
    for path in (tmp_path / "data", tmp_path / "data/**/*.parquet", files):
        splits = Parquet(path=path, image_size=SIZE).load(tmp_path / "cache")
        assert (shades_of(splits.train), shades_of(splits.reference)) == ([1, 2, 3, 4], [5, 6])
    alone = Parquet(path=files[:2], image_size=SIZE).load(tmp_path / "cache")
    assert alone.hold_out is not None
    assert alone.available == 4
    (tmp_path / "data" / train[1]).write_bytes(b"damaged")
    with pytest.raises(DataProblem, match=rf"{train[1]}: not a Parquet file"):
        Parquet(path=files, image_size=SIZE).load(tmp_path / "cache")


def test_other_splits_and_those_without_labels_are_not_read_and_said(tmp_path: Path) -> None:
    rows_of(tmp_path, "d/train.parquet", [1, 2], [0, 1])
    rows_of(tmp_path, "d/test.parquet", [3, 4, 5], [-1, -1, -1])
    rows_of(tmp_path, "d/validation.parquet", [6, 7], [0, 1])
    rows_of(tmp_path, "d/unsupervised.parquet", [8], [0])
    splits = Parquet(path=tmp_path / "d", image_size=SIZE).load(tmp_path / "cache")
    assert shades_of(splits.reference) == [6, 7]
    said = "\n".join(splits.report.lines())
    assert "compared with: validation (data.reference_split)" in said
    assert "not read: 4 rows of no split, test, without labels" in said
    with pytest.raises(DataProblem, match="no row has `dev`") as caught:
        Parquet(path=tmp_path / "d", image_size=SIZE, reference_split="dev").load(
            tmp_path / "cache"
        )
    assert "validation" in caught.value.fix


def test_without_splits_images_are_held_out(tmp_path: Path) -> None:
    splits = table(tmp_path, split=None).load(tmp_path / "cache")
    assert splits.hold_out is not None
    assert splits.available == 8
    assert table(tmp_path, split=["train"] * 8).load(tmp_path / "cache").hold_out is not None


def test_labels_in_words_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    words = ["wasp", "ant", "bee, wild", "fly"]
    config = table(tmp_path, label=words * 2)
    splits = config.load(tmp_path / "cache")
    assert splits.train.class_names == ("ant", "bee, wild", "fly", "wasp")
    assert splits.train.labels.tolist() == [3, 0, 1, 2]
    categories = pa.array(words * 2).dictionary_encode()
    again = table(tmp_path, label=categories).load(tmp_path / "cache")
    assert again.train.fingerprint() == splits.train.fingerprint()
    with pytest.raises(DataProblem, match=r"row 1: no label"):
        table(tmp_path, label=["wasp", "", "bee", "fly"] * 2).load(tmp_path / "cache")


def test_a_folder_or_pattern_without_tables_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, what in (
        ("empty", "a folder without a .parquet file"),
        ("x-*.parquet", "no file of"),
    ):
        with pytest.raises(DataProblem, match=what):
            Parquet(path=tmp_path / path).load(tmp_path / "cache")


# ---- large images


def test_a_jpeg_above_pillow_s_limit_is_read_reduced_and_others_are_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    large = picture(5, (160, 80))  # 12,800 pixels; up to 2,000 are read
    large.paste((200, 0, 0), (0, 0, 40, 80))  # cut off
    large.save(root / "train/a/2.jpg", quality=95)
    picture(200, (40, 40)).save(root / "train/a/3.png")  # Pillow would warn of it
    splits = load(root)
    assert splits.train.class_counts.tolist() == [4, 2]
    np.testing.assert_allclose(splits.train.images[2, :, 4, 4], (5, 250, 77), atol=3)
    assert "cut to the square" in said(splits)
    large.save(root / "train/a/2.png")
    found = problem(root)
    assert f"{root}/train/a/2.png: more than 0 million pixels" in found.what
    assert "JPEG, which is read reduced" in found.fix
