"""What is done to images, how often, and that the network is conditioned on exactly that."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file
from scipy import stats
from support.folder_hooks import FolderHooks
from support.sampling import ddim
from support.training import BATCH, TINY
from torch import Tensor
from torch.nn.functional import pad

from whipray.platform.config.layers import Layer, resolve
from whipray.trainers.augmentations import (
    ADAConfig,
    AnyAugmentation,
    AugmentationConfig,
    DiffAugConfig,
    NoAugmentation,
)
from whipray.trainers.augmentations.ada import condition, transform
from whipray.trainers.augmentations.diffaug import color, cutout, translation
from whipray.trainers.checkpoint import verify
from whipray.trainers.checkpointing import ResumePoint
from whipray.trainers.devices import join_workers
from whipray.trainers.errors import UsageProblem
from whipray.trainers.export import WEIGHTS, export, load_exported
from whipray.trainers.loop import Training
from whipray.trainers.network import build_network
from whipray.trainers.randomness import BatchRandom, derive_seed
from whipray.trainers.trainer_config import TrainerConfig

CPU = torch.device("cpu")
MANY = 16_000
HEIGHT, WIDTH = 33, 49


def rows(count: int, first: int = 0, step: int = 0) -> BatchRandom:
    return BatchRandom(3, step, first, count, CPU)


def parameters(*given: dict[int, float]) -> Tensor:
    """a_0 .. a_7 a row, zero where not given."""
    return torch.tensor([[row.get(i, 0.0) for i in range(8)] for row in given]).double()


def images_of(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


# -- ADA: pixels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 9), (8, 8), (6, 11)])
def test_mirrors_are_exact_and_leave_the_rest_alone(shape: tuple[int, int]) -> None:
    images = images_of(4, 3, *shape)
    found = transform(images, parameters({}, {0: 1}, {1: 1}, {0: 1, 1: 1}))
    expected = [images[0], images[1].flip(2), images[2].flip(1), images[3].flip(1, 2)]
    assert torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize("size", [9, 8])
def test_a_quarter_turn_is_counter_clockwise(size: int) -> None:
    images = images_of(4, 1, size, size)
    quarter = math.pi / 2
    found = transform(images, parameters(*({3: k * quarter} for k in (1, 2, -1, 1e-9))))
    expected = [torch.rot90(images[i], k, (1, 2)) for i, k in enumerate((1, 2, -1, 0))]
    torch.testing.assert_close(found, torch.stack(expected), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, 2), (-4, 1), (10, -14)])
def test_a_move_by_whole_pixels_copies_pixels(right: int, down: int) -> None:
    """Right and down; what comes in is the image mirrored at its border's pixels."""
    height, width = 8, 12
    image = images_of(1, 2, height, width)
    found = transform(image, parameters({6: 8 * right / width, 7: 8 * down / height}))
    wide = np.pad(image[0].numpy(), ((0, 0), (16, 16), (16, 16)), mode="reflect")
    expected = wide[:, 16 - down : 16 - down + height, 16 - right : 16 - right + width]
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def smooth(channel: int, x: Any, y: Any) -> Any:
    """A function that goes on beyond the border as its own mirror image, like the padding."""
    u, v = math.pi * x / (WIDTH - 1), math.pi * y / (HEIGHT - 1)
    if channel:
        return 0.4 * np.cos(2 * u) + 0.3 * np.cos(v) + 0.2 * np.cos(u) * np.cos(2 * v)
    return 0.5 * np.cos(u) - 0.3 * np.cos(2 * v) + 0.2 * np.cos(u) * np.cos(v)


def seen_through(a: np.ndarray) -> np.ndarray:
    """One smooth image after the operations: section 5's matrices, one by one, in float64."""

    def turn(angle: float) -> np.ndarray:
        c, s = math.cos(angle), math.sin(angle)
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])

    stretch, scale = 2 ** (0.2 * a[5]), 2 ** (0.2 * a[2])
    move = np.eye(3)
    move[:2, 2] = a[6] * WIDTH / 8, a[7] * HEIGHT / 8
    to_centre = np.eye(3)
    to_centre[:2, 2] = -(WIDTH - 1) / 2, -(HEIGHT - 1) / 2
    there = (
        np.linalg.inv(to_centre)
        @ np.diag([1 - 2 * a[0], 1, 1])
        @ np.diag([1, 1 - 2 * a[1], 1])
        @ np.diag([scale, scale, 1])
        @ turn(-a[3])
        @ turn(a[4])
        @ np.diag([stretch, 1 / stretch, 1])
        @ turn(-a[4])
        @ move
        @ to_centre
    )
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    source = np.linalg.inv(there) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    return np.stack(
        [smooth(c, source[0], source[1]).reshape(HEIGHT, WIDTH) for c in (0, 1)]
    ).astype(np.float32)


ONE_AT_A_TIME = [{2: 1.0}, {2: -1.5}, {3: 0.7}, {4: 0.5, 5: 1.0}, {6: 1.2}, {7: -0.8}]


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.from_numpy(seen_through(np.zeros(8)))  # (2, HEIGHT, WIDTH)


def test_the_warp_is_the_product_of_the_matrices(image: Tensor) -> None:
    """Each operation alone and forty rows of all together, on an image wider than high."""
    everything = ADAConfig(probability=1).sample_parameters(rows(40))
    a = torch.cat([parameters(*ONE_AT_A_TIME), everything])
    found = transform(image.expand(len(a), -1, -1, -1), a)
    expected = np.stack([seen_through(row) for row in a.numpy()])
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.abs(expected - image.numpy()).max((1, 2, 3)).min() > 0.1


def test_the_numbers_say_what_was_done(image: Tensor) -> None:
    """Read the parameters back from the nine numbers, and the image is what they make of it.

    All but for the published ambiguity: a stretch and its inverse the other way round.
    """
    found, numbers = ADAConfig(probability=0.6)(image.expand(64, -1, -1, -1), rows(64))
    assert (numbers.shape, numbers.dtype) == ((64, 9), torch.float32)
    opposite = 0
    for row, pixels in zip(numbers.double().tolist(), found.numpy(), strict=True):
        x_flip, y_flip, scale, cos_less_1, sin, along_x, along_y, right, down = row
        turned = math.atan2(sin, cos_less_1 + 1)
        direction, stretch = math.atan2(along_y, along_x), math.hypot(along_x, along_y)
        readings = [
            [x_flip, y_flip, scale, turned, direction, stretch, right, down],
            [x_flip, y_flip, scale, turned, direction + math.pi, -stretch, right, down],
        ]
        gaps = [np.abs(pixels - seen_through(np.array(a))).max() for a in readings]
        assert min(gaps) < 2e-4
        opposite += gaps[1] < gaps[0]
    assert 8 < opposite < 32  # of about 38 that are stretched


def test_zeros_say_that_nothing_was_done() -> None:
    images = images_of(1, 3, 8, 8)
    assert torch.equal(condition(parameters({})), torch.zeros(1, 9))
    assert torch.equal(transform(images, parameters({})), images)
    a = parameters({0: 1, 1: 1, 2: 0.5, 3: 2.0, 4: -2.5, 5: 1.5, 6: -0.25, 7: 0.75})
    expected = [1, 1, 0.5, -1.416147, 0.909297, -1.201715, -0.897708, -0.25, 0.75]
    assert condition(a)[0].tolist() == pytest.approx(expected, abs=1e-6)


# -- ADA: how often -------------------------------------------------------------------------------


def test_each_operation_has_its_probability() -> None:
    a = ADAConfig().sample_parameters(rows(MANY)).numpy()
    done = a != 0
    for column, p in enumerate([0.5, 0.06, 0.12, 0.12, 0.12, 0.12, 0.12, 0.12]):
        assert stats.binomtest(int(done[:, column].sum()), MANY, p).pvalue > 1e-3, column
    assert (done[:, 4] == done[:, 5]).all()  # one coin for the stretch
    assert (done[:, 6] == done[:, 7]).all()  # and one for the move
    together = np.corrcoef(done[:, [0, 1, 2, 3, 4, 6]].T) - np.eye(6)
    assert np.abs(together).max() < 4.5 / MANY**0.5


def test_sizes_and_angles_have_their_distributions() -> None:
    a = ADAConfig(probability=1).sample_parameters(rows(MANY)).numpy()
    assert set(a[:, 0]) == set(a[:, 1]) == {0, 1}
    for column in (2, 5, 6, 7):
        assert stats.kstest(a[:, column], "norm").pvalue > 1e-3
    for column in (3, 4):
        uniform = stats.uniform(-math.pi, 2 * math.pi)
        assert stats.kstest(a[:, column], uniform.cdf).pvalue > 1e-3
    together = np.corrcoef(a.T) - np.eye(8)
    assert np.abs(together).max() < 4.5 / MANY**0.5


def test_at_probability_zero_only_the_mirror_is_left() -> None:
    images = images_of(64, 1, 5, 7)
    found, numbers = ADAConfig(probability=0)(images, rows(64))
    mirrored = numbers[:, 0].bool()
    assert 16 < mirrored.sum() < 48
    assert not numbers[:, 1:].any()
    assert torch.equal(found[mirrored], images[mirrored].flip(3))
    assert torch.equal(found[~mirrored], images[~mirrored])


# -- DiffAug ----------------------------------------------------------------------------------------


def test_color_is_three_uniform_changes() -> None:
    """Their sizes are read off the result, which they then explain to the last pixel."""
    x = images_of(MANY, 3, 2, 2).double()
    found = color(x, rows(MANY))
    grey, found_grey = x.mean(1, keepdim=True), found.mean(1, keepdim=True)
    mean = x.mean((1, 2, 3), keepdim=True)
    brightness = found.mean((1, 2, 3), keepdim=True) - mean
    contrast = _slope(grey - mean, found_grey - mean - brightness)
    saturation = _slope((x - grey) * contrast, found - found_grey)
    expected = ((x - grey) * saturation + grey - mean) * contrast + mean + brightness
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    for size, low, width in ((brightness, -0.5, 1), (saturation, 0, 2), (contrast, 0.5, 1)):
        sampled = size.flatten().numpy()
        assert stats.kstest(sampled, stats.uniform(low, width).cdf).pvalue > 1e-3


def _slope(x: Tensor, y: Tensor) -> Tensor:
    """The least-squares factor from x to y, (B, 1, 1, 1)."""
    return (x * y).sum((1, 2, 3), keepdim=True) / x.square().sum((1, 2, 3), keepdim=True)


def test_a_grey_image_has_no_saturation_to_change() -> None:
    """One channel and three equal ones come out alike."""
    x = images_of(32, 1, 8, 8)
    found = color(x, rows(32))
    torch.testing.assert_close(
        color(x.expand(-1, 3, -1, -1), rows(32)), found.expand(-1, 3, -1, -1)
    )
    assert (found.std((2, 3)) > 0.2).all()


@pytest.mark.parametrize(
    ("height", "width", "most"),  # int(size / 8 + .5), DiffAugment_pytorch.py
    [(24, 31, (3, 4)), (28, 28, (4, 4)), (19, 20, (2, 3))],
)
def test_translation_moves_by_up_to_an_eighth_and_fills_with_zeros(
    height: int, width: int, most: tuple[int, int]
) -> None:
    """By each of the moves equally often, and by no other."""
    count = 4_000
    image = images_of(1, 2, height, width)
    found = translation(image.expand(count, -1, -1, -1), rows(count))
    counts = []
    for down in range(-most[0], most[0] + 1):
        for right in range(-most[1], most[1] + 1):
            moved = pad(image, (right, -right, down, -down))
            counts.append(int((found == moved).flatten(1).all(1).sum()))
    assert sum(counts) == count
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 7), (12, 8), (9, 5)])
def test_cutout_takes_half_the_height_and_width(height: int, width: int) -> None:
    """Centred anywhere: an even length at each border between pixels, an odd one at each pixel."""
    kept = cutout(torch.ones(MANY, 2, height, width), rows(MANY))
    assert torch.equal(kept[:, 0], kept[:, 1])
    gone = kept[:, 0] == 0
    found = []
    for size, along in ((height, gone.any(2)), (width, gone.any(1))):
        length = (size + 1) // 2  # int(size / 2 + .5), DiffAugment_pytorch.py
        places = range(-(length // 2), size - length // 2 + (length % 2 == 0))
        expected = torch.tensor(
            [[start <= i < start + length for i in range(size)] for start in places]
        )
        found.append((along[:, None] == expected).all(2).long())  # (MANY, places), one-hot
    assert torch.equal(gone, gone.any(2)[:, :, None] & gone.any(1)[:, None, :])
    together = found[0].T @ found[1]  # how often each pair of places
    assert together.sum() == MANY
    assert stats.chisquare(together.flatten().numpy()).pvalue > 1e-3


def test_the_policy_is_followed_in_its_order() -> None:
    images, rng = images_of(8, 3, 16, 16), rows(8)
    expected = cutout(translation(color(images, rng), rng), rng)
    found, condition = DiffAugConfig()(images, rng)
    assert condition is None
    assert torch.equal(found, expected)
    found, _ = DiffAugConfig(policy=("cutout", "color"))(images, rng)
    assert torch.equal(found, color(cutout(images, rng), rng))
    found, _ = DiffAugConfig(policy=("translation",))(images, rng)
    assert torch.equal(found, translation(images, rng))


# -- both -------------------------------------------------------------------------------------------

BOTH = [ADAConfig(probability=0.5), DiffAugConfig()]


@pytest.mark.parametrize("augmentation", BOTH)
@pytest.mark.parametrize("channels", [1, 3])
def test_any_share_of_the_rows_is_augmented_alike(
    augmentation: AugmentationConfig, channels: int
) -> None:
    images = images_of(48, channels, 16, 12)
    before = images.clone()
    whole, numbers = augmentation(images, rows(48))
    assert torch.equal(images, before)
    for share in (24, 12, 1, 5):
        for first in range(0, 48, share):
            count = min(share, 48 - first)
            piece, condition = augmentation(images[first : first + count], rows(count, first))
            assert torch.equal(piece, whole[first : first + count])
            if numbers is not None:
                assert torch.equal(condition, numbers[first : first + count])
    other, _ = augmentation(images, rows(48, step=1))
    assert ((other - whole).abs().amax((1, 2, 3)) > 0.1).sum() > 24


@pytest.mark.parametrize("augmentation", BOTH)
def test_gradients_reach_the_images(augmentation: AugmentationConfig) -> None:
    """What augments is affine in the images: the gradient of a product is its transposed map."""
    x, z, y = (images_of(3 * 16, 2, 8, 8).view(3, 16, 2, 8, 8)[i] for i in range(3))
    x.requires_grad_()

    def f(images: Tensor) -> Tensor:
        return augmentation(images, rows(16))[0]

    (gradient,) = torch.autograd.grad((f(x) * y).sum(), x)
    with torch.no_grad():
        expected = ((f(x + z) - f(x)) * y).sum((1, 2, 3))
    torch.testing.assert_close((gradient * z).sum((1, 2, 3)), expected, atol=1e-4, rtol=1e-4)
    assert gradient.flatten(1).any(1).all()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"name": "adaptive"}, "'none', 'diffaug', 'ada'"),
        ({"name": "ada", "probability": 1.2}, "less than or equal to 1"),
        ({"name": "ada", "policy": ["color"]}, "Extra inputs"),
        ({"name": "diffaug", "policy": []}, "at least 1 item"),
        ({"name": "diffaug", "policy": ["rotation"]}, "'color', 'translation' or 'cutout'"),
        ({"name": "diffaug", "policy": ["color", "color"]}, "named twice"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TypeAdapter(AnyAugmentation).validate_python(given)


def test_defaults_are_the_papers() -> None:
    assert NoAugmentation()(images := images_of(2, 1, 4, 4), rows(2)) == (images, None)
    assert ADAConfig().probability == 0.12
    assert DiffAugConfig().policy == ("color", "translation", "cutout")
    assert (ADAConfig.numbers, ADAConfig.flips) == (9, True)
    assert (DiffAugConfig.numbers, DiffAugConfig.flips) == (0, False)


# -- in a training ----------------------------------------------------------------------------------


def config_of(**changes: Any) -> TrainerConfig:
    values = {key.replace("__", "."): value for key, value in changes.items()}
    base = {key: value for key, value in TINY.items() if key in TrainerConfig.model_fields}
    return resolve(TrainerConfig, [Layer("tiny", base), Layer("test", values)]).value


class Folder(FolderHooks):
    """Hooks that also resume from a checkpoint that they kept."""

    def resume(self, images_seen: int) -> ResumePoint:
        folder = self.folder / f"images-{images_seen:012d}"
        return ResumePoint(folder, verify(folder))


def test_ada_is_learnt_with_and_sampled_without(tmp_path: Path) -> None:
    """Trained with CBDM, resumed at half time, exported as a plain network."""
    config = config_of(
        augmentation__name="ada", augmentation__probability=0.5, objective__name="cbdm"
    )
    join_workers(CPU)
    torch.set_num_threads(1)
    data = config.data.load(Path())
    hooks, finals = Folder(tmp_path), []
    for half_time in (None, hooks):
        training = Training(config, data, CPU, half_time and half_time.resume(4 * BATCH))
        try:
            whole = training.batches.rows(BATCH, 0, BATCH)
            piece = training.batches.rows(BATCH, 8, 8)
            progress = training.run(
                hooks if half_time is None else Folder(tmp_path / "again"),
                config.model_dump(mode="json"),
            )
            finals.append(progress.metrics["loss/total"])
            trained = training.engine.network.augmentation.weight.detach().clone()
        finally:
            training.close()
        (tmp_path / "again").mkdir(exist_ok=True)
    assert finals[0] == pytest.approx(finals[1], rel=1e-5)
    assert torch.equal(piece.images, whole.images[8:16])
    assert torch.equal(piece.extra["augmentation"], whole.extra["augmentation"][8:16])

    torch.manual_seed(derive_seed(config.seed, "weights"))
    fresh = build_network(config, (1, 8, 8), data.train.class_names, None)
    moved = (trained - fresh.augmentation.weight).norm(dim=0)  # of each of the nine numbers
    assert (moved > 0.01).all()

    resume = hooks.resume(8 * BATCH)
    export(resume.folder, resume.manifest, tmp_path / "model", ddim(3, 0.5))
    plain = config_of().model
    assert not [name for name in load_file(tmp_path / "model" / WEIGHTS) if "augm" in name]
    model = load_exported(tmp_path / "model")
    assert (model.card.model, model.denoiser.network.augmentation) == (plain, None)
    images = model.sample(torch.tensor([1, 2]), model.card.sampling, seed=0)
    assert images.shape == (2, 1, 8, 8)
    assert images.isfinite().all()


def test_ada_takes_over_the_mirroring() -> None:
    with pytest.raises(UsageProblem, match=r"ada mirrors images itself: set data\.flip=false"):
        config_of(augmentation__name="ada", data__flip=True)
    assert config_of(augmentation__name="diffaug", data__flip=True).data.flip
