"""A store without its MLflow database, and one in another folder: both go on."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from mlflow import MlflowClient
from support.shell import TINY, Shell
from support.tracking import runs_by_key

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]

SPACE = {
    "description": "two trainings and a baseline",
    "train": {"objective.tau": {"type": "categorical", "choices": [0.5, 1.0]}},
    "sample": {"sampling.guidance.omega": {"type": "categorical", "choices": [0.0, 1.0]}},
    "baselines": [{"name": "ddpm", "set": {"objective.name": "ddpm"}}],
}
SWEEP = (
    *("sweep", "space.yaml", "--recipe", "digits-lt", "--name", "s", "--trials", "2"),
    *(*TINY, "objective.name=cbdm", "training.images=640"),
)
IN_MLFLOW_ALONE = ("loss/", "validation/", "lr", "images_per_second", "gradient_norm", "workers")


def registered(database: Path) -> dict[int, dict[str, str]]:
    """Return the tags of each registered version, of which the newest is the champion."""
    client = MlflowClient(f"sqlite:///{database}")
    (model,) = client.search_registered_models()
    assert model.aliases == {"champion": model.latest_versions[0].version}
    return {
        int(v.version): dict(v.tags) for v in client.search_model_versions("name = 'digits-lt'")
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Return a folder with a run that was evaluated a second time, and a finished sweep."""
    shell = Shell(tmp_path_factory.mktemp("rebuild"))
    (shell.folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    train = ("train", "digits-lt", *TINY, "training.images=640", "--run", "one")
    for command in (train, ("evaluate", "one", "sampling.guidance.omega=2"), SWEEP):
        code, _, err = shell.run(*command)
        assert code == 0, err
    return shell


def test_every_file_of_a_store_has_the_usual_rights(place: Shell) -> None:
    (place.folder / "usual").touch()
    usual = (place.folder / "usual").stat().st_mode
    private = [
        path
        for path in (place.folder / "whipray-runs").rglob("*")
        if path.is_file() and path.stat().st_mode & 0o777 != usual & 0o777 & ~0o111
    ]
    assert private == []


def lose_database(place: Shell, folder: Path) -> Shell:
    """Return a copy of the place whose MLflow database is lost."""
    shutil.copytree(place.folder, folder, dirs_exist_ok=True)
    (folder / "whipray-runs/mlflow.db").unlink()
    return Shell(folder)


def test_all_that_the_store_holds_is_made_again_once(place: Shell, tmp_path: Path) -> None:
    shell = lose_database(place, tmp_path)
    code, out, err = shell.run("models")
    assert (code, out) == (2, "")
    assert "there is no" in err
    assert "`whipray runs rebuild`" in err
    (shell.folder / "whipray-runs/mlflow.db").touch()  # cut to nothing
    code, out, err = shell.run("models")
    assert (code, out) == (0, "")
    assert "MLflow has no run, though the store has 4: " in err
    assert "`whipray runs rebuild`" in err

    code, out, err = shell.run("runs", "rebuild", "--json")
    assert code == 0, err
    done = json.loads(out)
    assert done["runs"][0] == "one"
    assert done["runs"][-1] == "s"
    assert done["models"] == ["models:/digits-lt/1"]
    assert done["notes"] == []

    before, now = runs_by_key(place.folder), runs_by_key(shell.folder)
    assert now.keys() == before.keys()
    assert len(done["runs"]) == len(now)
    ids = {before[key].info.run_id: now[key].info.run_id for key in now}
    for key, run in now.items():
        old = before[key]
        assert (run.info.run_name, run.info.status) == (old.info.run_name, "FINISHED")
        assert run.data.params == old.data.params
        kept = {n: v for n, v in old.data.metrics.items() if not n.startswith(IN_MLFLOW_ALONE)}
        assert run.data.metrics == kept
        parent = old.data.tags.get("mlflow.parentRunId")
        assert run.data.tags.get("mlflow.parentRunId") == (parent and ids[parent])
    assert "whipray sample one" in now["run/one"].data.tags["mlflow.note.content"]
    names = [path.path for path in client(shell).list_artifacts(now["run/one"].info.run_id)]
    assert {"experiment.yaml", "evaluation", "evaluations"} <= set(names)
    database = "whipray-runs/mlflow.db"
    assert registered(shell.folder / database) == registered(place.folder / database)

    code, out, err = shell.run("runs", "rebuild", "--json")
    assert code == 0, err
    assert json.loads(out) == {"schema": 1, "runs": [], "models": [], "notes": []}
    code, _, err = shell.run("sample", "models:/digits-lt@champion", "--per-class", "1")
    assert code == 0, err


def client(shell: Shell) -> MlflowClient:
    return MlflowClient(f"sqlite:///{shell.folder}/whipray-runs/mlflow.db")


def test_a_finished_sweep_is_concluded_again(place: Shell, tmp_path: Path) -> None:
    shell = lose_database(place, tmp_path)
    code, _, err = shell.run(*SWEEP, "--resume")
    assert code == 0, err
    assert "MLflow had no run of s/0, s/1, " in err
    assert runs_by_key(shell.folder).keys() == runs_by_key(place.folder).keys() - {"run/one"}
    assert registered(shell.folder / "whipray-runs/mlflow.db").keys() == {1}


def test_what_is_damaged_is_named_and_the_rest_made_again(place: Shell, tmp_path: Path) -> None:
    shell = lose_database(place, tmp_path)
    store = shell.folder / "whipray-runs"
    (store / "sweeps/s/sweep.json").write_text("{")
    (result, *_) = sorted(store.glob("runs/one/evaluations/*/report.json"))
    result.write_bytes(b"x" + result.read_bytes()[1:])
    code, out, err = shell.run("runs", "rebuild", "--json")
    assert code == 0, err
    done = json.loads(out)
    assert done["runs"] == ["one"]
    assert done["models"] == []
    damaged, left_out = done["notes"]
    assert damaged == f"{result}: damaged, so it is left out"
    assert left_out.startswith(f"s is left out: {store}/sweeps/s/sweep.json: damaged")


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by name."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def paths_in(database: Path, folder: Path) -> list[tuple[str, str]]:
    """Return the tables and columns of a database in which a path below a folder stands."""
    with closing(sqlite3.connect(database)) as opened:
        tables = [
            name
            for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        columns = [(t, c[1]) for t in tables for c in opened.execute(f"PRAGMA table_info({t})")]
        return [
            (table, column)
            for table, column in columns
            if opened.execute(
                f"SELECT 1 FROM {table} WHERE {column} LIKE ?", (f"%{folder}%",)
            ).fetchone()
        ]


def test_a_moved_or_copied_store_is_whole_by_itself(place: Shell, tmp_path: Path) -> None:
    original = tree(place.folder / "whipray-runs")
    copied = shutil.copytree(place.folder, tmp_path / "a copy")
    moved = tmp_path / "moved again"
    sample = ("sample", "models:/digits-lt@champion", "--per-class", "1")
    train = ("train", "digits-lt", *TINY, "training.images=640", "--run", "two")
    code, _, err = Shell(copied).run(*sample)
    assert code == 0, err
    copied.rename(moved)
    shell = Shell(moved)
    for command in (sample, ("evaluate", "one", "sampling.guidance.omega=3"), train):
        code, _, err = shell.run(*command)
        assert code == 0, err
        assert "not recorded" not in err
    assert tree(place.folder / "whipray-runs") == original
    assert not copied.exists()
    database = moved / "whipray-runs/mlflow.db"
    store = place.folder / "whipray-runs"
    assert paths_in(database, store) == paths_in(database, copied) == []
    runs = runs_by_key(moved)
    for key in ("run/one", "run/two", "sweep/s/0"):
        uri = runs[key].info.artifact_uri
        assert Path(unquote(uri)).is_relative_to(moved), uri
    names = [
        p.path for p in client(shell).list_artifacts(runs["run/one"].info.run_id, "evaluations")
    ]
    assert len(names) == 2
