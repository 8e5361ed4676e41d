"""What goes from a laptop to a cluster: the code, the config, and no secret."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.servers import free_port
from support.training import tiny

from whipray.platform.config.experiment import Experiment, load_experiment
from whipray.platform.config.layers import Layer
from whipray.platform.config.space_files import load_space
from whipray.platform.config.tracking import TrackingConfig
from whipray.platform.launching import package
from whipray.platform.launching.jobs_client import ClusterProblem, JobsClient
from whipray.platform.launching.shared_config import (
    describe_data_paths,
    shared_store,
    shared_tracking,
)
from whipray.platform.launching.tasks import (
    RECIPE,
    SPACE,
    balance_task,
    evaluate_task,
    sweep_task,
    train_task,
)
from whipray.platform.storage.config import StorageConfig
from whipray.platform.tuning.sweep_identity import identity_of
from whipray.trainers.errors import UsageProblem

S3 = StorageConfig(uri="s3://bucket/runs")
SERVER = TrackingConfig(uri="http://mlflow:5000")


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def on_a_cluster() -> Experiment:
    return tiny(storage__uri="s3://bucket/runs", tracking__uri="http://mlflow:5000")


def test_a_launch_says_what_every_node_must_have() -> None:
    assert describe_data_paths(on_a_cluster()) is None
    layer = Layer("test", {"data": {"source": "folder", "root": "/photos"}})
    experiment = load_experiment("digits-demo", [], [layer]).value
    said = describe_data_paths(experiment)
    assert said == "data.root=/photos, on every node: copy it there first, or mount it"


def test_the_staged_code_runs_by_itself_and_is_all_that_is_sent(tmp_path: Path) -> None:
    staged = package.stage(tmp_path, {"recipe.yaml": "name: x\n"})
    names = set(staged.sizes)
    assert {"recipe.yaml", "requirements.json", "whipray/platform/runs/run.py"} <= names
    assert {name.split("/")[1] for name in names if name.startswith("whipray/")} == set(
        package.PARTS
    )
    assert not [name for name in names if "__pycache__" in name]
    assert staged.size < package.MAX_BYTES
    code = (
        "import platform, whipray.platform.cli.main as main; print(main.__file__, platform.node())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert out.startswith(str(tmp_path / "whipray"))


def test_what_git_ignores_stays_at_home_and_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "checkout"
    for name in ("trainers/loss.py", "trainers/images.bin", "platform/__pycache__/x.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * 3_000_000)
    monkeypatch.setattr(package, "files", lambda _name: root)
    with pytest.raises(UsageProblem, match=r"5\.7 MiB, more than 5 MiB: whipray/trainers/"):
        package.stage(tmp_path / "all", {})
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    (root / ".gitignore").write_text("*.bin\n")
    staged = package.stage(tmp_path / "some", {})
    assert set(staged.sizes) == {"whipray/trainers/loss.py", "requirements.json"}


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("head", "http://head:8265"),
        ("http://head:9000/", "http://head:9000"),
        ("https://ray.example.org", "https://ray.example.org:443"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_a_cluster_is_known_by_its_dashboard(
    given: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert JobsClient(given).address == address


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("ray://head:10001", "is not a cluster's address"),
        ("http://head:port", "is not a cluster's address"),
        ("http://", "is not a cluster's address"),
        ("http://head..example:8265", "is not a cluster's address"),
        (f"http://{'x' * 64}:8265", "is not a cluster's address"),
        ("http://me:secret@head:8265", "must not contain a login"),
    ],
)
def test_what_is_no_address_is_refused(given: str, what: str) -> None:
    with pytest.raises(UsageProblem, match=what):
        JobsClient(given)


def test_the_room_of_a_cluster_that_does_not_answer_is_a_problem_of_two_lines() -> None:
    with pytest.raises(ClusterProblem, match="no Ray cluster answers"):
        JobsClient(f"http://127.0.0.1:{free_port()}").room(1, 0)


def test_a_store_of_this_machine_is_refused() -> None:
    with pytest.raises(UsageProblem, match="is a folder of this machine"):
        shared_store(StorageConfig())
    assert shared_store(StorageConfig(uri="/shared/runs")).uri == "/shared/runs"


def test_the_environment_s_endpoint_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3:9000")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    found = shared_store(S3.model_copy(update={"retry_timeout_s": 7.0}))
    assert (found.endpoint_url, found.region, found.retry_timeout_s) == (
        "http://s3:9000",
        "eu-central-1",
        7.0,
    )
    kept = S3.model_copy(update={"endpoint_url": "http://mine:1"})
    assert shared_store(kept).endpoint_url == "http://mine:1"


def test_mlflow_is_a_server_and_its_login_does_not_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageProblem, match="no MLflow server is named"):
        shared_tracking(TrackingConfig(), S3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cr3t@mlflow:5000")
    with pytest.raises(UsageProblem, match="holds a login") as refused:
        shared_tracking(TrackingConfig(), S3)
    assert "s3cr3t" not in str(refused.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert shared_tracking(TrackingConfig(), S3).uri == "http://mlflow:5000"


def test_a_training_arrives_as_it_was_resolved(tmp_path: Path) -> None:
    task = train_task("mine", on_a_cluster())
    recipe = tmp_path / RECIPE
    recipe.write_text(task.texts[RECIPE])
    assert task.arguments == [RECIPE, "--run", "mine"]
    assert load_experiment(str(recipe), []).value == on_a_cluster()


def test_a_sweep_arrives_as_it_was_resolved(tmp_path: Path) -> None:
    """Its space's base is laid over the recipe anew there, and must not undo what was overridden."""
    space = load_space("cbdm_finetune")
    assert "objective" in space.base
    mine = load_experiment(
        "digits-demo",
        ["objective.tau=0.25", "storage.uri=s3://bucket/runs", "tracking.uri=http://mlflow:5000"],
    ).value
    task = sweep_task("mine", mine, space, resume=True)
    for name, text in task.texts.items():
        (tmp_path / name).write_text(text)
    place, overrides = task.arguments[:6], task.arguments[6:]
    assert place == [SPACE, "--recipe", RECIPE, "--name", "mine", "--resume"]
    there = load_space(str(tmp_path / SPACE))
    layers = [Layer("space", there.base)]
    found = load_experiment(str(tmp_path / RECIPE), list(overrides), layers).value
    assert there == space
    assert identity_of(found, there) == identity_of(mine, space)


def test_balancing_takes_the_whole_cluster_and_a_folder_that_the_job_sees() -> None:
    options = ["--to", "500", "--out", "/shared/balanced"]
    task = balance_task("mine", options, ["sampling.seed=1"], S3, SERVER.uri)
    assert task.arguments[:2] == ["mine", "sampling.seed=1"]
    assert task.arguments[2:6] == options
    assert task.arguments[-2:] == ["--workers", "all"]
    few = balance_task("mine", ["--workers", "2"], [], S3, SERVER.uri).arguments
    assert few.count("--workers") == 1
    with pytest.raises(UsageProblem, match=r"--out here is relative, and no node.*without --on"):
        balance_task("mine", ["--out", "here"], [], S3, SERVER.uri)


def test_an_evaluation_takes_the_whole_cluster_unless_told_otherwise() -> None:
    plain = evaluate_task("mine", [], S3, SERVER.uri)
    assert plain.arguments[-1] == "evaluation.workers=all"
    few = evaluate_task("mine", ["evaluation.workers=2"], S3, SERVER.uri)
    assert [word for word in few.arguments if "workers" in word] == ["evaluation.workers=2"]
