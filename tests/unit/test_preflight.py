"""What can be known before a training is checked before it, and a refused command changes nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.marks import MLFLOW_WARNINGS
from support.training import tiny, train

import whipray
from whipray.platform.analysis.classify.classify import classify
from whipray.platform.cli.main import main
from whipray.platform.compute.capacity import count_fitting_workers
from whipray.platform.compute.gpus import check_gpus
from whipray.platform.config.experiment import Experiment, load_experiment
from whipray.platform.config.layers import Layer, resolve
from whipray.platform.config.recipes import recipe_layers
from whipray.platform.runs import preflight
from whipray.platform.runs.find_run import find_run
from whipray.platform.runs.notes import notes
from whipray.platform.runs.preflight import check_training
from whipray.platform.runs.single_run import SingleRun
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.platform.tuning.sweep import plan_sweep
from whipray.platform.tuning.sweep_identity import (
    check_same_images,
    check_same_sweep,
    identity_of,
    read_identity,
)
from whipray.trainers.data.identity import DataIdentity
from whipray.trainers.errors import (
    DivergenceProblem,
    Problem,
    SeveralProblems,
    UsageProblem,
    combine,
)
from whipray.trainers.integrity import seal

pytestmark = [*MLFLOW_WARNINGS]
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")

NO_CLASS_IS_MANY: dict[str, Any] = {
    "evaluation__rank_by": "kid/many",
    "evaluation__groups": {"kind": "thresholds"},
}
COUNTS = {"ant": 9, "bee": 6, "cat": 3}
SIDE = 16
OWN = f"""
extends: digits-demo
name: photos
data: {{source: folder, root: photos, image_size: {SIDE}, long_tail: {{kind: none}}}}
model: {{base_channels: 8, norm_groups: 4, attention_resolutions: [8]}}
training: {{images: 64, batch_size: 16, report_every_images: 32, checkpoint_every_images: 64}}
evaluation: {{images_per_class: 2, bootstrap_resamples: 20, features: {{epochs: 1}}}}
sampling: {{sampler: {{steps: 2}}}}
tracking: {{system_metrics: false}}
"""


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of photos, and a recipe for them in the folder above it, which is the present one."""
    (tmp_path / "own.yaml").write_text(OWN)
    for split in ("train", "reference"):
        for name, count in COUNTS.items():
            for number in range(count):
                draw(tmp_path / "photos" / split / name / f"{number}.png", split, name, number)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path / "cache"))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "photos"


def draw(path: Path, *seed: object) -> None:
    """Write a picture that is like no other one."""
    rng = np.random.default_rng(list(hashlib.sha256(repr(seed).encode()).digest()))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)


def own(**values: Any) -> Experiment:
    changed = {key.replace("__", "."): value for key, value in values.items()}
    return resolve(Experiment, [*recipe_layers("own.yaml"), Layer("test", changed)]).value


def found(experiment: Experiment, dry_run: bool = True) -> list[str]:
    """What the checks tell of a training, one line each."""
    try:
        check_training(SingleRun("mine", experiment).subject(dry_run))
    except SeveralProblems as several:
        return [problem.what for problem in several.problems]
    except Problem as problem:
        return [problem.what]
    return []


def snapshot(folder: Path) -> dict[str, Any]:
    """Every file of a store by its hash, and every row of its MLflow."""
    database = folder / "mlflow.db"
    files = [path for path in folder.rglob("*") if path.is_file() and path != database]
    content: dict[str, Any] = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    with sqlite3.connect(database) as connection:
        tables = connection.execute("select name from sqlite_master where type='table'").fetchall()
        for (table,) in tables:
            rows = connection.execute(f'select * from "{table}"')
            content[f"table {table}"] = sorted(map(repr, rows))
    return content


def records(folder: Path) -> dict[str, str]:
    with sqlite3.connect(folder / "mlflow.db") as connection:
        rows = dict(connection.execute("select key, value from tags").fetchall())
        (rows["status"],) = connection.execute("select status from runs").fetchone()
    return rows


# -- a refused command ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_refused_command_leaves_the_run_and_its_records_as_they_were(photos: Path) -> None:
    store = photos.parent / "whipray-runs"
    whipray.train(own(), "mine")
    before = snapshot(store)

    def refused(says: str, **values: Any) -> None:
        with pytest.raises(Problem) as raised:
            whipray.train(own(**values), "mine")
        assert says in raised.value.what
        assert snapshot(store) == before

    refused("objective.tau=1.0, not 9.0", objective__tau=9)
    refused("objective.name=cbdm, not ddpm", objective__name="ddpm")
    refused("process.name=vp, not edm", process__name="edm")
    refused("model.name=unet, not ddpmpp", model__name="ddpmpp")
    refused("has seen 64 images already, and training.images=16", training__images=16)
    refused("none of the levels' heights", model__attention_resolutions=[7])
    weights = {"extractor": "inception", "weights": "none.pth"}
    refused("no such file", evaluation__features=weights)
    refused("no class is many", **NO_CLASS_IS_MANY)
    refused("has no image", evaluation__reference={"source": "folder", "root": "cache"})
    refused("pretrained.labels=None", pretrained__model="nothing")
    if not torch.cuda.is_available():
        refused("PyTorch finds none", scaling__gpus_per_worker=1)
    draw(photos / "train/bee/new.png", "new")
    refused("images of class bee has 7, had 6")
    (photos / "train/bee/new.png").replace(photos / "train/bee/0.png")
    refused("as many images of every class, but others (fingerprint ")
    draw(photos / "train/bee/0.png", "train", "bee", 0)
    for split in ("train", "reference"):
        (photos / split / "cat").rename(photos / split / "dog")
    refused("class cat is gone; class dog is new")
    for split in ("train", "reference"):
        (photos / split / "dog").rename(photos / split / "cat")
    moved = photos.rename(photos.parent / "moved")
    refused("photos: no such folder")

    # The same images elsewhere are the same data: to evaluate, and to train on.
    whipray.evaluate("mine", [f"data.root={moved.name}", "evaluation.metrics=[kid]"])
    (moved / "train/cat/0.png").unlink()
    with pytest.raises(Problem, match="class cat has 2, had 3"):
        whipray.evaluate("mine", [f"data.root={moved.name}", "evaluation.metrics=[kid]"])
    draw(moved / "train/cat/0.png", "train", "cat", 0)
    longer = whipray.train(own(data__root="moved", training__images=96), "mine")
    assert longer["images_seen"] == 96
    now = records(store)
    assert now["whipray.changed"].endswith("moved, training.images=96")
    assert now["status"] == "FINISHED"
    whipray.evaluate("mine", ["evaluation.metrics=[kid]"])
    draw(moved / "train/cat/new.png", "new")
    with pytest.raises(Problem, match="class cat has 4, had 3"):
        classify(find_run(Storage(StorageConfig(uri=str(store))), "mine"), per_class=1)


@pytest.mark.slow
def test_a_problem_is_forgotten_when_the_run_finishes_well(photos: Path) -> None:
    store = photos.parent / "whipray-runs"
    with pytest.raises(DivergenceProblem):
        whipray.train(own(optimizer__lr=1e30, optimizer__warmup_images=0), "mine")
    assert "loss" in records(store)["whipray.problem"]
    assert records(store)["status"] == "FAILED"
    whipray.train(own(), "mine")
    now = records(store)
    assert "whipray.problem" not in now
    assert "optimizer.lr" in now["whipray.changed"]
    assert now["status"] == "FINISHED"


def test_a_refused_command_makes_no_store(photos: Path) -> None:
    with pytest.raises(UsageProblem, match="batch_size 15 cannot be shared by 2 workers"):
        whipray.train(own(training__batch_size=15, scaling__workers=2))
    assert not (photos.parent / "whipray-runs").exists()


# -- the checks -------------------------------------------------------------------------------------


@no_gpu
def test_a_gpu_that_is_asked_for_and_absent_is_an_error(tmp_path: Path) -> None:
    check_gpus(0)
    with pytest.raises(UsageProblem, match="asks for 2 GPUs, and PyTorch finds none"):
        check_gpus(1, workers=2)
    with pytest.raises(UsageProblem, match="asks for 1 GPU"):
        train(tiny(scaling__gpus_per_worker=1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_part_of_a_gpu_does_not_spread_over_two() -> None:
    host = {"CPU": 16.0, "GPU": 2.0}
    room = {0.25: 8, 0.2: 10, 0.4: 4, 0.5: 4, 0.3333: 6, 1: 2, 2: 1, 0: 16}
    assert {gpus: count_fitting_workers([host], 1, gpus) for gpus in room} == room
    with pytest.raises(UsageProblem, match="asks for 3 GPUs"):
        check_gpus(0.4, workers=5)
    with pytest.raises(UsageProblem, match="whole GPUs or a part of one"):
        tiny(scaling__gpus_per_worker=1.5)


@pytest.mark.usefixtures("photos")
def test_a_sound_training_has_no_problem() -> None:
    assert found(own()) == []
    assert found(own(), dry_run=False) == []


def damage_reference(kind: str) -> Callable[[Path], None]:
    def damage(photos: Path) -> None:
        folder = photos / "reference/cat"
        if kind == "one image":
            for path in sorted(folder.iterdir())[1:]:
                path.unlink()
        elif kind == "16 bits":
            wide = np.full((SIDE, SIDE), 40_000, np.uint16)
            Image.fromarray(wide).save(folder / "0.png")
        else:
            shutil.rmtree(folder)

    return damage


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model__attention_resolutions": [5]}, "none of the levels' heights [16, 8]"),
        ({"model__channel_mult": [1] * 6, "model__attention_resolutions": []}, "cannot be halved"),
        ({"training__batch_size": 15, "scaling__workers": 2}, "cannot be shared by 2 workers"),
        ({"training__micro_batch": 5}, "does not divide a worker's 16 rows"),
        ({"data__root": "nowhere"}, "nowhere: no such folder"),
        ({"data__image_size": 4, "model__attention_resolutions": [2]}, "images are 4 x 4"),
        (
            {"evaluation__reference": {"source": "digits"}},
            "different classes: class 0 is ant and 0",
        ),
        (
            {"evaluation__features": {"extractor": "inception", "weights": "own.yaml"}},
            "own.yaml: its SHA-256 begins with",
        ),
        (
            {"evaluation__features": {"extractor": "torchvision", "model": "resnet5"}},
            "torchvision has no classifier resnet5",
        ),
        (NO_CLASS_IS_MANY, "no class is many"),
    ],
)
def test_a_dry_run_tells_what_would_fail_later(
    photos: Path, values: dict[str, Any], says: str
) -> None:
    assert any(says in line for line in found(own(**values))), found(own(**values))
    assert not (photos.parent / "cache").exists()
    assert not (photos.parent / "whipray-runs").exists()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("one image", "the reference has 1 images of class 2 (cat)"),
        ("16 bits", "more than 8 bits"),
        ("no class", "class cat is not in both"),
    ],
)
def test_a_reference_that_cannot_be_used_is_told_before_the_training(
    photos: Path, kind: str, says: str
) -> None:
    damage_reference(kind)(photos)
    assert any(says in line for line in found(own(), dry_run=False))


def test_a_job_that_has_not_the_images_is_told_how_to_bring_them(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(photos)
    monkeypatch.setenv("WHIPRAY_JOB", "job-1")
    with pytest.raises(Problem) as caught:
        check_training(SingleRun("mine", own()).subject(dry_run=True), (preflight.check_data,))
    assert "no such folder" in caught.value.what
    assert "copy them to this path on every node" in caught.value.fix


def test_few_real_images_are_no_obstacle_unless_label_agreement_ranks(photos: Path) -> None:
    damage_reference("one image")(photos)
    imagenet = own(evaluation__features={"extractor": "imagenet"})
    assert found(imagenet, dry_run=False) == []
    ranks = {"evaluation__rank_by": "agreement/overall"}
    ranked = own(evaluation__features={"extractor": "imagenet"}, **ranks)
    assert any("has 1 images of class 2 (cat)" in line for line in found(ranked, dry_run=False))


def test_places_that_cannot_be_written_are_told(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHIPRAY_CACHE", str(photos.parent / "own.yaml"))
    lines = found(own(storage__uri="own.yaml/runs"))
    assert [line.partition("own.yaml")[0].split(" /")[0] for line in lines] == [
        "the cache",
        "the store",
    ]


def test_a_network_that_no_disk_holds_is_told(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(photos.parent)._replace(free=2**16)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert any("has 0.1 MiB free, and the checkpoints need" in line for line in found(own()))


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize(
    ("changes", "on_tmpdir", "in_store"),
    [
        ({}, 4, 3 * 4),  # weights, two moments of Adam, EMA; two checkpoints and the next one
        ({"optimizer__ema_profiles": [0.05, 0.1]}, 6, 3 * 6 + 17 * 2),
        ({"optimizer__ema_profiles": [0.05, 0.1], "sampling__ema_width": 0.1}, 40, 3 * 6 + 17 * 2),
    ],
)
def test_the_room_that_is_needed_is_counted_in_weights(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], on_tmpdir: int, in_store: int
) -> None:
    plan = {"training__images": 4000, "training__checkpoint_every_images": 160}
    subject = SingleRun("mine", own(**plan, **changes)).subject(dry_run=True)
    whole, averages = subject.network_bytes
    usage, full = shutil.disk_usage("/"), [True]

    def disk_usage(path: Path) -> Any:
        return usage._replace(free=0 if (path == Path(gettempdir())) == full[0] else 2**60)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    monkeypatch.setattr(preflight, "_size", str)
    for needed in (on_tmpdir, in_store):
        with pytest.raises(UsageProblem, match="the checkpoints need") as caught:
            preflight.check_room(subject)
        assert int(caught.value.what.split()[-1]) == needed * (whole - averages) / 4
        full[0] = False


@pytest.mark.usefixtures("photos")
def test_all_problems_are_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["model.attention_resolutions=[5]", "training.micro_batch=5"]
    wrong += ["evaluation.features={extractor: inception, weights: none.pth}"]

    def run(*options: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["whipray", "train", "own.yaml", *wrong, *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        out, err = capsys.readouterr()
        assert err.count("error: ") == err.count("fix: ") == 3
        return out, err

    assert run()[0] == ""
    assert len(json.loads(run("--json")[0])["error"]["problems"]) == 3
    out, err = run("--dry-run")
    assert "micro_batch: 5" in out
    assert "would run:" in err
    assert len(json.loads(run("--dry-run", "--json")[0])["problems"]) == 3


def test_images_of_one_value_are_told_before_sigma_data_is_measured(photos: Path) -> None:
    experiment = own(process__name="edm", process__sigma_data=None)
    assert found(experiment, dry_run=False) == []
    for path in (photos / "train").rglob("*.png"):
        Image.new("RGB", (SIDE, SIDE), "gray").save(path)
    (told,) = found(experiment, dry_run=False)
    assert told.startswith("process.sigma_data cannot be measured: all pixels")
    assert not (photos.parent / "whipray-runs").exists()


def test_a_sweep_s_points_are_checked_too(photos: Path) -> None:
    space = photos.parent / "space.yaml"
    space.write_text(
        "description: two sizes\n"
        "train: {data.image_size: {type: categorical, choices: [16, 9]}}\n"
        "seed_points: [{data.image_size: 9}]\n"
        "baselines: [{name: small, set: {training.micro_batch: 5}}]\n"
    )
    _, sweep = plan_sweep(str(space), "own.yaml", [], "s")
    lines = [problem.what for problem in sweep.points.find_problems(sweep.subject(dry_run=True))]
    assert len(lines) == 2
    assert lines[0].startswith("seed point (")
    assert "cannot be halved" in lines[0]
    assert lines[1].startswith("baseline small (")
    with pytest.raises(SeveralProblems):
        sweep.run()
    assert not (photos.parent / "whipray-runs").exists()


def test_a_sweep_is_not_resumed_on_other_images(photos: Path) -> None:
    """Nor refused because the same images lie elsewhere now."""

    def images_at(root: str) -> DataIdentity:
        return DataIdentity.of(own(data__root=root).data.load(photos.parent / "cache").train)

    _, sweep = plan_sweep("cbdm", "own.yaml", [], "s")
    identity = identity_of(sweep.experiment, sweep.space, images_at("photos"))
    stored = read_identity(json.dumps(seal(identity)), "s")
    photos.rename(photos.parent / "moved")
    _, moved = plan_sweep("cbdm", "own.yaml", ["data.root=moved"], "s")
    check_same_sweep("s", stored, identity_of(moved.experiment, moved.space))
    check_same_images("s", stored, images_at("moved"))
    (photos.parent / "moved/train/cat/0.png").unlink()
    with pytest.raises(UsageProblem, match="sweep s was begun with: images of class cat has 2"):
        check_same_images("s", stored, images_at("moved"))


def test_a_few_problems_are_one() -> None:
    one, other = UsageProblem("a", "b"), Problem("c", "d")
    assert combine([one, UsageProblem("a", "b")]) is one
    assert isinstance(combine([one, UsageProblem("e", "f")]), UsageProblem)
    both = combine([one, other])
    assert isinstance(both, SeveralProblems)
    assert not isinstance(both, UsageProblem)
    assert both.problems == (one, other)


# -- what is said before a training -----------------------------------------------------------------


def said(experiment: Experiment, dry_run: bool = True) -> list[str]:
    return notes(SingleRun("mine", experiment).subject(dry_run))


CALM: dict[str, Any] = {
    "optimizer__warmup_images": 0,
    "optimizer__ema_half_life_images": 6,
}


@pytest.mark.usefixtures("photos")
def test_the_images_that_are_used_are_said() -> None:
    assert said(own(**CALM)) == ["data    3 classes, 18 images, 9 to 3 of a class; all of them"]
    digits = resolve(Experiment, recipe_layers("digits-demo")).value
    assert said(digits)[0] == (
        "data    10 classes, cut to 335 of 1,000 images by data.long_tail (exponential, ratio 20): "
        "100 to 5 of a class"
    )


@pytest.mark.usefixtures("photos")
def test_a_warm_up_that_never_ends_is_said() -> None:
    defaults = {"warmup_images": 320_000, "ema_half_life_images": 443_600, "ema_ramp": 0}
    lines = said(own(**{f"optimizer__{key}": value for key, value in defaults.items()}))
    assert len(lines) == 3
    assert lines[1].startswith("warning: the learning rate rises over 320,000 images")
    assert "averaged weights" in lines[2]


@pytest.mark.usefixtures("photos")
def test_training_images_among_those_to_compare_with_are_counted(photos: Path) -> None:
    other = photos.parent / "other"
    shutil.copytree(photos, other)
    shutil.copy(photos / "train/bee/0.png", other / "reference/bee/new.png")
    reference = {"source": "folder", "root": "other", "image_size": SIDE}
    (line,) = said(own(**CALM, evaluation__reference=reference), dry_run=False)[1:]
    assert line.startswith(
        "warning: 1 of 19 real images to compare with are training images too (bee 1): metrics"
    )
    (other / "reference/bee/new.png").unlink()
    assert not said(own(**CALM, evaluation__reference=reference), dry_run=False)[1:]


@pytest.mark.usefixtures("photos")
def test_a_tail_is_not_cut_from_data_that_it_was_not_given_for() -> None:
    mine = ["data={source: folder, root: photos, image_size: 16}"]
    kept = load_experiment("digits-lt", mine).value.data
    assert kept.long_tail.kind == "none"
    wanted = load_experiment("digits-lt", ["data.long_tail.kind=exponential", *mine]).value.data
    assert wanted.long_tail.kind == "exponential"
    assert wanted.long_tail.ratio == 100  # not the digits' 20
    assert load_experiment("cifar10-lt", []).value.data.long_tail.ratio == 100
    ir50 = load_experiment("cifar100-lt-ir50", ["data.source=cifar10", "data.root=c"]).value.data
    assert ir50.long_tail.ratio == 50  # of the same data set's kind
    (line,) = found(own(data__long_tail={"kind": "exponential", "ratio": 2}))
    assert "these have 9 images of one class, 3 of another" in line


# -- what identifies the data -----------------------------------------------------------------------

THREE = DataIdentity(("a", "b", "c"), (3, 2, 1), (3, 8, 8), "0123")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, None),
        ({"fingerprint": None}, None),
        ({"fingerprint": "4567"}, "others (fingerprint 4567, was 0123)"),
        ({"class_counts": (3, 5, 4)}, "images of class b has 5, had 2, c has 4, had 1"),
        ({"class_names": ("a", "b", "d")}, "class c is gone; class d is new"),
        ({"class_names": ("b", "a", "c")}, "class 0 is b, was a"),
        ({"class_names": ("a", "b")}, "class c is gone"),
        ({"image_shape": (1, 8, 8)}, "images are 1 x 8 x 8 (C x H x W) and were 3 x 8 x 8"),
    ],
)
def test_what_differs_between_data_is_named(changed: dict[str, Any], says: str | None) -> None:
    difference = THREE.difference(DataIdentity(**{**vars(THREE), **changed}))
    assert difference == says if says is None else says in (difference or "")


@pytest.mark.usefixtures("photos")
def test_a_stage_of_zero_that_only_costs_is_said() -> None:
    pieces = {**CALM, "training__batch_size": 32, "training__micro_batch": 4, "scaling__workers": 2}
    (line,) = [x for x in said(tiny(**pieces, engine__zero_stage=2)) if "zero_stage" in x]
    assert "of each micro-batch, 4 times a step: zero_stage=1" in line
    (line,) = [x for x in said(tiny(**CALM, engine__zero_stage=3)) if "zero_stage" in x]
    assert "zero_stage=3 with 0.1 M parameters" in line
    assert not [x for x in said(tiny(**pieces, engine__zero_stage=1)) if "zero_stage" in x]
