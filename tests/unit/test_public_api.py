"""`import whipray`: few names, imported when they are used; a training from Python, end to end."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.marks import MLFLOW_WARNINGS

import whipray

pytestmark = [
    *MLFLOW_WARNINGS,
]
NOT_SHOWN = {
    "BalancedDataset",
    "Experiment",
    "Model",
    "Objective",
    "Storage",
    "__version__",
    "sweep",
}
"""In the examples of docs/python.md: types, and what would take long."""
ROOT = Path(__file__).parents[2]
TINY = [
    "training.images=192",
    "training.report_every_images=64",
    "training.checkpoint_every_images=128",
    "training.validation_images=0",
    "evaluation.images_per_class=4",
    "evaluation.bootstrap_resamples=20",
    "evaluation.features.epochs=1",
    "sampling.sampler.steps=2",
    "tracking.system_metrics=false",
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHIPRAY_CACHE", str(tmp_path / "cache"))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def test_importing_it_imports_no_large_library() -> None:
    code = (
        "import sys, whipray\n"
        "names = dir(whipray)\n"
        "large = {'torch', 'ray', 'mlflow', 'numpy', 'pydantic', 'deepspeed'} & sys.modules.keys()\n"
        "print(names, large)\n"
        "assert not large"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_every_name_can_be_imported_and_is_documented() -> None:
    assert dir(whipray) == sorted(whipray.__all__)
    page = (ROOT / "docs/python.md").read_text()
    for name in whipray.__all__:
        value = getattr(whipray, name)
        assert re.search(rf"^\| `{name}\b", page, re.MULTILINE), name
        assert name == "__version__" or value.__doc__


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Trainer"):
        _ = whipray.Trainer  # type: ignore[attr-defined]


def test_type_checkers_see_the_names_that_are_imported() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: f".{node.module}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == whipray._MODULES
    assert {*seen, "__version__"} == set(whipray.__all__)


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert whipray.__version__ == project["version"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {whipray.__version__}\n" in citation


def test_a_wrong_key_is_a_problem_with_a_fix() -> None:
    with pytest.raises(whipray.Problem) as raised:
        whipray.load_experiment("digits-demo", ["objective.tua=1"])
    assert "objective.tua" in raised.value.what
    assert "objective.tau" in raised.value.fix


def test_a_name_that_could_not_be_read_again_is_a_problem(tmp_path: Path) -> None:
    experiment = whipray.load_experiment("digits-demo", TINY)
    with pytest.raises(whipray.Problem, match="'a/1' cannot be the name of a run"):
        whipray.train(experiment, run="a/1")
    with pytest.raises(whipray.Problem, match="'a/1' cannot be the name of a sweep"):
        whipray.sweep("cbdm", name="a/1")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_neither_folder_nor_bucket_is_a_problem() -> None:
    with pytest.raises(whipray.Problem, match="s3://bucket/prefix"):
        whipray.load_model("mine", storage="ftp://host/runs")


def test_a_training_is_evaluated_loaded_sampled_and_continued() -> None:
    experiment = whipray.load_experiment("digits-demo", TINY)
    trained = whipray.train(experiment, run="mine")
    assert trained["run"] == "mine"
    assert trained["images_seen"] == 192
    assert Path(trained["report"]).exists()
    json.dumps(trained)  # JSON's types, as the command prints

    model = whipray.load_model("mine")
    assert model.class_names == tuple("0123456789")
    assert model.class_counts[0] == 100
    images = model.sample(["8", 9, 9], seed=1)
    assert images.shape == (3, *model.image_shape)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images[[1]], model.sample([9], seed=1))
    assert (images[1] != images[2]).any()
    for labels in (["eight"], [10], [-1]):
        with pytest.raises(whipray.Problem, match="no class"):
            model.sample(labels)
    with pytest.raises(whipray.Problem, match="omega"):
        model.sample([0], omega=-1.0)

    again = whipray.train(experiment, run="mine")  # nothing is left to do
    assert again == trained
    report = whipray.evaluate("mine")
    assert {"kid/overall", "fid/overall", "agreement/overall", "copies/few"} <= report[
        "metrics"
    ].keys()
    assert report["images_generated"] == 0  # the training's own evaluation left them
    assert whipray.evaluate("mine", ["sampling.guidance.omega=2"])["images_generated"] == 40

    longer = whipray.load_experiment("digits-demo", [*TINY, "training.images=320"])
    assert whipray.train(longer, run="mine")["images_seen"] == 320
    with pytest.raises(whipray.Problem, match=r"objective\.tau"):
        whipray.train(whipray.load_experiment("digits-demo", [*TINY, "objective.tau=9"]), "mine")


def test_the_examples_of_the_documentation_run(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/python.md").read_text()
    blocks = [part.partition("```")[0] for part in page.split("```python\n")[1:]]
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)  # noqa: S102  (our own page)
    out = capsys.readouterr().out
    assert "(6, 1, 8, 8) uint8" in out
    assert "objective.tau" in out
    assert "['real', 'generated']" in out
    assert "models:/digits-lt/1 [('champion',)]" in out
    assert "('mine', 'finished'," in out
    assert "'removed': [{'run': 'plain'" in out
    assert Path(names["tail"]["copies"]["table"]).exists()
    assert Path("exported/README.md").read_text().startswith("# digits-lt\n")
    assert names["comparison"]["names"] == ("mine", "other")
    assert names["comparison"]["refused"] == {}
    assert "{'eight': 12, 'nine': 12} True" in out
    for each in (
        names["facts"],
        names["proposal"],
        names["curve"],
        names["comparison"],
        names["gain"],
        names["filled"],
        names["version"],
    ):
        json.dumps(each)  # JSON's types, as the commands print
    used = set(re.findall(r"whipray\.(\w+)", " ".join(blocks)))
    assert set(whipray.__all__) - used == NOT_SHOWN


def test_the_example_of_the_readme_uses_public_names() -> None:
    example = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    for node in ast.walk(ast.parse(example)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "whipray":
            assert node.attr in whipray.__all__
