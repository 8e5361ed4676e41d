"""A run on a folder of classes alone: what it is compared with is held out, said, and noticed when it changes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.marks import MLFLOW_WARNINGS

import whipray
from whipray.platform.analysis.classify.classify import classify
from whipray.platform.config.experiment import Experiment
from whipray.platform.config.layers import resolve
from whipray.platform.config.recipes import recipe_layers
from whipray.platform.runs.find_run import find_run
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.trainers.errors import Problem, UsageProblem

pytestmark = [*MLFLOW_WARNINGS, pytest.mark.slow]

COUNTS = {"ant": 40, "bee": 30, "cat": 4}
OWN = """
extends: digits-demo
name: photos
data: {source: folder, root: photos, image_size: 16}
model: {base_channels: 8, norm_groups: 4, attention_resolutions: [8]}
training: {images: 32, batch_size: 16, report_every_images: 16, checkpoint_every_images: 32}
evaluation: {images_per_class: 2, bootstrap_resamples: 20, features: {extractor: classifier, epochs: 1}}
sampling: {sampler: {steps: 2}}
tracking: {system_metrics: false}
"""


def draw(file: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(buffer.getvalue())


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of classes; the present folder is the one above it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path / "cache"))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for n, (name, count) in enumerate(COUNTS.items()):
        for i in range(count):
            draw(tmp_path / f"photos/{name}/{i}.png", 1000 * n + i)
    (tmp_path / "own.yaml").write_text(OWN)
    return tmp_path / "photos"


def own() -> Experiment:
    return resolve(Experiment, recipe_layers("own.yaml")).value


def test_a_run_without_a_reference_says_what_it_is_compared_with_and_notices_other_images(
    photos: Path,
) -> None:
    whipray.train(own(), "mine")
    found = whipray.evaluate("mine", ["evaluation.metrics=[kid,agreement]"])
    (borrowed,) = (line for line in found["warnings"] if "hold some out" in line)
    assert borrowed.startswith("1 of 3 classes had too few images to hold some out")
    assert "(cat): copies of these look perfect in KID" in borrowed
    page = Path(found["report"]).read_text()
    assert f"<li>{borrowed}</li>" in page
    assert page.count("<small>training images</small>") == 1
    assert "real images, held out of the training's data," in page
    about = found["provenance"]
    assert about["reference_source"] == "folder, held out (20%)"
    assert about["reference_borrowed"] == "cat"
    assert about["n_real"] == len(own().data.load(photos.parent / "cache").reference.labels)

    store = Storage(StorageConfig(uri=str(photos.parent / "whipray-runs")))
    with pytest.raises(UsageProblem, match="classifiers cannot be tested on cat: too few images"):
        classify(find_run(store, "mine"), per_class=1)

    # Where cat has grown enough, some of the images that were trained on are held out.
    before = own().data.load(photos.parent / "cache")
    for number in range(40):
        draw(photos / f"cat/more{number}.png", 5000 + number)
    after = own().data.load(photos.parent / "cache")
    assert after.borrowed == ()
    for c in (0, 1):
        assert [split.class_counts[c] for split in (after.train, after.reference)] == [
            split.class_counts[c] for split in (before.train, before.reference)
        ]
    with pytest.raises(Problem, match="images of class cat has "):
        whipray.train(own(), "mine")
