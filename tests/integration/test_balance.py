"""`whipray balance` on a tiny run of digits: what it makes, keeps, writes, records, refuses and says."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from support.marks import MLFLOW_WARNINGS
from support.training import BATCH, at, tiny, train

from whipray.platform.analysis.balance.balance import balance_set
from whipray.platform.analysis.balance.result import BalanceResult
from whipray.platform.analysis.register import register_run
from whipray.platform.cli import main as cli
from whipray.platform.generation.shard_tasks import ShardSampler
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.tracker import open_tracker
from whipray.trainers.checkpoint_names import checkpoint_name
from whipray.trainers.data import Balanced, Digits
from whipray.trainers.data.balanced import StoredSet
from whipray.trainers.errors import DataProblem, Problem, UsageProblem
from whipray.trainers.integrity import unseal

pytestmark = [pytest.mark.slow, *MLFLOW_WARNINGS]

SHORT = ("classification.epochs=1", "sampling.sampler.steps=2")
REAL = [100, 71, 51, 36, 26, 18, 13, 9, 6, 5]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A store with a run `tiny` of two checkpoints, and a registered model of its last."""
    folder = tmp_path_factory.mktemp("store")
    train(tiny(), folder / "runs/tiny")
    root = at(folder)
    open_tracker(tiny().tracking, root).run("run/tiny", "tiny", {}).finish("FINISHED")
    return root


@pytest.fixture(autouse=True)
def _surroundings(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def balance(root: Storage, *overrides: str, target: str = "tiny", **options: Any) -> BalanceResult:
    return balance_set(root, None, target, [*SHORT, *overrides], **{"to": 20, **options})


def test_classes_are_filled_filtered_written_and_trained_on(
    store: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = balance(store, out=tmp_path / "whole")
    wanted = np.maximum(0, 20 - np.array(REAL))
    assert whole.images_generated == wanted.sum() == 49
    assert (
        [c.generated for c in whole.classes] == [c.kept for c in whole.classes] == wanted.tolist()
    )
    assert [c.real for c in whole.classes] == REAL
    assert whole.written is not None
    assert whole.written.written == whole.written.images == sum(REAL) + 49 + 740
    rows = parquet.read_table(tmp_path / "whole/manifest.parquet").to_pandas()
    made = rows[rows.generated]
    assert made[["pixel_distance", "feature_distance", "probability"]].notna().to_numpy().all()
    assert set(made.near_copy) <= {True, False}

    # another filter: nothing is generated or scored again
    def never(*_: Any) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr("whipray.trainers.export.Exported.sample", never)
        patch.setattr("whipray.trainers.classification.trained.TrainedClassifier.features", never)
        bound = float(np.sort(made[made.class_id == 9].pixel_distance)[7])
        strict = f"pixel_distance<={bound!r}"
        cut = balance(store, filters=[strict], out=tmp_path / "cut", form="torchvision")
    assert cut.images_generated == 0
    kept = made.pixel_distance <= np.float32(bound)
    assert cut.classes[9].kept == 8
    assert cut.counts.overall.kept == kept.sum() < 49
    again = parquet.read_table(tmp_path / "cut/manifest.parquet").to_pandas()
    rejected = again[~again.kept]
    assert len(rejected) == 49 - kept.sum()
    assert rejected.reason.str.startswith("pixel_distance ").all()
    assert cut.written is not None
    same = balance(store, filters=[strict], out=tmp_path / "cut", form="torchvision")
    assert same.document() == replace(cut, written=replace(cut.written, written=0)).document()

    # more of each class: what is known is not made again, and is the same
    more = balance(store, to=22, out=tmp_path / "more", form="parquet")
    assert 0 < more.images_generated <= 49 + 6 * 2
    splits = Balanced(path=tmp_path / "more", image_size=8, channels=1).load(tmp_path / "cache")
    assert splits.train.class_counts.tolist() == np.maximum(22, REAL).tolist()
    real = Digits().load(tmp_path / "cache")
    assert splits.reference.fingerprint() == real.reference.fingerprint()
    assert np.array_equal(splits.train.images[: sum(REAL)], real.train.images)

    # it trains
    data = {"source": "balanced", "path": str(tmp_path / "cut"), "image_size": 8, "channels": 1}
    done = train(tiny(data=data, training__images=2 * BATCH), tmp_path / "run")
    assert np.isfinite(done.losses()).all()

    # it is an input of the run that made it
    run = open_tracker(tiny().tracking, store).find("run/tiny")
    inputs = run.client.get_run(run.run_id).inputs.dataset_inputs
    logged = {each.dataset.digest: each.dataset for each in inputs}
    assert set(logged) == {whole.identity, cut.identity, more.identity}
    profile = json.loads(logged[cut.identity].profile)
    assert profile["images"] == sum(REAL) + cut.counts.overall.kept
    pages = {each.path for each in run.client.list_artifacts(run.run_id, "balancing")}
    assert pages == {whole.page, cut.page, more.page}
    page = cut.subject.run.store.read_text(cut.page)
    assert page == (tmp_path / "cut/datasheet.html").read_text()


def test_what_generates_is_named_by_a_model_a_run_or_a_checkpoint(
    store: Storage, tmp_path: Path
) -> None:
    version = register_run(store, None, "tiny", "digits", "champion")
    by_model = balance(store, target="models:/digits@champion", out=tmp_path / "a")
    assert by_model.subject.name == version.uri
    by_run = balance(store)
    assert by_run.subject.name == f"tiny {checkpoint_name(8 * BATCH)}"
    assert (by_run.weights, by_run.identity) == (by_model.weights, by_model.identity)
    early = balance(store, checkpoint=checkpoint_name(4 * BATCH))
    assert early.weights != by_run.weights
    about = StoredSet.read(tmp_path / "a").about
    assert (about["model"], about["weights"]) == (version.uri, by_run.weights)
    rows = parquet.read_table(tmp_path / "a/manifest.parquet").to_pandas()
    assert set(rows[rows.generated].model) == {version.uri}
    assert balance(store, seed=5).identity != by_run.identity

    def refusal(**options: Any) -> str:
        with pytest.raises(Problem) as caught:
            balance(store, **options)
        return f"{caught.value.what} | {caught.value.fix}"

    assert "choose one of: images-" in refusal(checkpoint="images-000000000001")
    assert "is of one checkpoint already" in refusal(target="models:/digits/1", checkpoint="x")
    gone = at(tmp_path / "elsewhere")
    shutil.copytree(Path(store.path) / "runs/tiny", tmp_path / "elsewhere/runs/tiny")
    shutil.copy(Path(store.path) / "mlflow.db", tmp_path / "elsewhere")
    last = tmp_path / "elsewhere/runs/tiny/checkpoints" / checkpoint_name(8 * BATCH)
    shutil.rmtree(last)
    with pytest.raises(UsageProblem, match="the checkpoint that it is of is no longer in"):
        balance(gone, target="models:/digits/1")
    shutil.rmtree(tmp_path / "elsewhere/runs")
    with pytest.raises(UsageProblem, match=r"digits/1 is of tiny, which is not in .*--storage"):
        balance(gone, target="models:/digits/1")


def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_lost(
    store: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(kind: type[Problem], *overrides: str, **options: Any) -> str:
        with pytest.raises(kind) as caught:
            balance(store, *overrides, **options)
        assert "\n" not in caught.value.what
        return caught.value.what

    assert refusal(UsageProblem, to=5) == (
        "--to is 5, and every class already has that many real images: 5 to 100"
    )
    assert refusal(UsageProblem, filters=["pixel_distance<=0"]).startswith(
        "the filter rejects all generated images of 5 of 5 classes; the best values of each: 5 (pixel"
    )
    assert "cannot be changed" in refusal(UsageProblem, "training.images=1")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with monkeypatch.context() as patch:  # before anything else
        patch.setattr(ShardSampler, "generate", lambda *_: pytest.fail("it generates"))
        assert refusal(UsageProblem, out=tmp_path / "other").endswith("other already holds file")
    balance(store, out=tmp_path / "set")
    what = refusal(UsageProblem, out=tmp_path / "set", filters=["probability>=0"])
    assert f"set holds another balanced set: of tiny {checkpoint_name(8 * BATCH)}, up to 20" in what

    monkeypatch.setattr("whipray.trainers.data.digits.TRAIN_PER_CLASS", 99)
    assert "not those that the model was trained on: images of class 0 has 99" in refusal(
        DataProblem
    )


def test_what_a_person_sees(
    store: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def say(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["whipray", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        shown = capsys.readouterr()
        return int(left.value.code or 0), shown.out, shown.err

    monkeypatch.setenv("WHIPRAY_STORAGE", store.uri)
    out = tmp_path / "set"
    words = ("balance", "tiny", *SHORT, "--to", "20", "--filter", "probability>=0")
    code, table, told = say(*words, "--out", str(out))
    assert code == 0
    lines = {line.split()[0]: line.split() for line in table.splitlines() if line.strip()}
    assert lines["overall"][1:4] == ["335", "49", "49"]
    assert lines["9"] == ["9", "few", "5", "15", "15", lines["9"][5], "20"]
    assert f"set  {out} (folder, 1,124 images, 1,124 images written)" in told
    assert f"whipray train RECIPE data.source=balanced data.path={out} data.image_size=8" in told
    assert "--model tiny balancing.to=20 balancing.filter.probability=0.0 classification" in told
    code, text, _ = say(*words, "--out", str(out), "--json")
    document = json.loads(text)
    assert (code, document["set"]["written"], document["images_generated"]) == (0, 0, 0)
    assert document["images"]["total"] == 335 + 49
    assert document["identity"] == unseal((out / "balanced.json").read_text())["identity"]
    code, _, told = say(*words, "--out", str(out), "--as", "zip")
    assert (code, told) == (
        2,
        "error: --as zip: no such form\nfix: there are folder, parquet, torchvision\n",
    )
    assert say(*words, "--workers", "0")[0] == 2
    assert say("data", "check", str(out))[0] == 0
