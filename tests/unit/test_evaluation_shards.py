"""Shards: every image once, the same image whoever makes it, and nothing made twice."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.sampling import ddim
from support.training import at

from whipray.platform.evaluation.extractors.base import Extractor, ExtractorInfo, Floats32, Pixels
from whipray.platform.evaluation.extractors.labelled import Labelled
from whipray.platform.evaluation.metrics.memorisation import TrainingImages
from whipray.platform.foundation.background import Lazy
from whipray.platform.generation.shard_tasks import ShardWorker
from whipray.platform.generation.shards import (
    GeneratedShard,
    by_class,
    features_name,
    generated_shards,
    read_features,
    read_images,
    read_nearest,
    real_shards,
    short_hash,
)
from whipray.trainers.data import Digits, Splits
from whipray.trainers.errors import CheckpointProblem
from whipray.trainers.export import Exported, ModelCard
from whipray.trainers.guidance import Denoiser
from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.processes import VPConfig
from whipray.trainers.sampling import SamplingConfig

SAMPLING = ddim(2, 0.5)
CPU = torch.device("cpu")


def model() -> Exported:
    """A small U-Net as it is born."""
    config = UNetConfig(
        base_channels=8,
        channel_mult=(1,),
        blocks_per_level=1,
        norm_groups=4,
        attention_resolutions=(),
    )
    process = VPConfig()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet(config, (1, 8, 8), 10).eval()
        for parameter in network.parameters():  # its last layer is born at zero
            torch.nn.init.normal_(parameter, std=0.2)
    card = ModelCard(
        model=config,
        process=process,
        sampling=SAMPLING,
        image_shape=(1, 8, 8),
        class_names=[str(c) for c in range(10)],
        class_counts=[5] * 10,
        images_seen=0,
        checkpoint="0" * 16,
    )
    return Exported(card, Denoiser(network, process.build(CPU)), CPU)


def model_for(_sampling: SamplingConfig) -> Exported:
    return model()


class Rows(Extractor):
    """Features are the first row of pixels, logits the mean."""

    info = ExtractorInfo("rows", "abcd", 8, "none", None)
    num_logits = 1

    def _extract(self, images: Pixels) -> tuple[Floats32, Floats32]:
        floats = images.astype(np.float32)
        return floats[:, 0, 0], floats.mean((1, 2, 3))[:, None]


def splits() -> Splits:
    return Digits().load(Path())


def training() -> TrainingImages:
    train = splits().train
    return TrainingImages(train.images, train.labels, "train")


def maker(folder: Path) -> ShardWorker:
    return ShardWorker(at(folder), model_for, Lazy(Rows), Lazy(splits), Lazy(training), 64)


def shards(counts: list[int], size: int = 80) -> list[GeneratedShard]:
    return generated_shards("samples/x", SAMPLING, 3, counts, size)


@given(st.lists(st.integers(0, 70), min_size=1, max_size=40).filter(any), st.integers(1, 700))
def test_every_image_is_in_one_shard(counts: list[int], size: int) -> None:
    found = shards(counts, size)
    pairs = Counter((c, i) for s in found for c, i in zip(s.labels, s.indices, strict=True))
    assert pairs == Counter((c, i) for c, n in enumerate(counts) for i in range(n))
    assert len({shard.stem for shard in found}) == len(found)
    assert max(map(len, found)) <= max(8, size)
    labels, indices, place = by_class(found)
    assert list(zip(labels, indices, strict=True)) == sorted(pairs)
    in_shards = np.concatenate([s.labels for s in found])
    assert (labels[place] == in_shards).all()


def test_more_images_add_shards() -> None:
    few, many = shards([100] * 10), shards([150] * 10)
    kept = {s.stem for s in few} & {s.stem for s in many}
    assert len(few) - len(kept) <= 1
    assert len(kept) > 5


def test_images_do_not_depend_on_their_shard(tmp_path: Path) -> None:
    """Other shards, other order, another process: the same images, and those of `sample`."""
    counts = [9, 0, 17, 3] + [1] * 6
    whole, cut = shards(counts, 1000), shards(counts, 8)
    one, other = maker(tmp_path / "one"), pickle.loads(pickle.dumps(maker(tmp_path / "other")))
    for shard in whole:
        one.generate(shard)
    for shard in reversed(cut):
        other.generate(shard)
    labels, indices, _ = by_class(whole)
    wanted = np.stack([labels, indices], 1)
    a, b = read_images(one.root, whole, wanted), read_images(other.root, cut, wanted)
    assert a.shape == (35, 1, 8, 8)
    assert np.abs(a.astype(int) - b).max() <= 1  # rounding of another batch
    assert len(np.unique(a.reshape(35, -1), axis=0)) == 35
    drawn = model().sample(torch.from_numpy(labels), SAMPLING, 3)
    assert np.abs(((drawn + 1) * 127.5).round().numpy() - a).max() <= 1


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    counts = [20] * 10
    found = shards(counts)
    assert len(found) == 3
    first = maker(tmp_path)
    first.extract_features(found[0])
    first.extract_features(found[2])
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    assert len(files) == 4

    asked = []
    second = maker(tmp_path)
    second.models = lambda sampling: asked.append(sampling) or model()
    for shard in found:
        second.extract_features(shard)
    assert asked == [SAMPLING]  # for the one that was missing
    assert (
        files.items() <= {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}.items()
    )
    labels, indices, place = by_class(found)
    seen = read_features(second.root, found, "abcd", place)
    images = read_images(second.root, found, np.stack([labels, indices], 1))
    assert (seen.features == images[:, 0, 0]).all()

    third = maker(tmp_path)  # another extractor draws nothing
    third.models = partial(pytest.fail, "drawn again")
    third.extractor = Lazy(Rows)
    third.extractor().info = replace(Rows.info, hash="ef01")
    third.extract_features(found[1])
    assert third.root.exists(features_name(found[1], "ef01"))


def test_copies_are_found_shard_by_shard(tmp_path: Path) -> None:
    found, one = shards([20] * 10), maker(tmp_path)
    for shard in found:
        one.find_nearest(shard)
    labels, indices, place = by_class(found)
    nearest = read_nearest(one.root, found, one.training(), place)
    images = read_images(one.root, found, np.stack([labels, indices], 1))
    at_once = training().find_nearest(images)
    for name, values in vars(at_once).items():
        np.testing.assert_array_equal(nearest[name], values)


def test_real_images_are_seen_in_their_order(tmp_path: Path) -> None:
    reference = splits().reference
    found = real_shards(reference, 100)
    assert [len(s) for s in found] == [100] * 7 + [40]
    one = maker(tmp_path)
    for shard in reversed(found):
        one.extract_features(shard)
    assert (read_features(one.root, found, "abcd").features == reference.images[:, 0, 0]).all()


def test_logits_of_a_second_network_are_kept_beside_the_first_s(tmp_path: Path) -> None:
    class Other(Rows):
        info = ExtractorInfo("other", "1234", 8, "none", tuple("abcdefghij"))
        num_logits = 10

        def _extract(self, images: Pixels) -> tuple[Floats32, Floats32]:
            features, logits = super()._extract(images)
            return features, np.repeat(-logits, 10, axis=1)

    reference = splits().reference
    found = real_shards(reference, 500)
    one = maker(tmp_path)
    one.extractor = Lazy(lambda: Labelled(Rows(), Other()))
    for shard in found:
        one.extract_features(shard)
    seen = read_features(one.root, found, "abcd-1234")
    means = reference.images.astype(np.float32).mean((1, 2, 3))[:, None]
    np.testing.assert_allclose(seen.logits, means, rtol=1e-6)
    np.testing.assert_allclose(seen.own_logits, np.repeat(-means, 10, axis=1), rtol=1e-6)


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("at", [-1, -9, 12], ids=["last value", "another value", "header"])
def test_a_flipped_bit_in_anything_kept_has_it_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, at: int
) -> None:
    [generated], [real, *_] = shards([2]), real_shards(splits().reference, 1000)
    one = maker(tmp_path)

    def make() -> None:
        one.extract_features(generated)
        one.find_nearest(generated)
        one.extract_features(real)

    make()
    files = {file: file.read_bytes() for file in tmp_path.rglob("*.safetensors")}
    assert len(files) == 4  # images, features and nearest of the generated, features of the real
    for file in files:
        flip(file, at)
        caplog.clear()
        make()
        assert [record.message for record in caplog.records] == [
            f"{file}: damaged; making it again"
        ]
        assert {path: path.read_bytes() for path in files} == files


def test_a_shard_that_is_damaged_where_it_is_only_read_is_named(tmp_path: Path) -> None:
    [found] = shards([2])
    one = maker(tmp_path)
    one.generate(found)
    [file] = tmp_path.rglob("*.safetensors")
    for damage in (partial(flip, at=-1), partial(Path.write_bytes, data=b"no tensors")):
        damage(file)
        with pytest.raises(CheckpointProblem, match=f"^{file}: damaged"):
            read_images(one.root, [found], np.array([[0, 0]]))


def test_only_what_changes_images_changes_their_folder() -> None:
    usual = SamplingConfig()
    assert (
        short_hash(usual.identity()) == "46eaac329e1a04f3"
    )  # as the stores of earlier versions have it
    for same in (SamplingConfig(batch_size=3), SamplingConfig(compile=True)):
        assert same.identity() == usual.identity()
    assert SamplingConfig(precision="bf16").identity() != usual.identity()
