"""Guidance of finished runs: measured, cached by what guides, exported with its guide, and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from support.marks import MLFLOW_WARNINGS
from support.shell import TINY

import whipray
from whipray.platform.analysis.guidance import GuidanceResult, measure_guidance
from whipray.platform.analysis.guidance_points import (
    GUIDANCE,
    OMEGA,
    combinations,
    parse_lists,
)
from whipray.platform.analysis.sample import generate_images, load_target
from whipray.platform.analysis.target import evaluate_run, find_target
from whipray.platform.api.stores import open_store
from whipray.platform.config.layers import Layer, resolve
from whipray.platform.evaluation.pages.content import BestPoint
from whipray.platform.runs.find_run import find_run
from whipray.platform.runs.resolve_guide import fixed_sampling
from whipray.platform.storage.store import Storage
from whipray.platform.storage.trained_weights import export_run
from whipray.platform.tracking.registry import get, register
from whipray.platform.tracking.tracker import open_tracker
from whipray.trainers.data.batches import to_uint8
from whipray.trainers.export import load_exported
from whipray.trainers.sampling import SamplingConfig

pytestmark = [pytest.mark.slow, *MLFLOW_WARNINGS]

CALL = "objective={name: call, base: {name: cbdm}, reserve: {layers: [up], rank: 1}}"
SMALL = (*TINY, "training.checkpoint_every_images=128", "sampling.sampler.steps=3")
KID = "evaluation.metrics=[kid]"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """`a`, a CALL model with two checkpoints, and `b`, another one by flow matching."""
    folder = tmp_path_factory.mktemp("guidance")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WHIPRAY_CACHE", str(folder / "cache"))
        first = whipray.load_experiment("digits-demo", [*SMALL, CALL, "training.images=256"])
        whipray.train(first, run="a")
        others = ["training.images=128", "process.name=flow", "optimizer.warmup_images=64"]
        whipray.train(whipray.load_experiment("digits-demo", [*SMALL, *others]), run="b")
        yield open_store(None)


def quiet(_line: str) -> None:
    """Take a line about what is being done."""


def guided_by(guide: object, omega: float = 40.0) -> list[str]:
    """Overrides of autoguidance, so strong that little differences of networks show."""
    return [
        "sampling.guidance.name=autoguidance",
        f"sampling.guidance.omega={omega}",
        f"sampling.guidance.guide={guide}",
    ]


def measured(store: Storage, options: dict[str, str | None], over: list[str]) -> GuidanceResult:
    lists = parse_lists(options, over)
    return measure_guidance(store, None, "a", [], lists, quiet)


def test_two_kinds_on_one_page_and_the_best_on_other_noise(store: Storage) -> None:
    options = {GUIDANCE: "cfg,interval", OMEGA: "0,30"}
    result = measured(store, options, ["low=0.1,0.5"])
    document = json.loads(json.dumps(result.document()))
    settings = [(p["guidance"], p["omega"], p.get("low")) for p in document["points"]]
    assert settings == [
        ("cfg", 0, None),
        ("cfg", 30, None),
        ("interval", 30, 0.1),
        ("interval", 30, 0.5),
    ]
    for group, best in document["best"].items():
        key = f"kid/{group}"
        values = [p["values"][key]["value"] for p in document["points"]]
        assert best["chosen"]["value"] == min(values)
        assert best["held_out"]["value"] != best["chosen"]["value"]
        # what is reported is what an evaluation of the setting says
        overrides = [f"{k}={v}" for k, v in best["overrides"].items()]
        again = evaluate_run(store, None, "a", [KID, *overrides], quiet)
        assert again.images_generated == 0
        assert again.evaluated.metrics[key] == best["held_out"]["value"]
    page = result.store.read_text(result.page)
    assert "interval" in page
    assert "images of another noise" in page
    target = find_target(store, None, "a", [KID])
    with target.evaluator(quiet) as evaluator:  # the sweeps' search has the same noise
        searched = evaluator.evaluate_at({OMEGA: 30.0}, evaluator.search_seed)
        assert evaluator.images_generated == 0
        assert searched.metrics["kid/few"] == document["points"][1]["values"]["kid/few"]["value"]
    assert measured(store, options, ["low=0.1,0.5"]).document() == result.document()


def test_one_setting_is_no_choice(store: Storage) -> None:
    result = measured(store, {OMEGA: "30"}, [])
    (point,) = result.points
    assert result.best["overall"] == BestPoint(point, point)
    assert result.document()["best"]["overall"]["held_out"] is None
    evaluated = evaluate_run(store, None, "a", [KID, "sampling.guidance.omega=30"], quiet)
    assert evaluated.evaluated.metrics["kid/few"] == point.values["kid/few"].value


def test_a_setting_is_varied_where_it_exists() -> None:
    lists = {GUIDANCE: ["cfg", "groups"], OMEGA: [0, 1], "sampling.guidance.few": [2, 3]}
    assert combinations(SamplingConfig(), lists) == [
        {GUIDANCE: "cfg", OMEGA: 0},
        {GUIDANCE: "cfg", OMEGA: 1},
        {GUIDANCE: "groups", "sampling.guidance.few": 2},
        {GUIDANCE: "groups", "sampling.guidance.few": 3},
    ]


@pytest.mark.parametrize(
    ("options", "over", "says"),
    [
        ({}, ["low"], "is not KEY=V1,V2"),
        ({}, ["lwo=1"], "no setting of sampling has that name"),
        ({}, ["low="], "no values of sampling.guidance.low"),
        ({OMEGA: "1"}, ["omega=2"], "given twice"),
        ({GUIDANCE: "groups", OMEGA: "1"}, [], "guidance groups has no omega"),
        ({}, ["low=0.5"], "guidance cfg has no low"),
        ({GUIDANCE: "autoguidance"}, ["guide=c"], "no run c"),
        ({GUIDANCE: "autoguidance"}, ["guide=64"], "no finished checkpoint images-000000000064"),
        ({GUIDANCE: "autoguidance"}, ["guide=pretrained"], "starts from no other model"),
        ({GUIDANCE: "interval"}, ["low=300", "high=400"], "outside of the noise levels"),
    ],
)
def test_mistakes_are_named(
    store: Storage, options: dict[str, str | None], over: list[str], says: str
) -> None:
    with pytest.raises(whipray.Problem, match=says) as caught:
        measured(store, options, over)
    assert "\n" not in str(caught.value)


def test_each_guide_has_its_own_images(store: Storage) -> None:
    hashes, folders, metrics = [], [], []
    for guide in (128, "theta_g", "b"):
        result = evaluate_run(store, None, "a", [KID, *guided_by(guide)], quiet)
        hashes.append(result.evaluated.provenance["guide_content"])
        folders.append(result.evaluated.folder)
        metrics.append(result.evaluated.metrics["kid/overall"])
        assert store.child(f"pretrained/{hashes[-1][:16]}").exists("model.json")
    assert len(set(hashes)) == len(set(folders)) == len(set(metrics)) == 3
    own = evaluate_run(store, None, "a", [KID, *guided_by(256)], quiet).evaluated
    plain = evaluate_run(store, None, "a", [KID, "sampling.guidance.omega=0"], quiet).evaluated
    assert own.metrics["kid/overall"] == pytest.approx(plain.metrics["kid/overall"], rel=1e-4)


def sampling_of(store: Storage, overrides: list[str]) -> tuple[SamplingConfig, Any]:
    run = find_run(store, "a")
    experiment = find_target(store, None, "a", overrides).experiment
    return fixed_sampling(experiment, run.store, run.checkpoint), run


@pytest.mark.parametrize("guide", ["128", "b"])
def test_a_registered_model_carries_its_guide(
    store: Storage, guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling, run = sampling_of(store, guided_by(guide))
    tracker = open_tracker(run.experiment.tracking, store)
    parent = tracker.find(run.key)
    name = f"guided-{guide}"
    version = register(tracker, parent, run.store, run.checkpoint, sampling, name, {}, str)
    with find_target(store, None, "a", guided_by(guide)).evaluator(quiet) as evaluator:
        shards = evaluator.inputs.shards(sampling, seed=5)
        expected = evaluator.pipeline.shard_worker.generate(shards[0])
    monkeypatch.chdir(tmp_path)
    kept = Path(store.path) / "pretrained"
    kept.rename(tmp_path / "elsewhere")  # neither the store nor the run is asked any more
    try:
        model = load_target(store, tracker.uri, version.uri)
        labels = torch.from_numpy(shards[0].labels)
        images = to_uint8(model.sample(labels, model.card.sampling, 5)).numpy()
        assert np.abs(images.astype(int) - expected).max() <= 1
        pixels, _ = generate_images(model, [0, 1], 2, 0.0, None, seed=5)
        assert (pixels != expected[:4]).any()  # another omega
        mlflow.set_tracking_uri(tracker.uri)
        try:
            pyfunc = mlflow.pyfunc.load_model(version.uri)
            table = pd.DataFrame({"class_id": shards[0].labels})
            by_mlflow = pyfunc.predict(table, params={"seed": 5}).transpose(0, 3, 1, 2)
        finally:
            mlflow.set_tracking_uri(None)
        assert np.abs(by_mlflow.astype(int) - expected).max() <= 1
    finally:
        (tmp_path / "elsewhere").rename(kept)
    assert get(tracker, name, version.version).tags["whipray.model"].count("guide_content=") == 1


def test_a_guide_that_is_lost_or_another_is_one_line(store: Storage, tmp_path: Path) -> None:
    sampling, run = sampling_of(store, guided_by(128))
    export_run(run.store, run.checkpoint, sampling, tmp_path)
    folder = tmp_path / "model"
    assert load_exported(folder).guide is not None
    shutil.copytree(folder, tmp_path / "other")
    shutil.copy(folder / "model.safetensors", tmp_path / "other/guide/model.safetensors")
    with pytest.raises(whipray.Problem, match="not the guide checkpoint:images-000000000128"):
        load_exported(tmp_path / "other")
    shutil.rmtree(folder / "guide")
    with pytest.raises(whipray.Problem, match=r"no model\.json and model\.safetensors"):
        load_exported(folder)
    guidance: Any = sampling.guidance
    lost = sampling.model_copy(
        update={"guidance": guidance.model_copy(update={"content": "0" * 64})}
    )
    with pytest.raises(whipray.Problem, match="missing, and images are guided by it"):
        export_run(run.store, run.checkpoint, lost, tmp_path / "lost")


def test_groups_are_those_that_are_reported(store: Storage) -> None:
    overrides = ["sampling.guidance.name=groups", "sampling.guidance.few=2"]
    thirds, _ = sampling_of(store, overrides)
    ranges, _ = sampling_of(
        store, [*overrides, "evaluation.groups={kind: ranges, borders: [1, 9]}"]
    )
    strengths = [
        s.guidance.strengths([10 - c for c in range(10)]).tolist() for s in (thirds, ranges)
    ]
    assert strengths == [[0.0] * 6 + [2.0] * 4, [0.0] * 9 + [2.0]]
    assert thirds.identity() != ranges.identity()


def test_omega_is_for_guidance_that_has_it(store: Storage) -> None:
    model = load_target(store, None, "a")
    groups, _ = sampling_of(store, ["sampling.guidance.name=groups", "sampling.guidance.few=2"])
    by_groups = replace(model, card=model.card.model_copy(update={"sampling": groups}))
    with pytest.raises(whipray.Problem, match="the model's guidance groups has no omega"):
        generate_images(by_groups, [0], 1, 1.0, None, seed=0)


SPACE = """
description: a guide that nobody trained
train: {seed: {type: categorical, choices: [0]}}
sample:
  sampling.guidance.name: {type: categorical, choices: [cfg, autoguidance]}
  sampling.guidance.omega: {type: categorical, choices: [1.0, 2.0]}
  sampling.guidance.guide:
    {type: categorical, choices: [pretrained, GUIDE], when: {sampling.guidance.name: autoguidance}}
"""


def test_what_guides_a_search_exists_before_it_begins(store: Storage, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(SPACE.replace("GUIDE", "nobody"))
    start = [*SMALL, "pretrained.model=a", CALL, "training.images=64"]
    with pytest.raises(whipray.Problem, match="no run nobody"):
        whipray.sweep(str(space), recipe="digits-demo", name="lost", overrides=start)
    assert not list(store.child("sweeps/lost").list())


def test_another_guide_is_looked_up_anew() -> None:
    known = {"name": "autoguidance", "omega": 1.0, "guide": "a", "content": "a" * 64}
    layers = [
        Layer("the model", {"guidance": known}),
        Layer("the command", {"guidance.guide": "b"}),
    ]
    guidance: Any = resolve(SamplingConfig, layers[:1]).value.guidance
    assert guidance.content == "a" * 64
    guidance = resolve(SamplingConfig, layers).value.guidance
    assert (guidance.guide, guidance.content) == ("b", None)
