"""Commands against real surroundings: servers that are not there, Ctrl-C, a run from end to end."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from PIL import Image
from support.browser import chromium
from support.servers import free_port
from support.shell import TINY, WAIT_S, Shell

from whipray.trainers.checkpoint_names import checkpoint_name

pytestmark = pytest.mark.slow

SECRET = "s3cr3t-0123456789"
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def whipray(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A run `tiny` that was interrupted once and then went on to its end."""
    shell = Shell(tmp_path_factory.mktemp("trained"))
    command = ("train", "digits-demo", "--run", "tiny", *TINY)
    manifest = (
        shell.folder / f"whipray-runs/runs/tiny/checkpoints/{checkpoint_name(640)}/manifest.json"
    )
    with shell.start(*command, "training.images=6400000") as process:
        deadline = time.monotonic() + WAIT_S
        while not manifest.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.strip().splitlines()[-2:] == [
        "error: interrupted",
        "fix: run the same command again to resume",
    ]
    last = max(path.name for path in manifest.parents[1].iterdir())
    images = int(last.removeprefix("images-")) + 640
    code, out, err = shell.run(*command, f"training.images={images}", "--json")
    assert code == 0, err
    assert "resumed from" in err
    document = json.loads(out)
    assert (document["run"], document["images_seen"]) == ("tiny", images)
    return shell


def test_ctrl_c_saves_what_was_trained(whipray: Shell) -> None:
    rare = ("training.images=6400000", "training.checkpoint_every_images=6400000")
    with whipray.start("train", "digits-demo", "--run", "rare", *TINY, *rare) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "loss" in line:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert "error: interrupted" in err
    checkpoints = whipray.folder / "whipray-runs/runs/rare/checkpoints"
    assert len(list(checkpoints.glob("*/manifest.json"))) == 1


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("file", r"cannot be (made|written)|not a folder|Not a directory|File exists"),
        ("s3:/bucket/x", "two slashes"),
    ],
)
def test_a_store_that_cannot_be_is_said_so_at_once(whipray: Shell, uri: str, said: str) -> None:
    (whipray.folder / "file").write_text("")
    code, _, err = whipray.run("train", "digits-demo", *TINY, f"storage.uri={uri}")
    assert code in (1, 2)
    assert re.search(said, err), err
    assert "defect" not in err


def test_an_interrupted_training_goes_on(trained: Shell) -> None:
    code, out, err = trained.run("evaluate", "tiny", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["images_generated"] == 0  # the training's own evaluation
    assert Path(document["report"]).is_file()


def test_sample_draws_a_grid_and_single_images(trained: Shell) -> None:
    code, out, err = trained.run(
        "sample", "tiny", "--classes", "9,0", "--per-class", "2", "--out", "few", "--json"
    )
    assert code == 0, err
    files = [trained.folder / file for file in json.loads(out)["files"]]
    assert len(files) == 4
    for file in files:
        with Image.open(file) as image:
            assert np.asarray(image).shape == (8, 8)
    code, _, err = trained.run("sample", "tiny", "--per-class", "2", "--out", "grid.png")
    assert code == 0, err
    with Image.open(trained.folder / "grid.png") as grid:
        assert grid.width > 2 * 8


def test_sampled_images_are_compared_with_the_training_images(trained: Shell) -> None:
    wanted = ("sample", "tiny", "--classes", "9,0", "--per-class", "2", "--check-copies")
    code, out, err = trained.run(*wanted, "--out", "checked", "--json")
    assert code == 0, err
    document = json.loads(out)
    with (trained.folder / "checked" / "copies.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [f"checked/{row['image']}" for row in rows] == document["files"]
    assert [row["class"] for row in rows] == ["9", "9", "0", "0"]
    ratios = [float(row["ratio"]) for row in rows]
    assert document["copies"]["lowest_ratio"] == pytest.approx(min(ratios), abs=1e-4)
    assert document["copies"]["near_copies"] == sum(row["near_copy"] == "yes" for row in rows)
    assert all(re.fullmatch(r"training image \d+", row["nearest"]) for row in rows)
    code, _, err = trained.run(*wanted, "--out", "checked.png")
    assert code == 0, err
    assert re.search(r"near copies of training images: \d of 4; .*: checked.copies.csv\n", err)
    with (trained.folder / "checked.copies.csv").open(encoding="utf-8") as file:
        assert [row["image"] for row in csv.DictReader(file)][::3] == [
            "row 1, column 1",
            "row 2, column 2",
        ]


def test_suggested_commands_can_be_pasted(trained: Shell) -> None:
    """In a store whose name a shell would take apart, and which is not the default one."""
    shutil.copytree(trained.folder / "whipray-runs", trained.folder / "my runs")
    code, _, err = trained.run("sample", "tiny", "--per-class", "1", "--storage", "my runs")
    assert code == 0, err
    suggested = [shlex.split(line) for line in err.partition("next:\n")[2].splitlines()]
    assert [words[:2] for words in suggested] == [
        ["whipray", verb] for verb in ("sample", "evaluate", "models")
    ]
    for words in suggested:
        assert words[-2:] == ["--storage", "my runs"]
        code, _, err = trained.run(*words[1:])
        assert code == 0, err


@dataclass(frozen=True)
class Ui:
    """A running `whipray ui`."""

    process: subprocess.Popen[str]
    port: str
    page: str


@pytest.fixture(scope="module")
def ui(trained: Shell) -> Iterator[Ui]:
    """The pages of the store, until Ctrl-C ends them."""
    port = str(free_port())
    with trained.start("ui", "--port", port) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "shows the runs" in line)
        server = psutil.Process(process.pid).children(recursive=True)
        try:
            yield Ui(process, port, line.partition(" shows")[0])
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert psutil.wait_procs(server, timeout=WAIT_S)[1] == []


def test_the_ui_opens_on_the_runs(ui: Ui) -> None:
    with chromium() as browser, browser.open(ui.page) as opened:
        opened.page.get_by_role("link", name="tiny", exact=True).wait_for()
        assert {urlsplit(address).netloc for address in opened.requests} == {f"127.0.0.1:{ui.port}"}
        assert "workflowType=machine_learning" in opened.page.url


def test_the_ui_reports_to_nobody(ui: Ui) -> None:
    for process in psutil.Process(ui.process.pid).children(recursive=True):
        environment = process.environ()
        assert environment["MLFLOW_DISABLE_TELEMETRY"] == environment["DO_NOT_TRACK"] == "true"


def test_a_taken_port_is_a_failure_that_names_another_one(trained: Shell, ui: Ui) -> None:
    code, out, err = trained.run("ui", "--port", ui.port)
    assert (code, out) == (1, "")
    what, fix = err.strip().splitlines()[-2:]
    assert what == f"error: port {ui.port} cannot be used (Address already in use)"
    assert re.fullmatch(r"fix: give another one: --port \d+", fix)
    assert ui.port not in fix


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--classes", "12"), "there is no class 12"),
        (("--classes", ","), "names no class"),
        (("--out", "/proc/nothing/grid.png"), "cannot be written"),
        (("--out", "/proc/nothing"), "cannot be written"),
    ],
)
def test_sample_refuses(trained: Shell, arguments: tuple[str, str], said: str) -> None:
    code, _, err = trained.run("sample", "tiny", "--per-class", "1", *arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("models",), {"MLFLOW_TRACKING_URI": f"http://me:{SECRET}@127.0.0.1:1"}),
        (
            ("sweep", "cbdm", "--recipe", "digits-demo"),
            {"MLFLOW_TRACKING_URI": f"http://me:{SECRET}@127.0.0.1:1"},
        ),
        (
            (
                "train",
                "digits-demo",
                "storage.uri=s3://bucket/runs",
                f"storage.endpoint_url={NOWHERE}",
            ),
            {
                "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": SECRET,
            },
        ),
        (
            ("evaluate", "tiny", "--storage", "s3://bucket/runs", "--endpoint", NOWHERE),
            {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET},
        ),
    ],
    ids=["models", "sweep", "train", "evaluate"],
)
def test_a_server_that_is_not_there_is_said_so(
    whipray: Shell, arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    code, _, err = whipray.run(*arguments, **environment)
    assert code == 1, err
    lines = [line for line in err.splitlines() if line.startswith(("error: ", "fix: "))]
    assert [line.partition(":")[0] for line in lines] == ["error", "fix"], err
    assert "127.0.0.1:1" in lines[0]
    assert "Traceback" not in err
    assert SECRET not in err


def test_doctor_is_content_with_an_empty_folder(whipray: Shell) -> None:
    code, out, err = whipray.run("doctor", "--json")
    assert code == 0, err
    checks = {check["name"]: check["ok"] for check in json.loads(out)["checks"]}
    assert checks["storage"]
    assert checks["tracking"]
    assert not (whipray.folder / "whipray-runs").exists()


def test_doctor_finds_servers_that_are_not_there(whipray: Shell) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET}
    where = ("--storage", "s3://bucket", "--endpoint", NOWHERE, "--tracking", NOWHERE)
    code, out, err = whipray.run("doctor", *where, "--json", **keys)
    assert code == 4, err
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    for name in ("storage", "tracking"):
        assert not checks[name]["ok"]
        assert checks[name]["fix"]
    assert checks["libraries"]["ok"]
    assert SECRET not in out + err


def test_variables_of_another_launcher_are_ignored_and_named(whipray: Shell) -> None:
    group = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    left = {**group, "LOCAL_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "DS_ACCELERATOR": "xpu"}
    command = ("train", "digits-demo", "--run", "alone", *TINY, "training.images=640")
    code, _, err = whipray.run(*command, **left)
    assert code == 0, err
    (line,) = (line for line in err.splitlines() if "of another launcher" in line)
    assert set(left) == set(line.partition(": ")[2].split(", "))
