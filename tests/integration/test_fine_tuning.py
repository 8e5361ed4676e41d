"""Fine-tuning end to end: from the registry, a run and a folder; adapters on any workers and stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.marks import MLFLOW_WARNINGS
from support.sampling import ddim
from support.training import BATCH, Done, at, distance, state, tiny, train
from support.workers import Workers

from whipray.platform.config.experiment import Experiment
from whipray.platform.runs.beginning import begin
from whipray.platform.runs.resolve_pretrained import resolve_pretrained
from whipray.platform.runs.run import Plan, RunCallbacks
from whipray.platform.runs.run import train as train_run
from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.pretrained import load_pretrained, read_pretrained_record
from whipray.platform.storage.store import Storage
from whipray.platform.storage.trained_weights import export_run
from whipray.platform.tracking.mlflow_runs import Run
from whipray.platform.tracking.registry import (
    download,
    register,
    resolve,
    set_alias,
)
from whipray.platform.tracking.tracker import Tracker, open_tracker
from whipray.platform.tracking.versions import Version
from whipray.trainers.checkpoint import describe
from whipray.trainers.checkpoint_names import checkpoint_name
from whipray.trainers.errors import CheckpointProblem, UsageProblem
from whipray.trainers.export import WEIGHTS, load_exported
from whipray.trainers.sampling import SamplingConfig

pytestmark = [
    pytest.mark.slow,
    *MLFLOW_WARNINGS,
]

ROUNDING = 2e-5
HALF, END = 4 * BATCH, 8 * BATCH
DIGITS = [str(digit) for digit in range(10)]
CBDM = {"name": "cbdm"}
CALL = {"name": "call", "base": CBDM, "reserve": {"layers": ["up"], "rank": 1}}


@dataclass
class Lab:
    """A store with MLflow beside it."""

    root: Storage
    tracker: Tracker

    def experiment(self, model: str | None = None, **changes: Any) -> Experiment:
        section = {"pretrained": {"model": model, **changes.pop("also", {})}} if model else {}
        return tiny(
            storage={"uri": self.root.uri},
            tracking={"uri": self.tracker.uri, "system_metrics": False},
            **section,
            **changes,
        )

    def train(self, name: str, experiment: Experiment) -> tuple[Plan, list[float]]:
        """As `whipray train` does, up to the evaluation; the losses."""
        losses: list[float] = []

        def note(progress: Any) -> None:
            losses.append(progress.metrics["loss/total"])

        run = self.tracker.run(f"run/{name}", name, {})
        plan = Plan(experiment, self.root.child(f"runs/{name}"), run)
        begin(plan)
        train_run(plan, RunCallbacks(on_progress=note))
        return plan, losses

    def register(self, plan: Plan, sampling: SamplingConfig, name: str = "digits") -> Version:
        checkpoint = CheckpointStore(plan.store).latest()
        assert checkpoint
        return register(self.tracker, plan.run, plan.store, checkpoint, sampling, name, {}, str)

    def tags(self, run: Run) -> dict[str, str]:
        found = self.tracker.client.get_run(run.run_id).data.tags
        prefix = "whipray.pretrained."
        return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """`runs/base` is version 1 of `digits` and its champion, `runs/other` is version 2."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHIPRAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        root = Storage(StorageConfig(uri=str(tmp_path_factory.mktemp("store"))))
        lab = Lab(root, open_tracker(tiny().tracking, root))
        for name, seed in (("base", 0), ("other", 1)):
            plan, _ = lab.train(name, lab.experiment(seed=seed, training__images=HALF))
            version = lab.register(plan, ddim(50, 1.5))
            if name == "base":
                set_alias(lab.tracker, version, "champion")
        yield lab


def test_a_run_a_version_and_a_folder_are_the_same_start(lab: Lab, tmp_path: Path) -> None:
    folder = download(lab.tracker, resolve(lab.tracker, "models:/digits/1"), tmp_path / "own")
    of_base = lab.tracker.find("run/base").run_id
    sha = ""
    first_losses = set()
    for name, source, objective, expected in (
        ("from-run", "base", CBDM, {"run_id": of_base}),
        (
            "from-alias",
            "models:/digits@champion",
            CBDM,
            {"version": "models:/digits/1", "run_id": of_base},
        ),
        ("from-folder", str(folder), CBDM, {}),
        ("call-from-run", "base", CALL, {"run_id": of_base}),
    ):
        experiment = lab.experiment(source, objective=objective, training__images=2 * BATCH)
        plan, losses = lab.train(name, experiment)
        sha = sha or lab.tags(plan.run)["sha256"]
        assert lab.tags(plan.run) == {"model": source, "sha256": sha, **expected}
        first_losses.add(losses[0])
        document = json.loads(
            Path(
                lab.tracker.client.download_artifacts(
                    plan.run.run_id, "pretrained.json", str(tmp_path)
                )
            ).read_text()
        )
        assert document == json.loads(plan.store.read_text("pretrained.json"))
        pretrained = load_pretrained(plan.store, experiment.pretrained)
        assert pretrained is not None
        base = state(Path(lab.root.path) / "runs/base", HALF)[1]["ema"]
        assert all(torch.equal(pretrained.weights[name], tensor) for name, tensor in base.items())
    # CALL's reserved capacity starts at nothing, and so does its term
    assert len(first_losses) == 1
    assert len({path.split("/")[1] for path in lab.root.list("pretrained")}) == 1


def test_an_alias_that_moves_changes_no_run_that_has_begun(lab: Lab) -> None:
    champion = "models:/digits@champion"
    whole = lab.experiment(champion, objective=CBDM)
    undisturbed, losses = lab.train("undisturbed", whole)
    half = lab.experiment(champion, objective=CBDM, training__images=HALF)
    _, before = lab.train("interrupted", half)
    try:
        other = Version("digits", "2", (), None, {})
        set_alias(lab.tracker, other, "champion")
        interrupted, after = lab.train("interrupted", whole)
        moved, _ = lab.train("begun-later", half)
    finally:
        set_alias(lab.tracker, Version("digits", "1", (), None, {}), "champion")
    assert before + after == losses
    folder = Path(lab.root.path) / "runs"
    for kind, tensors in state(folder / "undisturbed")[1].items():
        assert distance(tensors, state(folder / "interrupted")[1][kind]) == 0
    assert lab.tags(interrupted.run) == lab.tags(undisturbed.run)
    assert lab.tags(moved.run)["version"] == "models:/digits/2"
    assert lab.tags(moved.run)["sha256"] != lab.tags(undisturbed.run)["sha256"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("models:/digit@champion", "no registered model is named digit — did you mean digits?"),
        ("models:/digits@champoin", "has no alias champoin — did you mean champion?"),
        ("models:/digits/7", "digits has no version 7 — its versions are 1 to 2"),
        ("bose", "no run bose with a checkpoint in .* — did you mean base?"),
        ("demo/3", "no run demo/3 with a checkpoint"),
    ],
)
def test_a_source_that_is_not_there_is_one_line_with_the_nearest(
    lab: Lab, source: str, says: str
) -> None:
    run = lab.root.child("runs/nothing")
    with pytest.raises(UsageProblem) as caught:
        resolve_pretrained(lab.experiment(source), run, DIGITS, (1, 8, 8))
    assert "\n" not in str(caught.value)
    caught.match(says)
    assert read_pretrained_record(run) is None


def test_a_registered_model_of_others_is_refused(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no model")
    run = lab.tracker.find("run/base")
    lab.tracker.client.log_artifact(run.run_id, str(tmp_path / "x"), "strange")
    lab.tracker.client.create_registered_model("strange")
    uri = f"runs:/{run.run_id}/strange"
    lab.tracker.client.create_model_version("strange", uri, run_id=run.run_id)
    experiment = lab.experiment("models:/strange/1")
    with pytest.raises(
        CheckpointProblem, match=r"models:/strange/1 in runs:/.*: no model that whipray exported"
    ):
        resolve_pretrained(experiment, lab.root.child("runs/nothing"), DIGITS, (1, 8, 8))


def test_adapters_are_sampled_with_and_without_the_experts(lab: Lab, tmp_path: Path) -> None:
    """As `whipray evaluate RUN sampling.weights=general` opens it, and as the registry keeps it."""
    adapters = {"lora": {"rank": 2}}
    general = {"objective": CALL, "sampling__weights": "general", "training__images": HALF}
    experiment = lab.experiment("base", also=adapters, **general)
    plan, _ = lab.train("adapters", experiment)
    images = {}
    for weights in ("merged", "general"):
        sampling = ddim(2, weights=weights)
        folder = tmp_path / weights
        folder.mkdir()
        export_run(plan.store, checkpoint_name(HALF), sampling, folder)
        model = load_exported(folder / "model")
        images[weights] = model.sample(torch.arange(10), model.card.sampling, seed=0)
        version = lab.register(plan, sampling, "adapted")
        assert lab.register(plan, sampling, "adapted") == version
        assert version.version == ("1" if weights == "merged" else "2")
        registered = download(lab.tracker, version, folder / "registered")
        kept, opened = (load_file(p / WEIGHTS) for p in (registered, folder / "model"))
        assert all(torch.equal(kept[name], tensor) for name, tensor in opened.items())
    assert not torch.allclose(images["merged"], images["general"], atol=1e-3)
    # what starts from it starts from all of it, however it samples
    record = resolve_pretrained(
        lab.experiment("adapters"), lab.root.child("runs/next"), DIGITS, (1, 8, 8)
    )
    assert record is not None
    assert record.sha256 == describe(tmp_path / "merged/model" / WEIGHTS).sha256


# -- adapters on any workers and stage -------------------------------------------------------------


@dataclass
class Groups:
    """Processes to train on, one and two of them."""

    one: Workers
    two: Workers

    def train(self, workers: int, experiment: Experiment, folder: Path) -> Done:
        """What worker 0 has to tell, after making sure that all tell the same."""
        if experiment.pretrained:
            resolve_pretrained(experiment, at(folder), DIGITS, (1, 8, 8))
        done = (self.one if workers == 1 else self.two).run(train, experiment, folder)
        for other in done:
            if isinstance(other, Exception):
                raise other
            assert other.losses() == done[0].losses()
        first: Done = done[0]
        return first

    def base(self, folder: Path, **changes: Any) -> Path:
        """A model to start from, exported."""
        self.train(1, tiny(training__images=BATCH, **changes), folder)
        export_run(at(folder), checkpoint_name(BATCH), SamplingConfig(), folder / "out")
        return folder / "out/model"


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    with Workers(1) as one, Workers(2) as two:
        yield Groups(one, two)


@pytest.fixture(scope="module")
def tuned(groups: Groups, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Done]:
    """Base and run of an undisturbed training of adapters: one worker, ZeRO 0."""
    base, folder = groups.base(tmp_path_factory.mktemp("base")), tmp_path_factory.mktemp("tuned")
    return base, folder, groups.train(1, adapters(base), folder)


def adapters(base: Path, **changes: Any) -> Experiment:
    section = {"model": str(base), "lora": {"rank": 2}}
    return tiny(pretrained=section, objective=CALL, **changes)


@pytest.mark.parametrize(
    ("before", "after"),
    [((2, 1), (1, 3)), ((2, 3), (1, 2)), ((1, 3), (2, 2)), ((1, 1), (2, 0))],
    ids=lambda pair: f"{pair[0]}-workers-zero-{pair[1]}",
)
def test_adapters_go_on_with_other_workers_and_another_stage(
    groups: Groups,
    tuned: tuple[Path, Path, Done],
    tmp_path: Path,
    before: tuple[int, int],
    after: tuple[int, int],
) -> None:
    (workers, stage), (later_workers, later_stage) = before, after
    base, folder, undisturbed = tuned
    half = adapters(base, engine__zero_stage=stage, training__images=HALF)
    first = groups.train(workers, half, tmp_path)
    second = groups.train(later_workers, adapters(base, engine__zero_stage=later_stage), tmp_path)
    assert second.trained.notes == [f"resumed from {HALF} images"]
    assert first.losses() + second.losses() == pytest.approx(undisturbed.losses(), rel=ROUNDING)
    (manifest, found), (reference, expected) = state(tmp_path), state(folder)
    assert manifest.pretrained == reference.pretrained
    for kind, tensors in expected.items():
        assert distance(tensors, found[kind]) < ROUNDING
        assert all(".parts." in name for name in found[kind])
    assert distance(expected["weights"], expected["ema"]) > 1000 * ROUNDING


def test_frozen_weights_that_zero_3_fetches_layer_by_layer(groups: Groups, tmp_path: Path) -> None:
    """Above 100,000 numbers DeepSpeed keeps only this worker's part between uses."""
    wide = {"model__base_channels": 48}
    base = groups.base(tmp_path / "base", **wide)
    whole = adapters(base, **wide, training__images=3 * BATCH)
    alone = groups.train(1, whole, tmp_path / "alone")
    zero_3 = {**wide, "engine__zero_stage": 3}
    shared = tmp_path / "shared"
    first = groups.train(2, adapters(base, **zero_3, training__images=BATCH), shared)
    second = groups.train(2, adapters(base, **zero_3, training__images=3 * BATCH), shared)
    assert first.losses() + second.losses() == pytest.approx(alone.losses(), rel=ROUNDING)
