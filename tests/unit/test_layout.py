"""Where everything is kept is spelt in one module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from whipray.platform.storage import layout

ROOT = Path(__file__).parents[2]
PLATFORM = ROOT / "platform"

FOLDERS = (
    *("runs", "sweeps", "trials", "pretrain", "pretrained", "checkpoints", "samples"),
    *("evaluations", "references", "extractors", "classifiers", "comparisons", "study"),
    *("run", "sweep"),  # of MLflow's keys
)
FILES = {
    value
    for part in (layout, layout.Artifact)
    for value in vars(part).values()
    if isinstance(value, str) and re.fullmatch(r"[\w./]+\.[a-z]+", value)
}
SPELT = re.compile(
    rf"whipray\.(?!platform|trainers|search_spaces)[a-z]"  # a tag
    rf"|(?:.*/)?(?:{'|'.join(FOLDERS)})/"  # a folder
    rf"|(?:.*/)?(?:{'|'.join(map(re.escape, FILES))})$"  # a file
)
ALLOWED = {
    # The package that a job is sent in holds files of its own, which never reach a store.
    ("launching/tasks.py", "space.yaml"),
    ("foundation/settings.py", "whipray.toml"),  # of a project, not of a store
}


@pytest.mark.parametrize(
    "text",
    ["whipray.key", "runs/", "sweeps/name/trials/", "sweep.json", "evaluations/x/report.html"],
)
def test_a_name_of_the_layout_is_recognised(text: str) -> None:
    assert SPELT.match(text)


@pytest.mark.parametrize("text", ["whipray", "whipray.platform.cli", "many runs", "a report"])
def test_other_text_is_none(text: str) -> None:
    assert not SPELT.match(text)


def test_no_other_module_spells_a_name_of_the_layout() -> None:
    found = {
        (str(path.relative_to(PLATFORM)), text)
        for path in PLATFORM.rglob("*.py")
        if path != PLATFORM / "storage/layout.py"
        for text in literals(ast.parse(path.read_text()))
        if SPELT.match(text)
    }
    assert found == ALLOWED


def literals(tree: ast.Module) -> Iterator[str]:
    """Texts that a module works with: of strings and f-strings, without docstrings."""
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


@pytest.mark.parametrize(
    ("target", "key", "folder"),
    [
        ("mine", "run/mine", "runs/mine"),
        ("s/7", "sweep/s/7", "sweeps/s/trials/0007"),
        ("s/12345", "sweep/s/12345", "sweeps/s/trials/12345"),
        ("s/pretrain", "sweep/s/pretrain", "sweeps/s/pretrain"),
    ],
)
def test_a_target_names_one_folder_and_one_key(target: str, key: str, folder: str) -> None:
    assert layout.run_address(target) == layout.RunAddress(key, folder)
    assert layout.run_target(folder) == target
    assert layout.belongs_to_sweep(target) == target.startswith("s/")


def test_other_folders_are_no_runs() -> None:
    for folder in ("runs", "sweeps/s", "sweeps/s/study", "pretrained/0123", "runs/a/b"):
        assert layout.run_target(folder) is None


def test_a_trial_knows_its_sweep() -> None:
    folder = layout.trial_address("s", 3).folder
    assert layout.sweep_of_trial(folder) == layout.sweep_address("s").folder
    assert layout.sweep_of_trial(layout.run_address("s/pretrain").folder) is None
    assert layout.sweep_of_trial(layout.run_address("mine").folder) is None
