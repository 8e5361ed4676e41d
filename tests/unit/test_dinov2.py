"""DINOv2's features, with a small random network that the library itself saves; skipped without the library."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits, load_sample_image

from whipray.platform.config.paths import with_absolute_paths
from whipray.platform.evaluation.config import EvaluationConfig
from whipray.platform.evaluation.evaluate import Classes, evaluate
from whipray.platform.evaluation.extractors import (
    build_extractor,
    check_extractor,
    with_own_classes,
)
from whipray.platform.evaluation.extractors.base import Extractor
from whipray.platform.evaluation.extractors.config import ClassifierConfig, Dinov2Config
from whipray.platform.generation import shards
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.trainers.data.packed import PackedImages
from whipray.trainers.errors import CheckpointProblem, UsageProblem

CPU = torch.device("cpu")
NAMES = ("zero", "one", "two")
HUB = Dinov2Config()


def test_without_the_extra_two_lines_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for may_fetch in (False, True):
        with pytest.raises(UsageProblem, match=r"transformers, .*pip install 'whipray\[dinov2\]'"):
            check_extractor(HUB, None, tmp_path, may_fetch, lambda _line: None)


def test_models_are_not_ranked_by_what_it_does_not_give() -> None:
    ranks: dict[str, Any] = {"metrics": ("inception_score",), "rank_by": "inception_score/overall"}
    EvaluationConfig(**ranks)
    with pytest.raises(ValidationError, match="needs class logits, which dinov2 has not"):
        EvaluationConfig(**ranks, features=HUB)


def test_a_folder_is_that_of_the_command_and_a_name_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evaluation = EvaluationConfig(features=Dinov2Config(model="own/dinov2"))
    assert with_absolute_paths(evaluation) is evaluation
    (tmp_path / "own" / "dinov2").mkdir(parents=True)
    expected = Dinov2Config(model=str(tmp_path / "own" / "dinov2"))
    assert with_absolute_paths(evaluation).features == expected


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_options: Any) -> None:
        raise ConnectionRefusedError("no network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def saved(folder: Path, seed: int = 0, **options: Any) -> Dinov2Config:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.Dinov2Config(**(sizes | options), initializer_range=0.3)
        network = transformers.Dinov2Model(config)
    transformers.utils.logging.disable_progress_bar()
    network.save_pretrained(folder)
    return Dinov2Config(model=str(folder))


def digits(per_class: int, skip: int = 0) -> PackedImages:
    found = load_digits()
    rows = np.concatenate(
        [np.flatnonzero(found.target == c)[skip : skip + per_class] for c in range(3)]
    )
    images = np.ascontiguousarray((found.images[rows] * 255 / 16).round().astype(np.uint8)[:, None])
    return PackedImages(images, found.target[rows].astype(np.int64), NAMES)


def opened(config: Dinov2Config) -> Extractor:
    return build_extractor(config, digits(2), Path("unused"), None, CPU)


def photographs(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.stack(
        [
            load_sample_image(name)[at : at + height, at : at + width].transpose(2, 0, 1)
            for name in ("china.jpg", "flower.jpg")
            for at in (0, 100)
        ]
    )


@pytest.mark.parametrize("size", [(40, 32), (320, 400)])
def test_features_are_the_library_s_of_pillow_s_pixels(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    """Pillow resizes with antialiasing in float32, in code of its own."""
    config = saved(tmp_path)
    images = photographs(*size)
    pixels = np.stack(
        [
            [
                np.asarray(Image.fromarray(channel.astype(np.float32)).resize((224, 224), 3))
                for channel in image
            ]
            for image in images
        ]
    ).clip(0, 255)
    colours = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, None, :, None, None]
    inputs = torch.tensor((pixels / 255 - colours[0]) / colours[1], dtype=torch.float32)
    transformers = pytest.importorskip("transformers")
    network = transformers.Dinov2Model.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = network(inputs).last_hidden_state[:, 0].numpy()
    extractor = opened(config)
    found = extractor.extract(images)
    assert found.features.shape == (4, 32)
    assert found.logits.shape == (4, 0)
    assert np.ptp(expected, axis=0).max() > 0.1  # the images differ
    np.testing.assert_allclose(found.features, expected, rtol=1e-3, atol=1e-3)
    one_by_one = extractor.extract(images, batch_size=1).features
    np.testing.assert_allclose(one_by_one, found.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        extractor.extract(images[:, :1]).features,
        extractor.extract(np.repeat(images[:, :1], 3, axis=1)).features,
    )


def test_the_hash_is_of_weights_and_settings_and_not_of_the_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = saved(tmp_path / "a")
    again, other = saved(tmp_path / "b"), saved(tmp_path / "c", seed=1)
    heads = saved(tmp_path / "d", num_attention_heads=4)  # its weights have the same shapes
    capfd.readouterr()
    state = torch.get_rng_state()
    infos = [opened(config).info for config in (first, again, other, heads)]
    assert torch.equal(torch.get_rng_state(), state)
    assert infos[0] == infos[1]
    assert len({info.hash for info in infos}) == 3
    assert str(tmp_path) not in str(infos[0])
    assert "bicubic with antialiasing to 224 x 224" in infos[0].preprocessing
    assert capfd.readouterr() == ("", "")


def test_what_is_no_dinov2_is_refused(tmp_path: Path) -> None:
    config = saved(tmp_path)
    weights, settings = tmp_path / "model.safetensors", tmp_path / "config.json"
    tensors = load_file(weights)
    tensor = tensors.pop("layernorm.weight")
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(CheckpointProblem, match=r"not weights of DINOv2: layernorm.weight is miss"):
        opened(config)
    save_file(
        {**tensors, "layernorm.weight": tensor, "more": tensor.clone()}, weights, {"format": "pt"}
    )
    with pytest.raises(CheckpointProblem, match="not weights of DINOv2: more is unexpected"):
        opened(config)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointProblem, match=r"model.safetensors: not weights of DINOv2: "):
        opened(config)
    weights.rename(tmp_path / "pytorch_model.bin")  # a pickle would have this name
    with pytest.raises(CheckpointProblem, match=r"model.safetensors: cannot be read \(No such"):
        opened(config)
    settings.write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(CheckpointProblem, match="a model of type vit, not dinov2"):
        opened(config)
    settings.unlink()
    with pytest.raises(CheckpointProblem, match=r"put a folder with config.json and model.safete"):
        opened(config)


def test_a_name_is_read_from_the_hub_s_cache_and_fetched_only_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # the hub's client tries five times

    def check(model: str, may_fetch: bool) -> None:
        config = Dinov2Config(model=model)
        check_extractor(config, None, tmp_path, may_fetch, lambda _line: None)

    check("facebook/dinov2-large", may_fetch=False)
    problem = r"dinov2-large: no such folder, and not fetched .*no network.*evaluation.features.mo"
    with pytest.raises(CheckpointProblem, match=problem):
        check("facebook/dinov2-large", may_fetch=True)
    assert capfd.readouterr() == ("", "")  # no line for each try
    with pytest.raises(CheckpointProblem, match="no such folder, and no OWNER/NAME"):
        check("./missing/folder", may_fetch=False)
    # The cache's own layout: a folder for each commit, and which commit `main` is.
    repository = tmp_path / "models--facebook--dinov2-large"
    saved(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text("0" * 40)
    assert opened(HUB).info.dimensions == 32


def test_an_evaluation_has_distances_and_agreement_and_says_what_it_has_not(tmp_path: Path) -> None:
    real, fake = digits(40), digits(40, 60)
    own = ClassifierConfig(epochs=1)
    extractor = with_own_classes(opened(saved(tmp_path)), real, tmp_path, None, own, CPU)
    extracted = [extractor.extract(side.images) for side in (fake, real)]
    store = Storage(StorageConfig(uri=str(tmp_path / "store")))
    shards.write(store, "shard", {"logits": extracted[0].logits})
    assert shards.read(store, "shard")["logits"].shape == (120, 0)
    metrics = ("kid", "inception_score", "agreement")
    config = EvaluationConfig(metrics=metrics, bootstrap_resamples=20)
    classes = Classes(NAMES, (100, 30, 10))
    report = evaluate(
        extracted[0], fake.labels, extracted[1], real.labels, classes, extractor.info, config, {}
    )
    assert set(report.rows[0].values) == {"kid", "agreement"}
    (line,) = [line for line in report.warnings if "Inception Score" in line]
    assert line.startswith("no Inception Score: dinov2 knows no classes; use another")
    both = [replace(side, logits=side.own_logits) for side in extracted]
    whole = evaluate(
        both[0], fake.labels, both[1], real.labels, classes, extractor.info, config, {}
    )
    assert "inception_score" in whole.rows[0].values
    assert not any("knows no classes" in line for line in whole.warnings)
