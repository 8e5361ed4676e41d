"""`whipray diffult` on a tiny pipeline of digits: what each call makes, keeps, refuses and says."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.marks import MLFLOW_WARNINGS
from support.shell import TINY, WAIT_S, Shell

from whipray.platform.analysis.diffult.materials import Materials
from whipray.platform.analysis.diffult.order import make_order
from whipray.platform.cli import main as cli
from whipray.platform.config.experiment import load_experiment
from whipray.platform.config.tracking import TrackingConfig
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.tracker import open_tracker
from whipray.trainers.errors import UsageProblem

pytestmark = [pytest.mark.slow, *MLFLOW_WARNINGS]

SETTINGS = (
    *TINY,
    "training.images=640",
    "evaluation.features.epochs=1",
    "evaluation.metrics=[fid,kid]",
    "classification.network=resnet8",
    "classification.epochs=1",
    "balancing.to=60",
    "balancing.filter.pixel_distance=1300",
)
STEPS = ("diffusion model", "f_0", "generated images", "scores", "classifiers")
ARMS = ["real", "repeated", "augmented", "unfiltered", "random", "filtered"]


class Lab:
    """A store, and `whipray diffult` on it in this process."""

    def __init__(
        self, store: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self.store, self._patch, self._capture = store, patch, capture

    def call(self, *arguments: str, verb: str = "diffult") -> tuple[int, str, str]:
        settings = () if "--model" in arguments else SETTINGS
        words = ["whipray", verb, "digits-demo", *settings, "--storage", str(self.store)]
        self._patch.setattr(sys, "argv", [*words, *arguments])
        self._capture.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = self._capture.readouterr()
        return int(left.value.code or 0), out, err

    def document(self, *arguments: str) -> dict[str, Any]:
        code, out, err = self.call(*arguments, "--json")
        assert code == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    def steps(self, *arguments: str) -> dict[str, str]:
        plan = self.document(*arguments, "--dry-run")["plan"]
        return {step["name"]: step["state"] for step in plan["pipeline"]}

    def files(self) -> dict[str, int]:
        """When each file was written, but for MLflow's and locks."""
        return {
            name: path.stat().st_mtime_ns
            for path in sorted(self.store.rglob("*"))
            if path.is_file()
            and not (name := str(path.relative_to(self.store))).startswith(("mlflow", "artifacts"))
            and "lock" not in name
        }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one finished pipeline of two seeds."""
    return tmp_path_factory.mktemp("diffult")


@pytest.fixture
def lab(finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lab:
    monkeypatch.setenv("WHIPRAY_CACHE", str(finished / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    made = Lab(finished / "store", monkeypatch, capsys)
    if not made.store.exists():
        assert made.steps("--run", "one", "--seeds", "2") == dict.fromkeys(STEPS, "missing")
        assert not made.store.exists()  # a dry run touches nothing
        code, out, err = made.call("--run", "one", "--seeds", "2")
        assert code == 0, err
        (finished / "out").write_text(out)
        (finished / "err").write_text(err)
    return made


def test_a_pipeline_ends_with_a_table_a_page_and_a_document(lab: Lab, finished: Path) -> None:
    out, err = (finished / "out").read_text(), (finished / "err").read_text()
    assert out.startswith("accuracy that filtered generated images give beyond repeated real ones")
    rows = [line.split("  ")[0] for line in out.splitlines()[3:]]
    others = ("repeated", "random", "augmented", "unfiltered", "real")
    assert rows == [*(f"filtered - {arm}" for arm in others), *ARMS]
    (page,) = lab.store.glob("runs/one/diffult/*.html")
    assert str(page) in err
    document = lab.document("--run", "one", "--seeds", "2")
    assert document["run"] == "one"
    assert document["to"] == 60
    generated, added = sum(document["generated"]), document["images"]["added"]
    assert generated == sum(max(0, 60 - n) for n in document["images"]["real"])
    assert 0 < document["kept"] < generated
    assert {arm: sum(added[arm]) for arm in ARMS} == {
        "real": 0,
        "unfiltered": generated,
        **dict.fromkeys(("repeated", "augmented", "random", "filtered"), document["kept"]),
    }
    assert document["quality"]["fid/overall"] > 0
    fid = document["settings"]["FID of the diffusion model"]
    assert fid.endswith("by whipray-resnet-64, 20 images, against digits, reference")
    assert document["page"] == str(page)
    assert document["note"] is None
    tracker = open_tracker(TrackingConfig(), Storage(StorageConfig(uri=str(lab.store))))
    run = tracker.find("run/one")
    metrics = tracker.client.get_run(run.run_id).data.metrics
    for part, figures in (
        ("filtered", document["arms"]["filtered"]["figures"]),
        ("filtered-repeated", document["differences"]["repeated"]),
    ):
        assert metrics[f"diffult/{part}/accuracy/few"] == figures["accuracy/few"]["value"]
    recorded = {each.path for each in tracker.client.list_artifacts(run.run_id, "diffult")}
    assert f"diffult/{page.name}" in recorded


def test_a_second_call_makes_nothing_again(lab: Lab) -> None:
    before = lab.files()
    assert lab.steps("--run", "one", "--seeds", "2") == dict.fromkeys(STEPS, "complete")
    lab.document("--run", "one", "--seeds", "2")
    assert lab.files() == before


def test_another_filter_weight_or_number_repeats_what_depends_on_it(lab: Lab) -> None:
    before = lab.files()
    complete = dict.fromkeys(STEPS, "complete")
    given = ("--run", "one", "--seeds", "2")
    threshold = (*given, "balancing.filter.pixel_distance=1330")
    assert lab.steps(*threshold) == complete | {"classifiers": "partial"}
    weight = (*given, "classification.generated_weight=0.3")
    assert lab.steps(*weight) == complete | {"classifiers": "partial"}
    assert lab.steps("--run", "one", "--seeds", "1", "--arms", "real") == complete
    more = lab.steps(*given, "balancing.to=80")
    assert (more["diffusion model"], more["f_0"]) == ("complete", "complete")
    assert lab.files() == before  # dry runs touch nothing

    document = lab.document(*threshold, "--arms", "real,unfiltered,filtered")
    made = lab.files().keys() - before.keys()
    folders = [name.split("/")[0] for name in made if not name.startswith("runs/one/diffult/")]
    assert folders == ["classifiers"] * 2  # `filtered`, of two seeds
    assert document["compared"] == "filtered"
    assert any("without the arm `repeated`" in line for line in document["warnings"])


def test_a_class_that_the_filter_rejects_is_refused_unless_a_search_chose_the_filter(
    lab: Lab,
) -> None:
    strict = ("storage.uri=" + str(lab.store), "balancing.filter.pixel_distance=0")
    recipe = load_experiment("digits-demo", [*SETTINGS, *strict])
    given, _ = make_order(recipe, "one", [])
    with pytest.raises(UsageProblem, match="rejects all generated images"):
        Materials(given).classifiers()
    chosen = Materials(replace(given, chosen={"sweep": "s"}))
    assert [c.added for c in chosen.classifiers() if c.arm == "filtered"] == [None] * 5


def test_a_model_that_was_trained_before_is_taken(lab: Lab) -> None:
    settings = ("balancing.to=60", "balancing.filter.pixel_distance=1300")
    classifiers = ("classification.network=resnet8", "classification.epochs=1")
    states = lab.steps("--model", "one", "--seeds", "2", *settings, *classifiers)
    assert states == dict.fromkeys(STEPS, "complete")


def test_a_killed_pipeline_goes_on(lab: Lab, finished: Path, tmp_path: Path) -> None:
    """A real kill, amid the classifiers of one more seed than there is."""
    shell = Shell(tmp_path)
    words = ("diffult", "digits-demo", *SETTINGS, "--run", "one", "--seeds", "3")
    folder = lab.store / "classifiers"
    before = set(folder.glob("*.json"))
    with shell.start(
        *words, "--storage", str(lab.store), WHIPRAY_CACHE=str(finished / "cache")
    ) as process:
        deadline = time.monotonic() + WAIT_S
        while not set(folder.glob("*.json")) - before:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.communicate()
    kept = set(folder.glob("*.json")) - before
    assert 0 < len(kept) < len(ARMS)
    at = {file: file.stat().st_mtime_ns for file in kept}
    document = lab.document("--run", "one", "--seeds", "3")
    assert len(document["arms"]["filtered"]["trained"]) == 3
    assert {file: file.stat().st_mtime_ns for file in kept} == at
    assert len(set(folder.glob("*.json")) - before) == len(ARMS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--run", "one", "objective.tau=2"), "the run to resume has objective.tau=1.0, not 2.0"),
        (("--run", "new", "balancing.to=5"), "balancing.to is 5, and every class"),
        (("--run", "new", "--arms", "repeeted"), "did you mean repeated?"),
        (("--run", "new", "--arms", "generated"), "a filter is set"),
        (("--run", "one", "balancing.filter.pixel_distance=1"), "the filter rejects all generated"),
        (("--run", "new", "--seeds", "0"), "--seeds is 0"),
        (("--run", "new", "--workers", "some"), "--workers is some"),
        (("--model", "one", "--run", "new"), "give one of them"),
        (("--model", "none"), "no run none with a checkpoint"),
        (("--model", "one", "objective.tau=2"), "objective.tau cannot be changed"),
        (("--model", "one", "data.long_tail.ratio=10"), "not those that the model was trained on"),
    ],
)
def test_a_mistake_is_answered_in_two_lines(
    lab: Lab, arguments: tuple[str, ...], said: str
) -> None:
    before = lab.files()
    code, out, err = lab.call(*arguments)
    assert (code, out) in {(1, ""), (2, "")}
    assert len(err.strip().splitlines()) == 2, err
    assert said in err
    assert lab.files() == before
