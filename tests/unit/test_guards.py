"""The house's own rules: who imports whom, and that everything packaged can be used."""

from __future__ import annotations

import ast
import platform
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from whipray.platform.config.experiment import load_experiment, recipe_names
from whipray.platform.config.layers import Layer
from whipray.platform.config.space_files import load_space
from whipray.platform.tuning.sweep import Sweep

ROOT = Path(__file__).parents[2]
ABOVE = {"ray", "mlflow", "boto3", "botocore", "typer", "optuna"}
SPACES = sorted(
    f.name.removesuffix(".yaml")
    for f in files("whipray.search_spaces").iterdir()
    if f.name.endswith(".yaml")
)


def imports(file: Path) -> Iterator[str]:
    """Absolute names of all that a file imports, at its top or in a function."""
    package = ["whipray", *file.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    ("floor", "other"), [("trainers", "search_spaces"), ("search_spaces", "trainers")]
)
def test_the_ground_floor_does_not_look_up(floor: str, other: str) -> None:
    sources = sorted((ROOT / floor).rglob("*.py"))
    assert sources
    for file in sources:
        for name in imports(file):
            refused = (
                name.split(".")[0] in ABOVE
                or f"{name}.".startswith(("whipray.platform.", f"whipray.{other}."))
                or name.startswith("pyarrow.fs")
            )
            assert not refused, f"{file.relative_to(ROOT)} imports {name}"


def test_platform_is_still_the_standard_library() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert platform.python_version_tuple()
    assert Path(platform.__file__).parent != ROOT / "platform"


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_resolves(name: str) -> None:
    assert load_experiment(name, []).value.training.images > 0


@pytest.mark.parametrize("name", SPACES)
def test_a_search_space_fits_the_experiment(name: str) -> None:
    space = load_space(name)
    experiment = load_experiment("digits-lt", ["start.model=x"], [Layer(name, space.base)]).value
    Sweep("s", experiment, space).check_points()
