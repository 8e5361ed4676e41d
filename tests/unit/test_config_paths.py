"""Paths of a config are those of the folder where the command is typed."""

from __future__ import annotations

from pathlib import Path

import pytest

import whipray
from whipray.platform.config.experiment import Experiment, load_experiment
from whipray.platform.config.layers import flatten
from whipray.platform.config.paths import relative_paths, with_absolute_paths
from whipray.platform.config.space_files import load_space
from whipray.platform.launching.tasks import evaluate_task, sweep_task, train_task
from whipray.platform.runs.single_run import SingleRun
from whipray.platform.storage.config import StorageConfig
from whipray.platform.tuning.sweep import plan_sweep
from whipray.trainers.errors import UsageProblem

OWN = """
extends: digits-lt
data: {source: list_files, root: photos, train_list: lists/train.txt, reference_list: ~/ref.txt}
evaluation:
  reference: {source: folder, root: real}
  features: {extractor: inception, weights: ../inception.pth}
pretrained: {model: ./base}
"""
KEYS = {
    "data.root": "photos",
    "data.train_list": "lists/train.txt",
    "evaluation.reference.root": "real",
    "evaluation.features.weights": "../inception.pth",
    "pretrained.model": "./base",
}


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(OWN)
    return load_experiment("own.yaml", []).value


def test_every_path_becomes_absolute(typed: Experiment, tmp_path: Path) -> None:
    found = flatten(with_absolute_paths(typed))
    assert {key: found[key] for key in KEYS} == {
        key: str(tmp_path / path) for key, path in KEYS.items()
    }
    assert found["data.reference_list"] == str(Path.home() / "ref.txt")
    assert with_absolute_paths(with_absolute_paths(typed)) == with_absolute_paths(typed)


def test_each_of_several_files_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = ["data.source=parquet", "data.path=[a/train.parquet, /b/*.parquet]"]
    experiment = load_experiment("digits-lt", files).value
    assert relative_paths(experiment) == [("data.path", "a/train.parquet")]
    found = flatten(with_absolute_paths(experiment))["data.path"]
    assert found == [str(tmp_path / "a/train.parquet"), "/b/*.parquet"]


@pytest.mark.parametrize("model", ["models:/a@champion", "base", "sweep/3", "sweep/pretrain"])
def test_what_names_a_run_or_a_model_is_no_path(model: str) -> None:
    experiment = load_experiment("digits-lt-cbdm-finetune", [f"pretrained.model={model}"]).value
    assert with_absolute_paths(experiment) is experiment


def test_runs_trials_and_python_see_the_folder_of_the_command(
    typed: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SingleRun("own", typed).experiment
    _, sweep = plan_sweep("cbdm", "own.yaml", [], None)
    trial = sweep.points.experiment_for({"data.root": "others"}, "trial 0")
    from_python = whipray.load_experiment("own.yaml")
    monkeypatch.chdir("/")
    for experiment in (run, sweep.experiment, from_python):
        assert flatten(experiment)["data.root"] == str(tmp_path / "photos")
    assert flatten(trial)["data.root"] == str(tmp_path / "others")


def test_a_cluster_is_sent_no_relative_path(typed: Experiment) -> None:
    shared = typed.model_copy(update={"storage": StorageConfig(uri="/shared/runs")})
    assert {key for key, _ in relative_paths(shared)} == KEYS.keys()
    space = load_space("cbdm")
    for send in (lambda: train_task("a", shared), lambda: sweep_task("a", shared, space, False)):
        with pytest.raises(UsageProblem, match=r"data\.root=photos is relative"):
            send()
    with pytest.raises(UsageProblem, match=r"evaluation\.reference\.root=real is relative"):
        evaluate_task(
            "a", ["evaluation.reference={source: folder, root: real}"], shared.storage, None
        )
    evaluate_task("a", ["evaluation.rank_by=copies/overall"], shared.storage, None)
    train_task("a", with_absolute_paths(shared))
