"""`whipray diffult` on a tiny pipeline of digits: what each call makes, keeps, refuses and says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.marks import MLFLOW_WARNINGS
from support.shell import TINY

from whipray.platform.cli import main as cli

pytestmark = [pytest.mark.slow, *MLFLOW_WARNINGS]

SETTINGS = (
    *TINY,
    "training.images=640",
    "evaluation.features.epochs=1",
    "evaluation.metrics=[fid,kid]",
    "classification.network=resnet8",
    "classification.epochs=1",
    "balancing.to=60",
)
ARMS = ["real", "repeated", "augmented", "generated"]


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
        assert made.steps("--run", "one", "--seeds", "2") == dict.fromkeys(
            ("diffusion model", "generated images", "classifiers"), "missing"
        )
        assert not made.store.exists()  # a dry run touches nothing
        code, out, err = made.call("--run", "one", "--seeds", "2")
        assert code == 0, err
        (finished / "out").write_text(out)
        (finished / "err").write_text(err)
    return made


def test_a_pipeline_ends_with_a_table_a_page_and_a_document(lab: Lab, finished: Path) -> None:
    out, err = (finished / "out").read_text(), (finished / "err").read_text()
    assert out.startswith("accuracy that generated images give beyond repeated real ones: ")
    rows = [line.split()[0] for line in out.splitlines()[3:]]
    assert rows == ["generated"] * 3 + ARMS
    (page,) = lab.store.glob("runs/one/diffult/*.html")
    assert str(page) in err
    document = lab.document("--run", "one", "--seeds", "2")
    assert document["run"] == "one"
    assert document["to"] == 60
    assert sum(document["generated"]) == sum(max(0, 60 - n) for n in document["images"]["real"])
    assert document["quality"]["fid/overall"] > 0
    assert document["page"] == str(page)


def test_a_second_call_makes_nothing_again(lab: Lab) -> None:
    before = lab.files()
    steps = ("diffusion model", "generated images", "classifiers")
    assert lab.steps("--run", "one", "--seeds", "2") == dict.fromkeys(steps, "there")
    assert lab.files() == before
    lab.document("--run", "one", "--seeds", "2")
    changed = {name for name, at in lab.files().items() if before.get(name) != at}
    assert {name.split("/")[2] for name in changed} <= {"diffult"}  # the page says what was reused


def test_another_number_or_weight_repeats_what_depends_on_it(lab: Lab) -> None:
    weight = ("--run", "one", "--seeds", "2", "classification.generated_weight=0.3")
    assert lab.steps(*weight) == {
        "diffusion model": "there",
        "generated images": "there",
        "classifiers": "partly there",  # the arm `real`
    }
    fewer = lab.steps("--run", "one", "--seeds", "1", "--arms", "real")
    assert fewer["classifiers"] == "there"
    more = lab.steps("--run", "one", "--seeds", "2", "balancing.to=80")
    assert more["diffusion model"] == "there"
    assert more["classifiers"] == "partly there"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--run", "one", "objective.tau=2"), "the run to resume has objective.tau=1.0, not 2.0"),
        (("--run", "new", "balancing.to=5"), "every class already has that many"),
        (("--run", "new", "--arms", "repeeted"), "did you mean repeated?"),
        (("--run", "new", "--seeds", "0"), "--seeds is 0"),
        (("--run", "new", "--workers", "some"), "--workers is some"),
        (("--model", "one", "--run", "new"), "give one of them"),
        (("--model", "none"), "no run none with a checkpoint"),
        (("--model", "one", "objective.tau=2"), "objective.tau cannot be changed"),
        (("--model", "one", "data.long_tail.ratio=10"), "data.long_tail.ratio cannot be changed"),
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
