"""The order of layers and imports, and that everything packaged can be used."""

from __future__ import annotations

import ast
import platform
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from importlib.resources import files
from pathlib import Path

import pytest

from whipray.platform.config.experiment import load_experiment
from whipray.platform.config.layers import Layer
from whipray.platform.config.recipes import recipe_names
from whipray.platform.config.space_files import load_space
from whipray.platform.tuning.sweep import Sweep

ROOT = Path(__file__).parents[2]
PACKAGES = ("trainers", "search_spaces", "platform")
LAYERS = (
    ("trainers", "search_spaces"),
    ("platform.foundation",),
    ("platform.storage",),
    ("platform.evaluation",),
    ("platform.config",),
    ("platform.tracking", "platform.compute"),
    ("platform.datasets",),
    ("platform.generation", "platform.diagnostics", "platform.inspection"),
    ("platform.balancing",),
    ("platform.runs",),
    ("platform.analysis", "platform.launching", "platform.proposal", "platform.housekeeping"),
    ("platform.tuning",),
    ("platform.api",),
    ("platform.cli",),
    ("",),  # the root: the public functions, from anywhere
)
"""Lowest first. A package imports itself and packages of lower layers, wherever the import stands:
at the top of a file, in a function, or under `TYPE_CHECKING`."""
LAYER = {package: i for i, layer in enumerate(LAYERS) for package in layer}
ONLY_IN_PLATFORM = {"ray", "mlflow", "boto3", "botocore", "typer", "optuna"}
SPACES = sorted(
    f.name.removesuffix(".yaml")
    for f in files("whipray.search_spaces").iterdir()
    if f.name.endswith(".yaml")
)


def name_of(file: Path) -> str:
    """Return a module's dotted name."""
    return ".".join(("whipray", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    )


SOURCES = {
    name_of(file): file
    for file in [
        ROOT / "__init__.py",
        *(file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))),
    ]
}


@cache
def imports(module: str) -> frozenset[str]:
    """Return the dotted names of all that a module imports, wherever in it."""
    file = SOURCES[module]
    package = ["whipray", *file.relative_to(ROOT).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return frozenset(names)


@cache
def imported_modules(module: str) -> frozenset[str]:
    """Return the project's own modules that a module imports."""
    names = imports(module)
    modules = {name if name in SOURCES else name.rpartition(".")[0] for name in names}
    return frozenset(modules & SOURCES.keys() - {module})


def package_of(module: str) -> str:
    """Return the package, as it is named in `LAYERS`, that a module is in."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2] if parts[:1] == ["platform"] else parts[:1])


def test_an_import_never_goes_up() -> None:
    assert len(SOURCES) > 100
    upward = [
        f"{module} imports {imported}"
        for module in SOURCES
        for imported in imported_modules(module)
        if package_of(module) != package_of(imported)
        and LAYER[package_of(module)] <= LAYER[package_of(imported)]
    ]
    assert upward == []


def test_files_do_not_import_each_other_in_a_circle() -> None:
    graph = {module: imported_modules(module) for module in SOURCES}
    TopologicalSorter(graph).prepare()  # CycleError names the files


def test_every_module_of_platform_is_in_a_package() -> None:
    assert [file.name for file in (ROOT / "platform").glob("*.py")] == []


@pytest.mark.parametrize("package", ["trainers", "search_spaces"])
def test_the_lowest_layer_knows_no_cluster_store_or_command_line(package: str) -> None:
    sources = [module for module in SOURCES if package_of(module) == package]
    assert sources
    for module in sources:
        for name in imports(module):
            refused = name.split(".")[0] in ONLY_IN_PLATFORM
            assert not refused, f"{module} imports {name}"


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
    experiment = load_experiment(
        "digits-lt", ["pretrained.model=x"], [Layer(name, space.base)]
    ).value
    Sweep("s", experiment, space).points.check()


def test_a_training_of_one_worker_imports_no_ray() -> None:
    """It would take a second of every `whipray train`."""
    code = "import sys, whipray.platform.runs.single_run; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
