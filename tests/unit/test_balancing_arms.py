"""What each arm of a comparison adds to the real images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.balancing import trained_source
from support.training import tiny
from torchvision.transforms.v2 import TrivialAugmentWide  # type: ignore[import-untyped]

from whipray.platform.balancing.added_images import augment_real_images, repeat_real_images
from whipray.platform.balancing.arms import Bench, added_images, arms_of, measure
from whipray.platform.balancing.augmentation import augment
from whipray.platform.balancing.candidates import Candidates
from whipray.platform.balancing.filling import ImageSource
from whipray.platform.config.balancing import BalancingConfig
from whipray.trainers.data import PackedImages, Splits
from whipray.trainers.errors import DataProblem, UsageProblem
from whipray.trainers.randomness import derive_seed


def images(labels: list[int], channels: int = 1, side: int = 8) -> PackedImages:
    """Random images of four classes."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (len(labels), channels, side, side)).astype(np.uint8)
    return PackedImages(pixels, np.array(labels), ("a", "b", "c", "d"))


def test_a_class_is_repeated_by_its_own_images_in_turn() -> None:
    real = images([0, 1, 0, 2, 0])
    copies = repeat_real_images(real, np.array([7, 0, 2, 0]))
    assert copies is not None
    made = copies.make(real, None)
    rows = [0, 2, 4, 0, 2, 4, 0, 3, 3]
    assert (made.images == real.images[rows]).all()
    assert made.labels.tolist() == [0] * 7 + [2] * 2
    assert repeat_real_images(real, np.zeros(4, np.int64)) is None
    with pytest.raises(DataProblem, match="class d has no real image"):
        repeat_real_images(real, np.array([0, 0, 0, 1]))


def test_augmented_copies_are_as_many_and_changed_by_their_seed() -> None:
    real, counts = images([0, 1, 0, 2, 0]), np.array([7, 0, 30, 0])
    copies, first = repeat_real_images(real, counts), augment_real_images(real, counts, 0)
    assert copies is not None
    assert first is not None
    plain, changed = copies.make(real, None), first.make(real, None)
    assert (changed.class_counts == counts).all()
    assert (changed.images == first.make(real, None).images).all()
    assert len(np.unique(changed.images[7:], axis=0)) > 15  # of one real image
    assert (changed.images != plain.images).any()
    other = augment_real_images(real, counts, 1)
    assert other is not None
    assert other.depends_on != first.depends_on
    assert (other.make(real, None).images != changed.images).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_augmented_image_is_torchvision_s_and_a_function_of_seed_class_and_index(
    channels: int,
) -> None:
    some = images([0, 1, 1, 3] * 8, channels, 32)
    before = torch.random.get_rng_state()
    changed = augment(some, 7)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (changed.images.shape, changed.images.dtype) == (some.images.shape, np.uint8)
    seen = [0, 0, 0, 0]
    for row, label in enumerate(some.labels.tolist()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(7, "augmented", label, seen[label]))
            expected = TrivialAugmentWide()(torch.from_numpy(some.images[row]))
        assert (changed.images[row] == expected.numpy()).all()
        seen[label] += 1
    alone = augment(some.select(np.flatnonzero(some.labels == 1)), 7)
    assert (alone.images == changed.images[some.labels == 1]).all()


def test_small_images_stay_in_sight() -> None:
    some = images([0] * 2000)
    black = (augment(some, 0).images == 0).all(axis=(1, 2, 3)).mean()
    shifted_out = 2 / 14 * 1 / 31  # by all of their 8 pixels
    assert black < 2 * shifted_out


COUNTS = np.array([0, 0, 0, 0, 2, 3, 4, 5, 6, 7])
FILTER = {"probability": 5e-7}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    """A run that was trained for two steps, without images."""
    folder = tmp_path_factory.mktemp("store")
    classification = {"network": "resnet8", "epochs": 1}
    experiment = tiny(
        training__images=64, classification=classification, sampling__sampler__steps=2
    )
    return trained_source(experiment, folder)


def filtering(source: ImageSource) -> ImageSource:
    balancing = BalancingConfig.model_validate({"filter": FILTER})
    return replace(source, experiment=source.experiment.model_copy(update={"balancing": balancing}))


def kept_of(labels: list[int]) -> np.ndarray:
    """A filter that rejects class 4 and every other image of the rest."""
    return np.array([label != 4 and row % 2 == 0 for row, label in enumerate(labels)])


def test_arms_add_as_many_images_of_each_class_as_the_filter_keeps(source: ImageSource) -> None:
    labels = np.repeat(np.arange(10), COUNTS)
    mask = kept_of(labels.tolist())
    candidates = Candidates(filtering(source), COUNTS, 1, given_mask=mask)
    added = {arm: added_images(arm, 0, candidates) for arm in arms_of(is_filtered=True)}
    assert added.pop("real") is None
    counts = {arm: each.counts.tolist() for arm, each in added.items() if each}
    kept = np.bincount(labels[mask], minlength=10).tolist()
    assert kept[4] == 0 < kept[5]
    assert counts.pop("unfiltered") == COUNTS.tolist()
    assert counts == dict.fromkeys(("repeated", "augmented", "random", "filtered"), kept)
    filtered = added["filtered"]
    assert filtered is not None
    assert (filtered.rows == np.flatnonzero(mask)).all()
    assert candidates.warnings() == (
        "the filter rejects all generated images of 4: real ones alone are left",
    )
    everything = Candidates(source, COUNTS, 1)
    assert everything.warnings() == ()
    assert arms_of(is_filtered=False) == ("real", "repeated", "augmented", "generated")
    unfiltered, generated = added["unfiltered"], added_images("generated", 0, everything)
    assert unfiltered is not None
    assert generated is not None
    assert unfiltered.depends_on == generated.depends_on != filtered.depends_on
    assert not source.store.list("samples")  # no image was needed for it


def test_what_is_left_to_chance_differs_by_seed_and_the_rest_does_not(source: ImageSource) -> None:
    mask = kept_of(np.repeat(np.arange(10), COUNTS).tolist())
    candidates = Candidates(filtering(source), COUNTS, 1, given_mask=mask)
    for arm in arms_of(is_filtered=True)[1:]:
        seeds = [added_images(arm, seed, candidates) for seed in (0, 0, 1, 2)]
        on = [str(each.depends_on) for each in seeds if each]
        assert on[0] == on[1]
        assert len(set(on)) == (3 if arm in ("augmented", "random") else 1), arm
    none = Candidates(filtering(source), COUNTS, 1, given_mask=np.zeros(COUNTS.sum(), np.bool_))
    assert [added_images(arm, 0, none) for arm in ("repeated", "random", "filtered")] == [None] * 3


def test_all_arms_are_measured_and_compared_with_what_the_filter_keeps(
    source: ImageSource,
) -> None:
    mask = kept_of(np.repeat(np.arange(10), COUNTS).tolist())
    arms = arms_of(is_filtered=True)
    measured = measure(filtering(source), COUNTS, arms, seeds=2, mask=mask)
    document = measured.document
    assert measured.trained == 12
    assert document["compared"] == "filtered"
    assert list(document["differences"]) == [
        "repeated",
        "random",
        "augmented",
        "unfiltered",
        "real",
    ]
    added = {arm: sum(counts) for arm, counts in document["images"]["added"].items()}
    kept, real = int(mask.sum()), sum(document["images"]["real"])
    equal = dict.fromkeys(("repeated", "augmented", "random", "filtered"), kept)
    assert added == {"real": 0, "unfiltered": 27, **equal}
    assert document["images"]["steps"]["unfiltered"] == -(-(real + 27) // 128)
    assert "generated images of 4:" in document["warnings"][0]
    assert "filtered generated images give beyond repeated real ones" in document["headline"]
    losses = {one["train_loss"] for arm in arms for one in document["arms"][arm]["trained"]}
    assert len(losses) == 12
    again = measure(filtering(source), COUNTS, arms, seeds=2, mask=mask)
    assert (again.document, again.content, again.trained) == (document, measured.content, 0)
    fewer = measure(filtering(source), COUNTS, ["filtered", "real"], seeds=1, mask=mask)
    assert fewer.trained == 0


def test_training_images_are_not_tested_on(source: ImageSource) -> None:
    train, test = source.splits.train, source.splits.reference

    def tested_on(rows: int) -> Splits:
        """Some training images among those to compare with."""
        images = np.concatenate([test.images, train.images[:rows]])
        labels = np.concatenate([test.labels, train.labels[:rows]])
        return Splits(train, PackedImages(images, labels, test.class_names))

    Bench.of(source.experiment, tested_on(3))  # as of data sets with a few images twice
    with pytest.raises(UsageProblem, match="on images that they are trained on"):
        Bench.of(source.experiment, tested_on(len(train.labels)))
