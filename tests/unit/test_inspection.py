"""What `whipray data check` says of images: every planted fault is found, none is invented."""

from __future__ import annotations

import io
import json
import shutil
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageOps
from pyarrow import parquet
from sklearn.datasets import load_sample_image

from whipray.platform.cli import main as cli
from whipray.platform.inspection.facts import Finding, Inspection
from whipray.platform.inspection.inspect import inspect
from whipray.platform.inspection.names import describe_names
from whipray.platform.inspection.near import near_pairs
from whipray.platform.inspection.source import source_of
from whipray.trainers.errors import DataProblem, UsageProblem

CLASSES = {"ant": 24, "bee": 14, "wasp": 12}
WIDTH, HEIGHT = 64, 60


@pytest.fixture(scope="session")
def tiles() -> list[Image.Image]:
    """Return 70 pieces of two photographs, without those of the sky and of a blurred background."""
    photos = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    pieces = [
        Image.fromarray(photo[y : y + HEIGHT, x : x + WIDTH])
        for photo in photos
        for y in range(0, photo.shape[0] - HEIGHT, HEIGHT)
        for x in range(0, photo.shape[1] - WIDTH, WIDTH)
    ]
    return sorted(pieces, key=lambda tile: -np.asarray(tile, float).std())[:70]


@pytest.fixture
def photos(tmp_path: Path, tiles: list[Image.Image]) -> Path:
    """Return a folder of three classes without a fault."""
    rest = iter(tiles)
    for name, count in CLASSES.items():
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(count):
            next(rest).save(folder / f"{i}.jpg", quality=92)
    return tmp_path / "photos"


def kinds(found: Inspection) -> dict[str, int]:
    return {finding.kind: finding.count for finding in found.findings}


def only(found: Inspection, kind: str) -> Finding:
    (finding,) = [each for each in found.findings if each.kind == kind]
    return finding


def test_a_folder_of_classes_is_described_and_nothing_is_invented(photos: Path) -> None:
    found = inspect(source_of([photos]))
    assert found.source == {"source": "folder", "root": str(photos)}
    assert {c.name: c.count for c in found.classes} == CLASSES
    assert all(c.held_out + c.remaining == c.count and not c.reference for c in found.classes)
    assert found.images == found.looked_at == sum(CLASSES.values())
    assert found.sizes is not None
    assert found.sizes.smallest == found.sizes.median == found.sizes.largest == (WIDTH, HEIGHT)
    assert found.sizes.not_square == 1.0
    assert (found.modes, found.formats) == ({"RGB": 50}, {"JPEG": 50})
    assert kinds(found).keys() <= {"too small to hold out"}  # which hash decides
    assert found.problem() is None


def png_header(width: int, height: int) -> bytes:
    """Return the beginning of a PNG of a size that nobody has the memory for."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT"


def plant(photos: Path, tiles: list[Image.Image]) -> None:
    """Put each fault into the folder once."""
    ant, bee, wasp = (photos / name for name in CLASSES)
    # left out: three, beside the classes, and what systems leave
    (ant / "phone.heic").write_bytes(b"0")
    (ant / ".hidden.jpg").write_bytes(b"0")
    (photos / "stray.jpg").write_bytes(b"0")
    (photos / "__MACOSX").mkdir()
    (ant / "Thumbs.db").write_bytes(b"0")
    (ant / "._0.jpg").write_bytes(b"0")
    (ant / "trip").mkdir()
    shutil.move(ant / "23.jpg", ant / "trip")
    # broken
    (bee / "empty.jpg").write_bytes(b"")
    (bee / "text.jpg").write_text("no image")
    whole = (bee / "0.jpg").read_bytes()
    (bee / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (bee / "bomb.png").write_bytes(png_header(30_000, 30_000))
    Image.fromarray(np.full((HEIGHT, WIDTH), 40_000, np.uint16)).save(bee / "deep.png")
    # treated
    turned = Image.Exif()
    turned[0x0112] = 6
    tiles[50].save(ant / "turned.jpg", exif=turned)
    clear = tiles[51].convert("RGBA")
    clear.putpixel((0, 0), (0, 0, 0, 0))
    clear.save(ant / "clear.png")
    tiles[52].save(ant / "film.gif", save_all=True, append_images=[tiles[53]])
    Image.new("RGB", (WIDTH, HEIGHT), (9, 99, 9)).save(ant / "blank.png")
    tiles[54].resize((30, 30)).save(ant / "small.png")
    # copies
    shutil.copy(ant / "0.jpg", ant / "again.jpg")
    shutil.copy(ant / "1.jpg", bee / "also.jpg")
    ImageOps.mirror(tiles[2]).save(ant / "mirrored.jpg", quality=50)
    tiles[3].resize((90, 84)).save(ant / "larger.png")
    tiles[4].crop((2, 0, WIDTH, HEIGHT)).save(wasp / "cropped.png")
    # classes
    for name, tile in (("fly", tiles[55]), ("WASP ", tiles[56])):
        (photos / name).mkdir()
        tile.save(photos / name / "0.png")
    (photos / "moth").mkdir()


def test_every_planted_fault_is_found_once(photos: Path, tiles: list[Image.Image]) -> None:
    clean = kinds(inspect(source_of([photos])))
    plant(photos, tiles)
    found = inspect(source_of([photos]))
    counts = kinds(found)
    assert counts.pop("too small to hold out") >= clean.get("too small to hold out", 0)
    assert counts == {
        "left out": 4,
        "nested": 1,
        "broken": 4,
        "deep": 1,
        "turned": 1,
        "transparent": 1,
        "frames": 1,
        "one colour": 1,
        "small": 1,
        "equal": 1,
        "equal across classes": 1,
        "near copies": 2,
        "near copies across classes": 1,
        "one image": 2,
        "similar names": 1,
        "empty class": 1,
    }
    assert set(only(found, "broken").examples) == {
        "bee/empty.jpg (empty file)",
        "bee/text.jpg (not an image)",
        "bee/cut.jpg (truncated)",
        f"bee/bomb.png (more than {2 * int(Image.MAX_IMAGE_PIXELS or 0)} pixels)",
    }
    assert only(found, "equal").examples == ("ant/again.jpg is ant/0.jpg",)
    assert only(found, "near copies across classes").examples == (
        "wasp/cropped.png is like ant/4.jpg",
    )
    assert only(found, "similar names").examples == ("`WASP ` and `wasp`",)
    for kind in ("phone.heic", "hidden", "stray.jpg", "may be deleted"):
        assert kind in only(found, "left out").text
    order = [finding.severity for finding in found.findings]
    assert order == sorted(order, key=["error", "warning", "info"].index)
    assert {f.kind for f in found.errors()} == {"broken", "deep", "empty class"}
    assert all(len(f.examples) <= 10 and "\n" not in f.text + f.fix for f in found.findings)
    assert json.loads(json.dumps(found.as_json()))["classes"][0]["name"] == found.classes[0].name


def test_a_huge_jpeg_is_no_fault_as_it_is_read_reduced(
    photos: Path, tiles: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = tiles[50].resize((8 * WIDTH, 8 * HEIGHT))
    huge.save(photos / "ant/huge.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    assert inspect(source_of([photos])).problem() is None
    huge.save(photos / "ant/huge.png")
    broken = only(inspect(source_of([photos])), "broken")
    assert broken.examples == ("ant/huge.png (more than 40000 pixels)",)


def test_splits_are_compared_with_each_other(tmp_path: Path, photos: Path) -> None:
    root = tmp_path / "splits"
    shutil.copytree(photos, root / "train")
    for name in CLASSES:
        (root / "reference" / name).mkdir(parents=True)
        for file in ("0.jpg", "1.jpg"):
            shutil.move(root / "train" / name / file, root / "reference" / name)
    shutil.copy(root / "train/ant/5.jpg", root / "reference/ant")
    with Image.open(root / "train/bee/5.jpg") as image:
        image.save(root / "reference/bee/5.webp", quality=70)
    shutil.copytree(photos / "ant", root / "val/ant")
    shutil.rmtree(root / "reference/wasp")
    found = inspect(source_of([root]))
    counts = kinds(found)
    assert counts.pop("reference folder") == 1
    assert counts == {
        "missing class": 1,
        "other folders": 1,
        "equal across splits": 1,
        "near copies across splits": 1,
    }
    assert [(c.count, c.held_out, c.reference) for c in found.classes] == [
        (22, 0, 3),
        (12, 0, 3),
        (10, 0, 0),
    ]


def test_labels_that_do_not_count_from_0_are_found_in_lists(photos: Path) -> None:
    files = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    names = sorted(CLASSES)
    lists = photos.parent / "lists"
    lists.mkdir()

    def check(labels: list[int], more: str = "") -> Inspection:
        lines = [f"{f} {labels[names.index(f.partition('/')[0])]}\n" for f in files]
        (lists / "train.txt").write_text("".join(lines[:-9]) + more)
        (lists / "val.txt").write_text("".join(lines[-9:]))
        return inspect(source_of([lists / "val.txt", lists / "train.txt"], photos))

    found = check([0, 1, 2])
    assert found.findings == ()
    assert [(c.name, c.count, c.reference) for c in found.classes] == [
        ("0", 24, 0),
        ("1", 14, 0),
        ("2", 3, 9),
    ]
    assert "start at 1" in only(check([1, 2, 3]), "labels").text
    assert "no image has label 1" in only(check([0, 2, 3]), "labels").text
    found = check([0, 1, 2], f"{files[0]} 0\nno label\nant/gone.jpg 0\n")
    counts = kinds(found)
    assert (counts["lines"], counts["broken"], counts["equal"]) == (1, 1, 1)
    assert found.images == len(files) + 2
    assert "gone.jpg" in only(found, "broken").text


def test_a_parquet_file_is_read_whichever_way_it_was_written(
    tmp_path: Path, tiles: list[Image.Image]
) -> None:
    def encoded(tile: Image.Image) -> bytes:
        stream = io.BytesIO()
        tile.save(stream, "PNG")
        return stream.getvalue()

    content = [encoded(tile) for tile in tiles[:60]]
    content[7] = content[3][:200]
    labels: list[Any] = [i % 3 for i in range(60)]
    splits = ["train"] * 40 + ["test"] * 18 + ["extra"] * 2
    file = tmp_path / "images.parquet"
    features = {"label": {"names": ["ant", "bee", "wasp"]}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    structs = [{"bytes": each, "path": None} for each in content]
    table = pa.table({"img": structs, "label": labels, "split": splits})
    parquet.write_table(table.replace_schema_metadata(metadata), file, row_group_size=16)
    found = inspect(source_of([file]))
    assert [(c.name, c.count, c.reference) for c in found.classes] == [
        ("ant", 14, 6),
        ("bee", 13, 6),
        ("wasp", 13, 6),
    ]
    assert kinds(found) == {"broken": 1, "left out": 2}
    assert only(found, "broken").examples == ("images.parquet, row 7 (truncated)",)
    labels[9] = None
    parquet.write_table(pa.table({"image": content, "label": labels}), file)
    found = inspect(source_of([file]))
    assert kinds(found)["labels"] == 1
    assert found.images == 59
    parquet.write_table(pa.table({"image": content}), file)
    with pytest.raises(DataProblem, match="no column label"):
        inspect(source_of([file]))


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["ant", "bee", "wasp"], None),
        (["0", "1", "2"], None),
        (["1", "2", "3"], "numbers"),
        (["1", "10", "2"], "numbers"),
        (["ant", "bee", "\u0430nt"], "similar names"),
        (["caf\u00e9", "cafe\u0301"], "similar names"),
        (["m\udce4rz", "ant"], "not text"),
    ],
)
def test_names_that_mislead_are_found(names: list[str], kind: str | None) -> None:
    assert [finding.kind for finding in describe_names(names)] == ([kind] if kind else [])


def test_near_copies_are_told_from_other_pieces_of_the_same_photograph(
    tiles: list[Image.Image],
) -> None:
    def small(tile: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.asarray(tile.resize((32, 32), Image.Resampling.BICUBIC))

    images = np.stack([small(tile) for tile in tiles])
    assert near_pairs(images).tolist() == []
    brighter = (images[:20] * 0.8 + 40).astype(np.uint8)
    cut = np.stack([small(tile.crop((1, 0, WIDTH, HEIGHT - 1))) for tile in tiles[20:40]])
    mirrored = images[40:60, :, ::-1]
    pairs = near_pairs(np.concatenate([images, brighter, cut, mirrored]))
    assert pairs.tolist() == [[i, i + len(images)] for i in range(60)]


def test_of_a_large_data_set_the_same_number_of_each_class_is_looked_into(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whipray.platform.inspection.looks.MOST", 30)
    monkeypatch.setattr("whipray.platform.inspection.looks.ALL_BELOW", 10)
    config = source_of([photos])
    found = inspect(config)
    assert found.looked_at == 30
    assert inspect(config, thorough=True).looked_at == found.images == 50


def test_paths_that_are_no_source_are_refused(photos: Path) -> None:
    for paths, word in (
        ([photos / "fly"], "no such file"),
        ([photos, photos], "one of them is a folder"),
        ([next(photos.rglob("*.jpg"))] * 3, "no one source"),
    ):
        with pytest.raises(UsageProblem, match=word):
            source_of(paths)


def test_the_command_shows_one_screen_and_says_whether_it_can_be_trained_on(
    photos: Path,
    tiles: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def whipray(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["whipray", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    code, out, _ = whipray("data", "check", str(photos))
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert lines[0].startswith("50 images of 3 classes")
    assert any(line.startswith(f"0 ant {'█' * 30} 24 ") for line in lines)
    assert any(line.startswith(f"2 wasp {'█' * 15} 12 ") for line in lines)
    assert "sizes 64 x 60; 100 % not square, to be cut to the square at the centre" in lines
    assert "formats JPEG 50" in lines
    plant(photos, tiles)
    code, out, err = whipray("data", "check", str(photos))
    assert code == 1
    assert len(out.splitlines()) < 60
    assert [line[:5] for line in err.splitlines()[-2:]] == ["error", "fix: "]
    code, out, _ = whipray("data", "check", str(photos), "--json")
    document = json.loads(out)
    assert (code, document["usable"]) == (1, False)
    assert whipray("data", "check", str(photos / "nothing"))[0] == 2
