"""Evaluations from the command line: known results, workers that are killed, runs side by side."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from support.shell import TINY, WAIT_S, Shell

pytestmark = pytest.mark.slow

QUICK = "evaluation.metrics=[kid,fid,precision_recall,agreement]"


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Two short runs, a and b."""
    shell = Shell(tmp_path_factory.mktemp("evaluate"))
    for name, tau in (("a", 1), ("b", 3)):
        code, _, err = shell.run(
            "train", "digits-demo", "--run", name, *TINY, f"objective.tau={tau}",
            "training.images=640",
        )  # fmt: skip
        assert code == 0, err
    return shell


def answer(shell: Shell, *command: str) -> dict[str, Any]:
    code, out, err = shell.run(*command, "--json")
    assert code == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def test_everything_is_measured_without_a_new_image(shell: Shell) -> None:
    found = answer(shell, "evaluate", "a")
    assert found["images_generated"] == 0  # the training drew them
    assert found["note"] is None
    assert {"kid/overall", "kid/few", "fid/many", "agreement/few"} <= set(found["metrics"])
    assert "recall/overall" not in found["metrics"]  # 20 images are fewer than ten neighbourhoods
    assert "copies/few_high" in found["metrics"]
    provenance = found["provenance"]
    assert (provenance["n_generated"], provenance["n_real"]) == (20, 740)
    assert provenance["reference_source"] == "digits, reference"
    page = Path(found["report"])
    assert "Evaluation" in page.read_text()
    artifacts = shell.folder / "whipray-runs/artifacts"
    assert list(artifacts.glob(f"*/artifacts/evaluations/{page.parent.name}/report.html"))
    assert answer(shell, "evaluate", "a") == found
    (page.parent / "result.json").write_text("{")
    (page.parent / "replicates.npz").unlink()
    assert answer(shell, "evaluate", "a") == found  # damaged, so measured again
    assert (page.parent / "replicates.npz").exists()


def test_more_images_are_the_same_and_some_more(shell: Shell) -> None:
    samples = shell.folder / "whipray-runs/runs/a/samples"
    first = {path.name for path in samples.rglob("*.images.safetensors")}
    found = answer(shell, "evaluate", "a", QUICK, "evaluation.images_per_class=3")
    assert found["images_generated"] == 30  # they are one shard, which is not whole
    assert first < {path.name for path in samples.rglob("*.images.safetensors")}


SLOW = (
    QUICK,
    "evaluation.images_per_class=24",
    "evaluation.shard_images=80",
    "sampling.sampler.steps=40",
)
"""Three shards, slow enough to be killed in."""


def test_a_killed_worker_or_command_changes_nothing(shell: Shell, tmp_path: Path) -> None:
    undisturbed = answer(shell, "evaluate", "a", *SLOW)
    assert undisturbed["images_generated"] == 240
    other = Shell(tmp_path)
    shutil.copytree(shell.folder / "whipray-runs", tmp_path / "whipray-runs")
    shutil.copytree(shell.folder / "cache", tmp_path / "cache")
    run = tmp_path / "whipray-runs/runs/a"
    for folder in ("samples", "evaluations"):
        shutil.rmtree(run / folder)

    with other.start("evaluate", "a", *SLOW) as process:  # killed after its first shard
        wait_for(lambda: list(run.rglob("*.images.safetensors")), process)
        process.kill()
    done = list(run.rglob("*.images.safetensors"))
    assert len(done) < 3
    with other.start("evaluate", "a", *SLOW, "evaluation.workers=2", "--json") as process:
        worker = wait_for(lambda: drawing(process.pid), process)
        worker.send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert found["images_generated"] == 240 - 80 * len(done)
    assert found["metrics"] == undisturbed["metrics"]


def wait_for(look: Any, process: Any) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := look()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def drawing(driver: int) -> psutil.Process | None:
    """A Ray actor below the driver that is making a shard."""
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if process.name().startswith("ray::PoolActor.apply"):
                return process
        except psutil.NoSuchProcess:
            continue
    return None


def test_runs_side_by_side(shell: Shell) -> None:
    found = answer(shell, "compare", "a", "b", QUICK)
    assert (found["names"], found["refused"]) == (["a", "b"], {})
    rows = {(row["metric"], row["group"]): row for row in found["rows"]}
    kid = rows["kid", "few"]
    assert kid["differences"][0] is None
    apart = kid["differences"][1]
    values = [estimate["value"] for estimate in kid["estimates"]]
    assert apart["value"] == pytest.approx(values[1] - values[0], rel=1e-4)
    assert apart["noise"] == (apart["low"] <= 0 <= apart["high"])
    assert Path(found["page"]).is_file()
    code, out, err = shell.run("compare", "a", "b", QUICK)
    assert code == 0
    assert "kid few" in out
    assert "within noise" in err


def test_guidance_as_a_curve(shell: Shell) -> None:
    command = ("guidance", "a", "--omega", "0,2", "--steps", "2,3")
    found = answer(shell, *command)
    points = [(p["steps"], p["omega"]) for p in found["points"]]
    assert points == [(2, 0), (3, 0), (2, 2), (3, 2)]
    values = {
        p: x["values"]["kid/few"]["value"] for p, x in zip(points, found["points"], strict=True)
    }
    best = found["best"]["few"]
    assert best["chosen"]["value"] == min(values.values())
    setting = (
        best["overrides"]["sampling.sampler.steps"],
        best["overrides"]["sampling.guidance.omega"],
    )
    assert values[setting] == best["chosen"]["value"]
    assert best["held_out"]["low"] <= best["held_out"]["value"] <= best["held_out"]["high"]
    page = Path(found["page"])
    assert list((shell.folder / "whipray-runs/artifacts").glob(f"*/artifacts/guidance/{page.name}"))
    files = {p: p.stat().st_mtime_ns for p in shell.folder.rglob("*.images.safetensors")}
    assert answer(shell, *command) == found
    assert files == {p: p.stat().st_mtime_ns for p in shell.folder.rglob("*.images.safetensors")}


@pytest.fixture(scope="module")
def swapped(shell: Shell) -> Path:
    """Digits with two names exchanged."""
    digits = load_digits()
    encoded = []
    for number, image in enumerate(digits.images[:200]):
        file = shell.folder / f"{number}.png"
        Image.fromarray((image * 15).astype(np.uint8)).save(file)
        encoded.append(file.read_bytes())
    table = pa.table(
        {
            "image": encoded * 2,
            "label": [*digits.target[:200], *digits.target[:200]],
            "split": ["train"] * 200 + ["test"] * 200,
        }
    )
    path = shell.folder / "swapped.parquet"
    names = "0,1,2,3,4,5,6,7,9,8"
    pq.write_table(table.replace_schema_metadata({"class_names": names}), path)
    return path


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("evaluate", "a", "objective.tau=2"), "objective.tau cannot be changed"),
        (("evaluate", "a", "evaluation.metrcs=[kid]"), "did you mean evaluation.metrics"),
        (("evaluate", "a", "evaluation.metrics=[kidd]"), "evaluation.metrics"),
        (("evaluate", "a", QUICK, "evaluation.workers=64", "sampling.sampler.steps=1"), "room for"),
        (("compare", "a"), "two different runs"),
        (("compare", "a", "c"), "no run c"),
        (("guidance", "a", "--omega", "0,x"), "sampling.guidance.omega"),
        (("guidance", "a", "--omega", ","), "no values of sampling.guidance.omega"),
        (("guidance", "a", "--omega", "-1"), "sampling.guidance.omega"),
        (("evaluate", "a", "evaluation.rank_by=f_8/overall", QUICK), "needs prd"),
        (("evaluate", "a", "evaluation.groups.kind=ranges"), "borders"),
        (("evaluate", "a", "evaluation.workers=0"), "evaluation.workers"),
        (("evaluate", "a", "evaluation.metrics=[]"), "evaluation.metrics"),
    ],
)
def test_mistakes_are_named(shell: Shell, command: tuple[str, ...], said: str) -> None:
    code, _, err = shell.run(*command)
    assert code in (1, 2)
    assert said in err, err
    assert "defect" not in err
    assert err.count("error: ") == 1


def test_classes_in_another_order_are_refused(shell: Shell, swapped: Path) -> None:
    reference = {"source": "parquet", "path": str(swapped), "image_size": 8}
    code, _, err = shell.run(
        "evaluate", "a", QUICK, f"evaluation.reference={json.dumps(reference)}"
    )
    assert code == 1
    assert "class 8 is 8 and 9" in err, err
