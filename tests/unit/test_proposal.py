"""A proposal for a person's own pictures: a short recipe that loads, fits its time, and says what not to expect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.marks import MLFLOW_WARNINGS

from whipray.platform.cli.main import main
from whipray.platform.config.experiment import Experiment, load_experiment
from whipray.platform.config.layers import Layer, flatten
from whipray.platform.inspection.facts import ClassFacts, Finding, Inspection, Sizes
from whipray.platform.proposal.expectations import textures_from
from whipray.platform.proposal.machine import Machine
from whipray.platform.proposal.measure import Speed, measure
from whipray.platform.proposal.propose import STEPS, Proposal, model_name, propose
from whipray.platform.proposal.recipe_text import MOST_LINES, recipe_text
from whipray.platform.proposal.schedule import START_S, Schedule, divide
from whipray.trainers.errors import DataProblem, UsageProblem
from whipray.trainers.optimizer import OptimizerConfig, too_long

pytestmark = [*MLFLOW_WARNINGS]

LAPTOP = Machine(2, 0)
COUNTS = {"cat": 120, "car": 90, "frog": 60, "ship": 12, "owl": 6}


def inspection(counts: dict[str, int] = COUNTS, short: int = 96, **changes: Any) -> Inspection:
    held = {name: n // 5 if n > 10 else 0 for name, n in counts.items()}
    facts = tuple(ClassFacts(k, n, held[k], n - held[k]) for k, n in counts.items())
    sizes = Sizes((short, short), (short, short), (200, 200), (short,) * 5, 0.0)
    source = {"source": "folder", "root": "/pictures"}
    found = Inspection(source, facts, sum(counts.values()), sizes, {"RGB": 1}, {"PNG": 1}, (), 0, 0)
    return replace(found, **changes)


def fixed(step: float, call: float = 0.002) -> Any:
    return lambda _experiment, _classes, _rows: Speed(step, call)


def made(
    found: Inspection, step: float = 0.2, machine: Machine = LAPTOP, **options: Any
) -> Proposal:
    return propose(found, "my pictures", machine, fixed(step), **options)


def experiment_of(proposal: Proposal) -> Experiment:
    return load_experiment(proposal.layer, []).value


MANY = {f"class {i:04d}": 1280 - i for i in range(1000)}


@pytest.mark.parametrize(
    "proposal",
    [
        made(inspection()),
        made(inspection(MANY), machine=Machine(16, 8)),
        made(inspection(), step=60.0, minutes=1),
        made(inspection(short=20)),
        made(inspection(), step=0.01, machine=Machine(64, 4, "http://head:8265")),
        made(
            inspection(
                MANY,
                source={
                    "source": "list_files",
                    "root": "/a",
                    "train_list": "/b",
                    "reference_list": "/c",
                },
                modes={"grey": 5},
            ),
            step=0.005,
            machine=Machine(16, 1),
        ),
    ],
    ids=["laptop", "eight GPUs", "hopeless", "small images", "cluster", "long lists"],
)
def test_the_file_is_short_and_is_the_proposal(proposal: Proposal, tmp_path: Path) -> None:
    text = recipe_text(proposal, "whipray init 'pict\nures: of a folder with a line break'")
    assert text.count("\n") <= MOST_LINES == 30
    (tmp_path / "mine.yaml").write_text(text)
    from_file = load_experiment(str(tmp_path / "mine.yaml"), [])
    assert from_file.value == experiment_of(proposal)  # an unknown key would be refused
    given = {key for key in flatten(proposal.values) if proposal.values.get(key) != {}}
    origins = load_experiment(proposal.layer, []).origins
    assert {origins[key] for key in given} == {"proposed for my-pictures"}


@pytest.mark.parametrize("images", [10, 33, 400, 6_400, 100_000])
def test_warm_up_and_average_end_before_the_run(images: int) -> None:
    for batch in (1, 16, 256):
        whole = -(-images // batch) * batch
        plan = Schedule(whole, batch, 8)
        optimizer = OptimizerConfig(
            warmup_images=plan.warmup, ema_half_life_images=plan.half_life, ema_ramp=0.1
        )
        assert too_long(optimizer, whole, batch) == []
        assert batch <= plan.report_every <= plan.checkpoint_every <= whole


@pytest.mark.parametrize("minutes", [3, 10, 60, 600])
@pytest.mark.parametrize("step", [0.01, 0.2, 1.5])
@pytest.mark.parametrize("classes", [2, 8, 100])
def test_a_run_fills_its_time_and_no_more(minutes: float, step: float, classes: int) -> None:
    plan = divide(60 * minutes, batch=16, step=step, image=0.05, classes=classes, real=400)
    times = plan.times
    assert times is not None
    assert times.training == pytest.approx(plan.images / 16 * step)
    assert times.images == pytest.approx(classes * plan.per_class * 0.05)
    assert times.total == pytest.approx(START_S + times.training + times.images + times.evaluation)
    if plan.images > 16:
        assert 0.9 * 60 * minutes - step <= times.total <= 60 * minutes


def test_what_is_chosen_follows_from_images_machine_and_time() -> None:
    laptop = experiment_of(made(inspection(), step=0.1))
    assert (laptop.data.image_size, laptop.objective.name) == (64, "ddpm")
    assert laptop.data.class_sampling == "sqrt"  # 120 images and 6
    assert (laptop.scaling.workers, laptop.scaling.cpus_per_worker) == (1, 2)
    assert laptop.evaluation.metrics == ("kid", "memorisation")  # 57 held out

    slow = made(inspection(), step=3.0)
    assert slow.values["data"]["image_size"] == 32
    assert "noise and blotches at 64 px" in slow.why["data.image_size"]
    assert made(inspection(), step=3.0, size=64).values["data"]["image_size"] == 64

    long = experiment_of(made(inspection(), step=0.02, machine=Machine(16, 2), minutes=2000))
    assert (long.objective.name, long.augmentation.name) == ("cbdm", "ada")
    assert (long.scaling.workers, long.scaling.gpus_per_worker) == (2, 1)
    assert long.training.batch_size % 2 == 0

    level = experiment_of(made(inspection({"a": 400, "b": 390, "c": 2000}, short=40)))
    assert (level.data.image_size, level.data.class_sampling) == (32, "natural")
    assert level.data.flip is False  # letters
    assert "fid" in level.evaluation.metrics
    grey = experiment_of(made(inspection(modes={"grey": 210})))
    assert grey.data.channels == 1


def test_a_cluster_that_was_not_measured_gets_calls_and_no_times() -> None:
    proposal = made(inspection(), machine=Machine(32, 4, "http://head:8265"))
    calls = proposal.schedule.images + STEPS * proposal.schedule.per_class * len(COUNTS)
    assert f"{calls:,} calls of the network" in proposal.times
    assert "minutes" not in proposal.times


def test_what_not_to_expect_is_said() -> None:
    def warnings(*args: Any, **options: Any) -> str:
        return "\n".join(made(*args, **options).warnings)

    fine = warnings(inspection({"cat": 100, "dog": 90}), step=0.05)
    assert "too small" not in fine
    assert "rough shapes of each class, no photographs" in fine
    hopeless = warnings(inspection(short=256), step=20.0, size=256)
    assert "expect noise and blotches" in hopeless
    assert f"from about {textures_from(256):,}" in hopeless
    assert "owl (6)" in hopeless
    assert "1 minutes are too few" in warnings(inspection(), step=60.0, minutes=1)
    assert "enlarged" in warnings(inspection(short=40), size=64)


def test_images_that_cannot_be_used_stop_it_with_both_lines() -> None:
    finding = Finding("suffix", "error", 3, "3 HEIC images and no other", "convert them to JPEG")
    with pytest.raises(DataProblem) as stopped:
        made(inspection(findings=(finding,)))
    assert (stopped.value.what, stopped.value.fix) == (finding.text, finding.fix)


def test_a_step_is_measured_on_the_network_itself() -> None:
    proposal = made(inspection(short=16))
    experiment = experiment_of(proposal)
    threads = torch.get_num_threads()
    speed = measure(experiment, 5, 4)
    assert 0 < speed.call < speed.step
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("photos", "photos"),
        ("Meine Bilder (2)", "Meine-Bilder-2"),
        ("写真", "pictures"),
        (".x", "x"),
    ],
)
def test_a_folder_names_the_model(text: str, name: str) -> None:
    assert model_name(text) == name


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    for name, count in {"disc": 14, "stripes": 10}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "photos"


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["whipray", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_init_writes_a_file_once(photos: Path, monkeypatch: Any, capsys: Any) -> None:
    assert run(monkeypatch, "init", "photos", "--size", "16", "--minutes", "1") == 0
    said = capsys.readouterr().err
    assert "disc" in said
    assert "whipray train photos.yaml" in said
    written = Path("photos.yaml").read_text()
    assert f"root: {photos}" in written  # works from wherever it is used
    assert run(monkeypatch, "init", "photos", "--minutes", "5") == 2
    refused = capsys.readouterr().err
    assert "error: photos.yaml exists" in refused
    assert "--out" in refused
    assert Path("photos.yaml").read_text() == written
    options = ["--size", "16", "--minutes", "1", "--out", "other.yaml", "--relative"]
    assert run(monkeypatch, "init", "photos", *options) == 0
    assert "root: photos" in Path("other.yaml").read_text()


def test_train_shows_where_each_value_is_from(photos: Path, monkeypatch: Any, capsys: Any) -> None:
    assert run(monkeypatch, "train", f"{photos}/", "data.image_size=16", "--dry-run") == 0
    shown = capsys.readouterr()
    lines = {line.split(":")[0].strip(): line for line in shown.out.splitlines()}
    assert "# proposed for photos" in lines["sigma_data"]
    assert "# command line" in lines["image_size"]
    assert "run          photos" in shown.err
    assert not Path("whipray-runs").exists()


def test_what_cannot_be_is_refused_before_anything_is_measured(
    photos: Path, monkeypatch: Any, capsys: Any
) -> None:
    assert run(monkeypatch, "train", f"{photos}/", "--run", "a b") == 2
    assert capsys.readouterr().err.startswith("error: 'a b' cannot be the name of a run\n")
    assert run(monkeypatch, "train", "photos/", "--on", "http://127.0.0.1:1") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: data.root=photos/ is relative, and no node of the cluster has")


def test_a_bare_name_is_a_recipes(photos: Path) -> None:
    with pytest.raises(UsageProblem, match="photos is a folder, not a recipe") as problem:
        load_experiment("photos", [])
    assert "whipray init photos" in problem.value.fix
    assert "whipray train ./photos" in problem.value.fix
    (photos.parent / "digits-lt").mkdir()
    assert load_experiment("digits-lt", []).value.data.source == "digits"
    with pytest.raises(UsageProblem, match="no recipe is named fotos") as problem:
        load_experiment("fotos", [])
    assert "whipray init" in problem.value.fix


def test_a_layer_is_a_recipe() -> None:
    values = made(inspection()).values
    assert load_experiment(Layer("mine", values), ["seed=3"]).value.seed == 3


@pytest.mark.slow
@pytest.mark.usefixtures("photos")
def test_three_commands_lead_to_a_page(monkeypatch: Any, capsys: Any) -> None:
    assert run(monkeypatch, "init", "photos", "--size", "16", "--minutes", "0.1") == 0
    assert "0.1 minutes are too few" in capsys.readouterr().err
    small = ["evaluation.bootstrap_resamples=20", "scaling.cpus_per_worker=1"]
    assert run(monkeypatch, "train", "photos.yaml", *small) == 0
    assert "report" in capsys.readouterr().err
    assert list(Path("whipray-runs").rglob("*.html"))
    # The folder itself: it goes on with the run, by its recipe, though another proposal would differ.
    assert run(monkeypatch, "train", "photos/", "--dry-run") == 0
    assert "# run photos" in capsys.readouterr().out
