"""Images that are held out stay there, whatever is added; classes too small for it lend their training images."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whipray.trainers.data import HoldOut, LongTail, Splits
from whipray.trainers.data import decoding as decoding_module
from whipray.trainers.data.decoding import UNREAD
from whipray.trainers.data.encoded import EncodedImages
from whipray.trainers.data.encoded_config import EncodedConfig
from whipray.trainers.data.encoded_splits import EncodedSplits
from whipray.trainers.data.hold_out import hold_out
from whipray.trainers.data.packed import PackedImages

BIG = (200, 120, 60)
"""Images of three classes that are held out of at any seed of these tests."""


def picture(seed: int) -> bytes:
    """Return an image of 8 x 8 random grey pixels as a PNG file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def encoded(counts: tuple[int, ...], first: int = 0) -> EncodedImages:
    labels = np.repeat(np.arange(len(counts)), counts)
    items = [picture(first + i) for i in range(len(labels))]
    return EncodedImages(items, labels, "image {}".format)


def packed(images: EncodedImages, cache: Path, **settings: object) -> Splits:
    config = Source.model_validate({"image_size": 8, "channels": 1} | settings)
    names = [f"c{c}" for c in range(int(images.labels.max()) + 1)]
    return config.choose(cache, images, None, names).decode(cache)


class Source(EncodedConfig):
    """Packs what it is given."""

    def prepare(self, cache: Path) -> EncodedSplits:
        """Read nothing."""
        raise NotImplementedError


def contents(images: PackedImages) -> set[tuple[int, bytes]]:
    return {
        (int(label), image.tobytes())
        for label, image in zip(images.labels, images.images, strict=True)
    }


def random_hashes(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, count, np.uint64)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_share_is_held_out_in_expectation(share: float) -> None:
    count = 200_000
    held = hold_out(random_hashes(count, 0), np.zeros(count, np.int64), 1, HoldOut(share=share))
    deviation = np.sqrt(share * (1 - share) / count)
    assert abs(held.mask.mean() - share) < 5 * deviation


@pytest.mark.parametrize("seed", range(20))
def test_images_that_are_added_move_no_other_unless_their_class_could_not_be_held_out_of(
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    classes, config = 6, HoldOut()
    labels = rng.integers(0, classes, 300) // rng.integers(1, 5, 300)  # uneven
    hashes = random_hashes(300, seed)
    hashes[rng.integers(0, 300, 30)] = hashes[0]  # copies, within and across classes
    order = rng.permutation(300)
    few, many = order[: rng.integers(20, 300)], order
    before = hold_out(hashes[few], labels[few], classes, config)
    after = hold_out(hashes[many], labels[many], classes, config)
    side = dict(zip(many.tolist(), after.mask.tolist(), strict=True))
    grown = set(before.borrowed) - set(after.borrowed)
    assert not set(after.borrowed) - set(before.borrowed)  # a class does not shrink
    for image, held in zip(few.tolist(), before.mask.tolist(), strict=True):
        if labels[image] not in grown:
            assert side[image] == held
    # Equal bytes are on one side, but for classes that keep all.
    own = ~np.isin(labels[many], after.borrowed)
    for value in np.unique(hashes[many][own]):
        assert len(set(after.mask[own & (hashes[many] == value)])) == 1
    assert not after.mask[~own].any()


def test_a_class_is_held_out_of_only_where_enough_different_images_are_on_both_sides() -> None:
    low, high = np.arange(1, 20, dtype=np.uint64), np.arange(1, 20, dtype=np.uint64) + 2**63

    def borrowed(hashes: list[np.ndarray]) -> bool:
        both = np.concatenate(hashes)
        held = hold_out(both, np.zeros(len(both), np.int64), 1, HoldOut())
        assert held.mask.any() == (held.borrowed == ())
        return held.borrowed == (0,)

    assert not borrowed([low[:2], high[:8]])
    assert borrowed([low[:1], high[:8]])
    assert borrowed([low[:2], high[:7]])
    assert borrowed([low[:1].repeat(9), high[:8]])  # one image, nine times
    assert borrowed([low[:2], high[:7], high[:7]])


@pytest.mark.parametrize(("count", "held"), [(9, 0), (10, 2), (100, 20)])
def test_the_expected_number_follows_the_same_rule(count: int, held: int) -> None:
    assert HoldOut().expected(count) == held
    assert HoldOut(share=0.5, remaining=60).expected(count) == 0


def test_one_split_becomes_two_without_losing_or_changing_an_image(tmp_path) -> None:
    images = encoded((*BIG, 5, 1))
    splits = packed(images, tmp_path)
    assert splits.borrowed == (3, 4)
    assert splits.hold_out == HoldOut()
    assert splits.available == len(images.items)
    everything = packed(images, tmp_path, hold_out={"at_least": 10**6})  # borrows every class
    ours, theirs = contents(splits.train), contents(splits.reference)
    assert ours | theirs == contents(everything.train) == contents(everything.reference)
    assert {label for label, _ in ours & theirs} == {3, 4}
    assert splits.train.class_counts.tolist()[3:] == [5, 1]
    assert splits.reference.class_counts.tolist()[3:] == [5, 1]
    for c, count in enumerate(BIG):
        held = int(splits.reference.class_counts[c])
        assert held + splits.train.class_counts[c] == count
        assert 0.1 < held / count < 0.3
    # By the bytes of the file alone, as this line of arithmetic has it.
    item, label = images.items[7], images.labels[7]
    assert isinstance(item, bytes)
    u = int.from_bytes(hashlib.sha256(item).digest()[:8], "little") / 2**64
    pixels = np.asarray(Image.open(io.BytesIO(item))).tobytes()
    assert ((int(label), pixels) in theirs) == (u < 0.2)


def test_images_are_decoded_once(tmp_path, monkeypatch) -> None:
    images, decoded = encoded((*BIG, 5)), []
    whole = decoding_module.read_pixels

    def counting(source, name, *rest):
        decoded.append(name)
        return whole(source, name, *rest)

    monkeypatch.setattr(decoding_module, "read_pixels", counting)
    first = packed(images, tmp_path)
    assert sorted(decoded) == sorted({f"image {i}" for i in range(len(images.items))})
    again = packed(images, tmp_path)
    assert len(decoded) == len(images.items)
    assert first.train.fingerprint() == again.train.fingerprint()
    assert first.reference.fingerprint() == again.reference.fingerprint()


def test_files_are_hashed_once_and_on_the_side_where_their_bytes_are(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(decoding_module, "SETTLED_S", -1.0)
    inline = encoded(BIG)
    for i, item in enumerate(inline.items):
        (tmp_path / f"{i}.png").write_bytes(bytes(item))
    names = [f"{i}.png" for i in range(len(inline.items))]
    files = EncodedImages(names, inline.labels, "image {}".format, tmp_path)
    splits = packed(files, tmp_path / "cache")
    assert contents(splits.reference) == contents(packed(inline, tmp_path / "cache").reference)
    monkeypatch.setattr(decoding_module, "_hash_one", None)
    assert (
        packed(files, tmp_path / "cache").reference.fingerprint() == splits.reference.fingerprint()
    )


def test_a_dry_run_counts_the_same_and_writes_nothing(tmp_path) -> None:
    images = encoded((*BIG, 5))
    splits, dry = packed(images, tmp_path), packed(images, UNREAD)
    assert dry.train.class_counts.tolist() == splits.train.class_counts.tolist()
    assert dry.reference.class_counts.tolist() == splits.reference.class_counts.tolist()
    assert dry.borrowed == splits.borrowed == (3,)


def test_a_tail_is_cut_out_of_what_is_not_held_out(tmp_path) -> None:
    images = encoded((60, 60, 60))
    whole = packed(images, tmp_path)
    cut = packed(images, tmp_path, long_tail=LongTail(ratio=10).model_dump())
    assert contents(cut.reference) == contents(whole.reference)
    assert contents(cut.train) < contents(whole.train)
    largest = len(whole.train.images) / 3
    wanted = LongTail(ratio=10).counts(len(whole.train.images), 3)
    assert wanted[0] == int(largest)
    available = whole.train.class_counts.tolist()
    assert cut.train.class_counts.tolist() == [
        min(w, a) for w, a in zip(wanted, available, strict=True)
    ]


def test_the_report_says_what_is_held_out_and_what_is_not(tmp_path) -> None:
    splits = packed(encoded((*BIG, 5, 1)), tmp_path)
    held = len(splits.reference.images) - 6
    lines = "\n".join(splits.report.lines())
    assert f"{held} of 386 images of 3 of 5 classes are held out" in lines
    assert "compared with its training images, where copies look perfect: c3, c4" in lines
    assert "metrics reward copies" not in lines  # which is for images in both by mistake
    assert splits.report.count("held out") == held
    assert splits.report.count("borrowed") == 2


def test_models_of_other_data_are_compared_with_all_images(tmp_path) -> None:
    splits = packed(encoded((*BIG, 5)), tmp_path)
    every = splits.real_images()
    assert every.class_counts.tolist() == [*BIG, 5]
    assert contents(every) == contents(splits.train) | contents(splits.reference)
