"""Validation images: which are set apart, of every source, and that no test image is read then."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whipray.platform.config.experiment import load_experiment
from whipray.platform.runs.notes import describe_data
from whipray.platform.runs.preflight import Subject
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.trainers.data import Digits, Folder, LongTail, Splits, Validation
from whipray.trainers.data.balanced import Balanced
from whipray.trainers.data.decoding import UNREAD
from whipray.trainers.data.identity import DataIdentity
from whipray.trainers.data.packed import PackedImages
from whipray.trainers.data.validation import choose_validation
from whipray.trainers.errors import DataProblem, UsageProblem

NAMES = tuple("abcdef")


def random_set(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes and labels of uneven classes of at least two, with copies within and across classes."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.full(rng.integers(3, 60), c) for c in range(len(NAMES))])
    hashes = rng.integers(0, 2**64, len(labels), np.uint64)
    copies = rng.integers(0, len(labels), (2, len(labels) // 5))
    hashes[copies[0]] = hashes[copies[1]]
    for c in range(len(NAMES)):  # two of each class that no other image is equal to
        hashes[np.flatnonzero(labels == c)[:2]] = rng.integers(0, 2**64, 2, np.uint64)
    return hashes, labels


@pytest.mark.parametrize("seed", range(20))
def test_each_class_is_on_both_sides_in_any_order_and_equal_images_are_on_one(seed: int) -> None:
    hashes, labels = random_set(seed)
    config = Validation(share=float(np.random.default_rng(seed).uniform(0.01, 0.5)), seed=seed)
    mask = choose_validation(hashes, labels, NAMES, config)
    for c in range(len(NAMES)):
        of_class = labels == c
        different = len(np.unique(hashes[of_class]))
        apart = len(np.unique(hashes[of_class & mask]))
        assert 1 <= apart <= max(1, round(config.share * different)) < different
    assert not np.isin(hashes[mask], hashes[~mask]).any()

    order = np.random.default_rng(seed).permutation(len(labels))
    assert (choose_validation(hashes[order], labels[order], NAMES, config) == mask[order]).all()
    other = config.model_copy(update={"seed": seed + 1})
    assert (choose_validation(hashes, labels, NAMES, other) != mask).any()
    # Images of other classes change nothing, unless one is equal.
    alone = labels == 0
    alone &= ~np.isin(hashes, hashes[labels != 0])
    more = choose_validation(hashes[alone], labels[alone], NAMES[:1], config)
    both = choose_validation(
        np.concatenate([hashes[alone], hashes[labels == 1]]),
        np.concatenate([labels[alone], labels[labels == 1]]),
        NAMES[:2],
        config,
    )
    assert (more == both[: len(more)]).all()


def test_a_class_of_one_different_image_is_refused_by_name() -> None:
    labels = np.array([0, 0, 0, 1, 1])
    hashes = np.array([1, 2, 3, 4, 4], np.uint64)
    with pytest.raises(DataProblem, match="too few different ones are of: b"):
        choose_validation(hashes, labels, "ab", Validation())


def contents(images: PackedImages) -> set[bytes]:
    return {image.tobytes() for image in images.images}


def check_takes_the_place_of_the_reference(
    without: Splits, apart: Splits, again: Splits, share: float
) -> None:
    assert contents(apart.reference) | contents(apart.train) == contents(without.train)
    assert not contents(apart.reference) & contents(apart.train)
    assert not contents(apart.reference) & contents(without.reference)
    expected = [max(1, round(share * n)) for n in without.train.class_counts]
    assert apart.reference.class_counts.tolist() == expected
    assert apart.report.count("validation") == sum(expected)
    assert apart.hold_out is None
    assert apart.validation is not None
    # The identity of the run's data is that of what is trained on; it follows the images.
    identities = [DataIdentity.of(splits.train) for splits in (without, apart, again)]
    assert identities[0].difference(identities[1]) is not None
    assert identities[1].difference(identities[2]) is None


def test_digits_are_validated_on_a_share_of_their_tail(tmp_path: Path) -> None:
    config = Digits(validation=Validation(share=0.3))
    check_takes_the_place_of_the_reference(
        Digits().load(tmp_path), config.load(tmp_path), config.load(tmp_path), 0.3
    )
    counts = Digits(validation=Validation()).load(tmp_path).reference.class_counts
    assert counts.tolist() == [20, 14, 10, 7, 5, 4, 3, 2, 1, 1]  # as docs/balancing.md says


def write_folder(root: Path, split: str, counts: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for c, count in enumerate(counts):
        (root / split / f"class{c}").mkdir(parents=True)
        for i in range(count):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(buffer, "PNG")
            (root / split / f"class{c}" / f"{i}.png").write_bytes(buffer.getvalue())


def test_a_folder_is_validated_whatever_its_files_are_called_and_its_test_images_are_not_read(
    tmp_path: Path,
) -> None:
    counts = (30, 12, 2)
    write_folder(tmp_path, "train", counts, 0)
    write_folder(tmp_path, "test", (3, 3, 3), 1)
    plain = Folder(root=tmp_path, image_size=8, channels=1)
    config = plain.model_copy(update={"validation": Validation()})
    without, apart = plain.load(tmp_path / "cache"), config.load(tmp_path / "cache")
    for file in (tmp_path / "test").glob("*/*.png"):
        file.write_bytes(b"never read")
    for file in (tmp_path / "train/class0").glob("*.png"):
        file.rename(file.with_name(f"z{99 - int(file.stem)}.png"))  # in another order
    again = config.load(tmp_path / "cache")
    assert contents(again.reference) == contents(apart.reference)
    assert again.train_name is not None
    assert "class" in again.train_name(0)
    check_takes_the_place_of_the_reference(
        without, apart, replace(again, train=apart.train), share=0.2
    )
    # A dry run decodes nothing, and knows the counts.
    dry = config.load(UNREAD)
    assert dry.reference.class_counts.tolist() == apart.reference.class_counts.tolist()
    assert dry.train.class_counts.tolist() == apart.train.class_counts.tolist()


def test_validation_images_are_cut_from_what_is_not_held_out_and_left_by_the_tail(
    tmp_path: Path,
) -> None:
    write_folder(tmp_path, "train", (60, 60), 0)
    tail = LongTail(kind="exponential", ratio=10)
    plain = Folder(root=tmp_path / "train", image_size=8, channels=1, long_tail=tail)
    without = plain.load(tmp_path / "cache")
    apart = plain.model_copy(update={"validation": Validation()}).load(tmp_path / "cache")
    assert without.hold_out is not None
    assert contents(apart.train) | contents(apart.reference) == contents(without.train)
    assert not (contents(apart.train) | contents(apart.reference)) & contents(without.reference)


def test_generated_images_of_a_balanced_set_are_not_set_apart(tmp_path: Path) -> None:
    with pytest.raises(DataProblem, match="in part generated"):
        Balanced(path=tmp_path, validation=Validation()).load(tmp_path / "cache")


def test_a_run_says_that_no_test_image_is_used_and_refuses_a_second_reference(
    tmp_path: Path,
) -> None:
    overrides = ["data.validation.share=0.2", f"storage.uri={tmp_path}"]
    experiment = load_experiment("digits-demo", overrides).value
    subject = Subject(experiment, Storage(StorageConfig(uri=str(tmp_path))), dry_run=True)
    assert describe_data(subject) == (
        "10 classes, 268 images, 80 to 4 of a class; 67 others of the tail, 20 to 1 of a class, are set apart "
        "to compare with (data.validation): no test image is used"
    )
    with pytest.raises(UsageProblem, match=r"data\.validation sets training images apart"):
        load_experiment("digits-demo", [*overrides, "evaluation.reference.source=digits"])
