"""Runs listed, shown, removed, renamed and exported, and what nothing refers to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking._tracking_service import utils
from support.checkpoints import make_checkpoint, save
from support.servers import Server
from support.training import BATCH, tiny, train

import whipray
from whipray.platform.config.tracking import TrackingConfig
from whipray.platform.housekeeping.details import describe
from whipray.platform.housekeeping.export import export_model
from whipray.platform.housekeeping.garbage import AGE_S, find_garbage
from whipray.platform.housekeeping.inventory import Inventory
from whipray.platform.housekeeping.listing import list_runs
from whipray.platform.housekeeping.records import Records
from whipray.platform.housekeeping.removal import plan_removal
from whipray.platform.housekeeping.renaming import rename_run
from whipray.platform.runs.rebuild import is_missing
from whipray.platform.storage.checkpoints import CheckpointStore
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.layout import NOTE_TAG, Tag, VersionTag, run_address
from whipray.platform.storage.store import Storage
from whipray.platform.storage.writer_lock import writer_lock
from whipray.platform.tracking import registry
from whipray.platform.tracking.records import has_runs, read_versions
from whipray.platform.tracking.tracker import Tracker, open_tracker
from whipray.trainers.errors import UsageProblem

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

READING = (["models"], ["models", "m"], ["runs", "list"], ["runs", "show", "mine"], ["runs", "gc"])
"""Commands that read alone."""


class Killed(BaseException):
    """In place of SIGKILL: nothing handles it, and the kernel's locks go with the block."""


def fill(store: Storage, scratch: Path) -> None:
    """Put in runs `mine`, `free` and `guided` (by mine), and a sweep `s` whose trial 3 is registered."""
    guided = {"name": "autoguidance", "guide": "mine"}
    configs = {name: tiny() for name in ("mine", "free", "s/2", "s/3")}
    configs["guided"] = tiny(sampling__guidance=guided)
    for target, experiment in configs.items():
        run = store.child(run_address(target).folder)
        for images_seen in (128, 256):
            config = experiment.model_dump(mode="json")
            save(
                CheckpointStore(run), make_checkpoint(scratch / target, images_seen, config=config)
            )
        run.write_text("samples/aaaa/class0.images.safetensors", "used")
        result = {
            "metrics": {"kid/overall": 0.5, "kid/overall_low": 0.4, "kid/overall_high": 0.6},
            "provenance": {"samples": "aaaa", "images_seen": 256, "reference": "ref1",
                           "extractor_hash": "net1", "agreement_hash": "own1", "sampler": "ddim", "omega": 1.5},
        }  # fmt: skip
        run.write_text("evaluations/e1/report.html", "")
        run.write_text("evaluations/e1/result.json", json.dumps(result))
    store.write_text(
        "sweeps/s/sweep.json", json.dumps({"experiment": tiny().model_dump(mode="json")})
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with such a store and its database, to be copied."""
    folder = tmp_path_factory.mktemp("template")
    store = Storage(StorageConfig(uri=str(folder / "store")))
    fill(store, folder)
    tracker = opened(store)
    for name in ("mine", "free", "guided"):
        run = tracker.run(f"run/{name}", name, {Tag.KIND: "run"})
        run.set_tags({Tag.STORE: store.uri_of(f"runs/{name}"), Tag.EVALUATION: "elsewhere"})
    parent = tracker.run("sweep/s", "s", {Tag.KIND: "sweep"})
    for number in (2, 3):
        trial = tracker.run(f"sweep/s/{number}", str(number), {Tag.KIND: "trial"}, parent.run_id)
    tracker.client.create_registered_model("m")
    for _ in range(2):
        tags = {VersionTag.SWEEP: "s", VersionTag.TRIAL: "3", "text": 'with "quotes"\n'}
        tracker.client.create_model_version("m", "file:///x", trial.run_id, tags=tags)
    tracker.client.set_registered_model_alias("m", registry.CHAMPION, "1")
    return folder / "store"


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Storage:
    shutil.copytree(template, tmp_path / "store")
    return Storage(StorageConfig(uri=str(tmp_path / "store")))


def opened(store: Storage) -> Tracker:
    utils._artifact_repos_cache.clear()
    return open_tracker(TrackingConfig(), store)


def keys(store: Storage) -> set[str]:
    found = opened(store).client.search_runs(["1"])
    return {run.data.tags[Tag.KEY] for run in found}


def versions(store: Storage) -> list[Any]:
    return read_versions(Path(store.path) / "mlflow.db") or [] if store.is_folder else []


def remove(store: Storage, *names: str) -> int:
    removal = plan_removal(Inventory(store), names, versions(store))
    removal.execute(Records(store, None))
    return removal.bytes


def rename(store: Storage, name: str, new: str) -> None:
    rename_run(Inventory(store), name, new, Records(store, None), versions(store))


def test_versions_read_without_mlflow_are_those_that_mlflow_says(root: Storage) -> None:
    database = Path(root.path) / "mlflow.db"
    assert read_versions(database) == registry.versions(opened(root), "m")
    opened(root).client.delete_model_version("m", "2")
    assert read_versions(database) == registry.versions(opened(root), "m")
    assert has_runs(database) is True


def test_another_database_is_left_to_mlflow(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database")
    assert read_versions(tmp_path / "mlflow.db") is None
    assert has_runs(tmp_path / "nothing.db") is None
    assert not (tmp_path / "nothing.db").exists()


def test_a_command_that_only_reads_imports_neither_torch_nor_mlflow(root: Storage) -> None:
    """They take one and two seconds."""
    code = (
        "import sys\n"
        "from whipray.platform.cli.main import main\n"
        "for words in %r:\n"
        "    sys.argv = ['whipray', *words]\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code, words\n"
        "print({'torch', 'mlflow', 'ray', 'pandas', 'sklearn', 'scipy'} & {*sys.modules})\n"
    )
    words = [[*each, "--storage", root.uri] for each in READING]
    done = subprocess.run(
        [sys.executable, "-c", code % (words,)], capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("set()\n"), done.stdout + done.stderr


def test_a_list_says_what_each_run_is(root: Storage) -> None:
    root.delete("runs/free/evaluations")
    root.delete("runs/guided/checkpoints/images-000000000256")
    entries = {entry.name: entry for entry in list_runs(Inventory(root), versions(root))}
    assert {name: entry.state for name, entry in entries.items()} == {
        "mine": "finished", "free": "trained", "guided": "stopped", "s": "2 trials",
    }  # fmt: skip
    mine = entries["mine"]
    assert (mine.images_seen, mine.value, mine.low, mine.high) == (256, 0.5, 0.4, 0.6)
    size = sum(f.stat().st_size for f in Path(root.path, "runs/mine").rglob("*") if f.is_file())
    assert mine.bytes == size
    assert entries["s"].versions == ("m/2", "m/1")
    with writer_lock_of_another_process(root, "runs/mine"):
        again = {entry.name: entry for entry in list_runs(Inventory(root), [])}
    assert again["mine"].state == "training"


class writer_lock_of_another_process:
    def __init__(self, store: Storage, folder: str) -> None:
        code = (
            "import sys\n"
            "from whipray.platform.storage.config import StorageConfig\n"
            "from whipray.platform.storage.store import Storage\n"
            "from whipray.platform.storage.writer_lock import writer_lock\n"
            "run = Storage(StorageConfig(uri=sys.argv[1])).child(sys.argv[2])\n"
            "with writer_lock(run, 'is training this run', print):\n"
            "    print('locked', flush=True); sys.stdin.read()\n"
        )
        words = [sys.executable, "-c", code, store.uri, folder]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"locked\n"

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def test_a_run_is_shown_with_its_parts(root: Storage) -> None:
    inventory = Inventory(root)
    shown = describe(inventory, inventory.find("s/3"), versions(root))
    assert [c["images_seen"] for c in shown["checkpoints"]] == [128, 256]
    assert shown["versions"] == ["models:/m/2", "models:/m/1"]
    assert shown["classes"] == {"many": 5, "few": 1}
    assert shown["settings"]["data"] == "digits"
    assert shown["evaluations"][0]["metrics"] == {"kid/overall": 0.5}
    assert sum(shown["parts"].values()) == shown["bytes"]
    trials = describe(inventory, inventory.find("s"), [])["trials"]
    assert [trial["name"] for trial in trials] == ["s/2", "s/3"]


def test_a_removed_run_is_gone_from_the_store_and_marked_in_mlflow(root: Storage) -> None:
    before = sum(root.list().values())
    run_id = opened(root).find("run/free").run_id
    freed = remove(root, "free", "s/2")
    assert before - sum(root.list().values()) == freed > 0
    assert not [
        name for name in root.list() if name.startswith(("runs/free/", "sweeps/s/trials/0002"))
    ]
    assert keys(root) == {"run/mine", "run/guided", "sweep/s", "sweep/s/3"}
    assert opened(root).client.get_run(run_id).info.lifecycle_stage == "deleted"
    # `whipray runs rebuild` makes neither again, though the study still has the trial.
    assert not is_missing(opened(root), "sweep/s/2")
    assert is_missing(opened(root), "sweep/s/4")


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["s/3"], "s/3 is registered: models:/m/2, models:/m/1"),
        (["free", "s"], "s/3 is registered"),
        (["mine"], "guided is guided by mine"),
        (["nothing"], "no run or sweep nothing"),
        (["x:free"], "no run or sweep x:free"),
    ],
)
def test_a_run_that_is_needed_is_not_removed(root: Storage, names: list[str], what: str) -> None:
    before, recorded = root.list(), keys(root)
    with pytest.raises(UsageProblem, match=what):
        remove(root, *names)
    assert (root.list(), keys(root)) == (before, recorded)


def test_a_version_in_the_mlflow_of_the_run_itself_keeps_it(root: Storage, tmp_path: Path) -> None:
    """It need not be the one that the command is told of."""
    uri = f"sqlite:///{tmp_path}/own.db"
    config = tiny(tracking__uri=uri).model_dump(mode="json")
    store = root.child("runs/elsewhere")
    save(CheckpointStore(store), make_checkpoint(tmp_path / "made", 128, config=config))
    own = open_tracker(TrackingConfig(uri=uri), root)
    run = own.run("run/elsewhere", "elsewhere", {Tag.KIND: "run"})
    own.client.create_registered_model("far")
    tags = {VersionTag.RUN: "elsewhere"}
    own.client.create_model_version("far", "file:///x", run.run_id, tags=tags)
    before = root.list()
    with pytest.raises(UsageProblem, match="elsewhere is registered: models:/far/1"):
        remove(root, "free", "elsewhere")
    assert root.list() == before


def test_a_sweep_that_is_driven_since_the_question_is_not_removed(root: Storage) -> None:
    opened(root).client.delete_registered_model("m")
    removal = plan_removal(Inventory(root), ["s"], versions(root))
    before = root.list()
    with (
        writer_lock_of_another_process(root, "sweeps/s"),
        pytest.raises(UsageProblem, match="s: a process is writing it"),
    ):
        removal.execute(Records(root, None))
    assert root.list().items() >= before.items()
    remove(root, "s")
    assert not root.list("sweeps/s")


def test_a_run_that_a_process_is_training_is_neither_removed_nor_renamed(root: Storage) -> None:
    with writer_lock_of_another_process(root, "runs/free"):
        for change in (lambda: remove(root, "free"), lambda: rename(root, "free", "other")):
            with pytest.raises(UsageProblem, match="a process is writing it"):
                change()
    remove(root, "free")


def test_a_guide_goes_with_the_run_that_it_guides(root: Storage) -> None:
    remove(root, "mine", "guided")
    assert keys(root) == {"run/free", "sweep/s", "sweep/s/2", "sweep/s/3"}


def test_a_name_of_a_run_and_a_sweep_says_which(root: Storage) -> None:
    rename(root, "free", "s")
    with pytest.raises(UsageProblem, match="s is both a run and a sweep"):
        remove(root, "s")
    remove(root, "run:s")
    assert "sweeps/s/sweep.json" in root.list()


def test_a_renamed_run_keeps_files_and_record(root: Storage) -> None:
    files = root.child("runs/free").list()
    run_id = opened(root).find("run/free").run_id
    note = "**Run free**\n\n```\nwhipray sample free --per-class 8\n```"
    opened(root).client.set_tag(run_id, NOTE_TAG, note)
    rename(root, "free", "new")
    assert root.child("runs/new").list().items() >= files.items()
    run = opened(root).client.get_run(run_id)
    assert run.info.run_name == "new"
    assert run.data.tags[Tag.KEY] == "run/new"
    assert run.data.tags[Tag.STORE] == root.uri_of("runs/new")
    assert run.data.tags[NOTE_TAG] == note.replace("free", "new")
    tags = {VersionTag.RUN: "new"}
    opened(root).client.create_model_version("m", "file:///x", run_id, tags=tags)
    with pytest.raises(UsageProblem, match="new is registered: models:/m/3"):
        remove(root, "new")
    rename(root, "new", "newer")
    assert versions(root)[0].origin == "newer"
    rename(root, "run:newer", "new")
    assert opened(root).client.get_run(run_id).data.tags[Tag.KEY] == "run/new"
    with pytest.raises(UsageProblem, match="there is a run new already"):
        rename(root, "mine", "new")
    with pytest.raises(UsageProblem, match="belongs to a sweep"):
        rename(root, "s/2", "trial")
    for sweep in ("s", "sweep:s"):
        with pytest.raises(UsageProblem, match="s is a sweep"):
            rename(root, sweep, "other")


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], bool]:
    """End the process at its `step`th change of the store or of MLflow; return whether it came to it."""
    done = 0

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def then(*words: Any, **options: Any) -> Any:
            nonlocal done
            if done >= step:
                raise Killed
            done += 1
            return change(*words, **options)

        return then

    from mlflow import MlflowClient

    for owner, names in (
        (Storage, ("delete", "write_text", "copy")),
        (MlflowClient, ("delete_run", "update_run", "set_tag")),
        (Path, ("rename",)),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return lambda: done >= step


@pytest.mark.parametrize("command", ["rm", "mv"])
def test_a_command_that_was_killed_is_finished_by_the_same_command(
    root: Storage, command: str, tmp_path: Path
) -> None:
    def act(store: Storage) -> None:
        if command == "rm":
            remove(store, "free")
        else:
            rename(store, "free", "new")

    step = 0
    while True:
        shutil.copytree(root.path, tmp_path / str(step))
        store = Storage(StorageConfig(uri=str(tmp_path / str(step))))
        opened(store)
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, step)
            try:
                act(store)
                break
            except Killed:
                pass
        # Nothing that is left is half a checkpoint.
        for run in Inventory(store).runs.values():
            for checkpoint in run.checkpoints():
                if checkpoint.state == "whole":
                    manifest = CheckpointStore(store.child(run.folder)).read_manifest(
                        checkpoint.name
                    )
                    CheckpointStore(store.child(run.folder)).check_sizes(checkpoint.name, manifest)
        try:
            act(store)
        except UsageProblem as problem:  # it was killed after its last change
            assert "no run" in problem.what or "already" in problem.what  # noqa: PT017
        assert ("run/new" in keys(store)) == (command == "mv")
        assert "run/free" not in keys(store)
        names = store.list()
        assert not any(name.startswith("runs/free/") for name in names)
        assert any(name.startswith("runs/new/") for name in names) == (command == "mv")
        step += 1
    assert step >= 4


def test_an_exported_folder_generates_what_the_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = Storage(StorageConfig(uri=str(tmp_path / "store"))), tmp_path / "model"
    quick = {"name": "ddim", "steps": 2}
    train(tiny(training__images=4 * BATCH, sampling__sampler=quick), tmp_path / "store/runs/real")
    size = export_model(store, None, "real", folder)
    assert size == sum(file.stat().st_size for file in folder.iterdir())
    generated = whipray.load_model(folder).sample([0, 9], seed=1)
    expected = whipray.load_model("real", storage=store).sample([0, 9], seed=1)
    np.testing.assert_array_equal(generated, expected)
    with pytest.raises(UsageProblem, match="not empty"):
        export_model(store, None, "real", folder)
    with pytest.raises(UsageProblem, match="no run nothing"):
        export_model(store, None, "nothing", tmp_path / "other")
    assert sorted(tmp_path.iterdir()) == [folder, tmp_path / "store"]
    (tmp_path / "present").mkdir()
    monkeypatch.chdir(tmp_path / "present")
    assert export_model(store, None, "real", Path()) == size
    assert {path.name for path in Path().iterdir()} == {path.name for path in folder.iterdir()}


def later() -> float:
    """Return a moment at which nothing was written lately."""
    return time.time() + AGE_S + 60


def test_what_nothing_refers_to_is_found_and_freed(
    root: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path / "cache"))
    rubbish = {
        "runs/mine/samples/bbbb/class0.images.safetensors",
        "runs/mine/checkpoints/images-000000000512/shard-0.safetensors",
        "runs/mine/checkpoints/images-000000000128/manifest.damaged.json",
        "extractors/key/net2/network.safetensors",
        "references/ref2/images.safetensors",
        "pretrained/abcdef0123456789/model.safetensors",
        "classifiers/00ff.safetensors",
    }
    kept = {
        "classifiers/ff00.safetensors",
        "classifiers/00ff.json",
        "runs/free/classification/c/result.json",
        "runs/free/samples/cccc/class0.scores-ff00-1234.safetensors",
        "extractors/key/net1/network.safetensors",
        "extractors/key/own1/network.safetensors",
        "references/ref1/images.safetensors",
        "pretrained/fedcba9876543210/model.safetensors",
    }
    for name in rubbish | kept:
        root.write_text(name, "x")
    root.write_text(
        "runs/free/pretrained.json", json.dumps({"sha256": "fedcba9876543210" + "0" * 48})
    )
    partial = Path(root.path) / "runs/mine/.x.partial"
    partial.write_text("half")
    (cached := tmp_path / "cache").mkdir()
    folders = f"{'b' * 32}-3x64/rows.bin", f"sets/{'c' * 16}/rows.bin"
    for name in (f"{'a' * 32}-3x32.npy", "thesis.txt", *folders):
        (cached / name).parent.mkdir(parents=True, exist_ok=True)
        (cached / name).write_text("x")
        os.utime(cached / name, (1, 1))
    before = root.list().keys() - rubbish
    young = find_garbage(Inventory(root), versions(root))
    assert [Path(each.name).name for each in young] == [
        f"{'a' * 32}-3x32.npy",
        f"{'b' * 32}-3x64",
        "c" * 16,
    ]
    os.utime(partial, (0, 0))
    found = find_garbage(Inventory(root), versions(root), later())
    unknown = find_garbage(Inventory(root), None, later())  # which versions there are
    assert {each.kind for each in found} - {each.kind for each in unknown} == {
        "model that no run starts from or is guided by"
    }
    for each in found:
        each.free(root)
    assert root.list().keys() == before
    assert not partial.exists()
    assert {path.name for path in cached.rglob("*")} == {"thesis.txt", "sets"}
    assert find_garbage(Inventory(root), versions(root), later()) == []


@pytest.mark.parametrize(
    "result", ["classification/c/result.json", "balancing/b.html", "diffult/d/result.json"]
)
def test_what_may_still_be_referred_to_is_kept(
    root: Storage, result: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path / "cache"))
    root.write_text("runs/mine/samples/bbbb/class0.images.safetensors", "x")
    root.write_text("runs/mine/evaluations/old/result.json", '{"metrics": {}, "provenance": {}}')
    root.write_text("runs/free/samples/bbbb/class0.images.safetensors", "x")
    root.write_text(f"runs/free/{result}", "{}")
    root.write_text("references/ref2/images.safetensors", "x")
    root.write_text("runs/guided/evaluations/damaged/result.json", "no JSON")
    assert find_garbage(Inventory(root), versions(root), later()) == []


@pytest.fixture
def bucket(moto: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Storage:
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    moto.make_bucket("housekeeping")
    store = Storage(StorageConfig(uri="s3://housekeeping/runs", endpoint_url=moto.endpoint))
    fill(store, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return store


@pytest.mark.slow
def test_the_same_in_a_bucket(bucket: Storage) -> None:
    tracker = opened(bucket)
    for name in ("mine", "free", "guided"):
        tracker.run(f"run/{name}", name, {Tag.KIND: "run"})
    entries = {entry.name: entry for entry in list_runs(Inventory(bucket), [])}
    assert entries["mine"].state == "finished"
    files = bucket.child("runs/free").list()
    rename(bucket, "free", "new")
    assert bucket.child("runs/new").list() == files
    assert not bucket.list("runs/free")
    with (
        writer_lock(bucket.child("runs/new"), "is training this run", lambda _: None),
        pytest.raises(UsageProblem, match="a process is writing it"),
    ):
        remove(bucket, "new")
    remove(bucket, "new")
    assert not bucket.list("runs/new")
    assert keys(bucket) == {"run/mine", "run/guided"}
