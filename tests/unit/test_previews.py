"""Previews: what they cost, that a training is the same with them, and their page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.training import BATCH, at, copy_half_time, state, tiny, train

from whipray.platform.generation.loading import load_model
from whipray.platform.runs.hooks import StoreHooks
from whipray.platform.runs.previews import PreviewPage, last_strip, read_strips, strip_of
from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.platform.storage.errors import StorageProblem
from whipray.trainers.checkpoint_names import checkpoint_name
from whipray.trainers.data.batches import to_uint8
from whipray.trainers.previews import CALLS, Preview, few_calls, plan_previews
from whipray.trainers.randomness import derive_seed
from whipray.trainers.samplers import DDPMSampler, HeunSampler, UniPCSampler
from whipray.trainers.sampling import SamplingConfig

OFTEN = {"training__preview_every_images": 2 * BATCH}


def preview(images_seen: int, value: int = 0) -> Preview:
    images = np.full((2, 3, 1, 4, 5), value, np.uint8)
    images[1] = 255
    return Preview(images_seen, 100, ("rare & <fair>", "other"), (3, 9), images)


@pytest.mark.parametrize("images", [1000, 22_400, 10**6])
@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("omega", [0.0, 1.5])
def test_by_default_they_cost_little(images: int, classes: int, omega: float) -> None:
    sampling = {"sampler": {"name": "ddim"}, "guidance": {"omega": omega}}
    config = tiny(training__images=images, sampling=sampling)
    plan = plan_previews(config, [5] * classes, config.process)
    if plan.every_images == 0:  # even one image a class would cost too much
        assert images == 1000
        return
    moments = images / plan.every_images
    calls = 10 * (2 if omega else 1)
    passes = moments * plan.each * min(10, classes) * calls
    assert passes <= 0.015 * 3 * images
    assert moments <= 8
    if images == 10**6:
        assert (moments, plan.each) == (8, 4)


@pytest.mark.parametrize("sampler", [DDPMSampler(), HeunSampler(), UniPCSampler(steps=6)])
def test_they_take_few_calls_of_the_own_sampler(sampler: Any) -> None:
    process = tiny().process
    few = few_calls(SamplingConfig(sampler=sampler), process).sampler
    assert 0 < few.calls(process) <= CALLS
    assert few.name == ("ddim" if sampler.name == "ddpm" else sampler.name)
    assert few.calls(process) == min(sampler.calls(process), few.calls(process))
    if isinstance(sampler, UniPCSampler):
        assert few == sampler


@pytest.mark.parametrize("stage", [0, 2])
def test_a_training_is_the_same_with_them(stage: int, tmp_path: Path) -> None:
    without = train(
        tiny(engine__zero_stage=stage, training__preview_every_images=0), tmp_path / "a"
    )
    with_them = train(tiny(engine__zero_stage=stage, **OFTEN), tmp_path / "b")
    assert with_them.losses() == without.losses()
    for kind, tensors in state(tmp_path / "a")[1].items():
        for name, tensor in state(tmp_path / "b")[1][kind].items():
            assert torch.equal(tensor, tensors[name]), (kind, name)
    assert last_strip(at(tmp_path / "a")) is None
    seen = [strip.images_seen for strip in read_strips(at(tmp_path / "b"))]
    assert seen == [2 * BATCH, 4 * BATCH, 6 * BATCH, 8 * BATCH]


def test_without_whole_weights_there_are_none_and_a_note_says_it(tmp_path: Path) -> None:
    done = train(tiny(engine__zero_stage=3, **OFTEN), tmp_path)
    assert any("no previews" in note for note in done.trained.notes)
    assert read_strips(at(tmp_path)) == []


def test_they_are_images_of_the_averaged_weights(tmp_path: Path) -> None:
    experiment = tiny(**OFTEN)
    train(experiment, tmp_path)
    sampling = few_calls(experiment.sampling, experiment.process)
    model = load_model(at(tmp_path), checkpoint_name(4 * BATCH), sampling)
    counts = model.card.class_counts
    rarest = sorted(range(10), key=lambda c: counts[c])
    expected = model.sample(
        torch.tensor(rarest).repeat_interleave(4), sampling, derive_seed(experiment.seed, "preview")
    )
    strip = read_strips(at(tmp_path))[1]
    assert strip.train_counts == tuple(counts[c] for c in rarest)
    pixels = to_uint8(expected).numpy().reshape(10, 4, 1, 8, 8)
    wanted = strip_of(Preview(4 * BATCH, 8 * BATCH, strip.class_names, strip.train_counts, pixels))
    assert strip == wanted


def test_an_interrupted_training_goes_on_with_the_page(tmp_path: Path) -> None:
    train(tiny(**OFTEN), tmp_path / "whole")
    half = copy_half_time(tmp_path / "whole", tmp_path / "half")
    for strip in read_strips(at(tmp_path / "whole"))[:2]:
        file = half / f"previews/images-{strip.images_seen:012d}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(strip.png)
    train(tiny(**OFTEN), half)
    whole, again = (read_strips(at(folder)) for folder in (tmp_path / "whole", half))
    assert again == whole
    assert len(CheckpointStore(at(half)).names()) == 2
    page = (half / "preview.html").read_text()
    after = [page.index(f"After {n * BATCH} images") for n in (8, 6, 4, 2)]
    assert after == sorted(after)  # the newest first


def test_the_page_wraps_class_by_class_and_leaves_out_what_is_damaged(tmp_path: Path) -> None:
    page = PreviewPage(at(tmp_path).child("runs/a"))
    page.add(preview(10))
    strip = page.add(preview(30, 128))
    folder = tmp_path / "runs/a"
    with Image.open(folder / "previews/images-000000000030.png") as picture:
        assert picture.size == (10, 12)  # two classes wide, three images high
    text = (folder / "preview.html").read_text()
    assert text.count("<figure>") == 4
    assert "rare &amp; &lt;fair&gt;" in text
    assert "<h1>a</h1>" in text
    assert "http" not in text.replace("http-equiv", "")
    (folder / "previews/images-000000000010.png").write_bytes(b"no picture")
    assert read_strips(at(folder)) == [strip]
    PreviewPage(at(folder)).add(preview(50))
    assert (folder / "preview.html").read_text().count("<figure>") == 4


def test_a_store_that_fails_stops_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_preview: Preview) -> None:
        raise StorageProblem("the disk is full", "make room")

    store = CheckpointStore(at(tmp_path))
    hooks = StoreHooks(store, lambda _progress: False, on_preview=refuse)
    hooks.preview(preview(10))
    hooks.preview(preview(20))
    hooks.wait_for_uploads()
    assert caplog.text.count("a preview is not kept: the disk is full") == 2
