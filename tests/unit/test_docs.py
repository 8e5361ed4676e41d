"""The documentation against the code: commands parse, keys, paths, links and anchors exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from support.documents import CODE_BLOCK, PAGES, ROOT, Command, read_commands

from whipray.platform.cli import exit_codes
from whipray.platform.cli.main import app
from whipray.platform.config.experiment import Experiment, load_experiment
from whipray.platform.config.layers import Layer, parse_override
from whipray.platform.config.paths import relative_paths
from whipray.platform.config.recipes import recipe_names
from whipray.platform.config.schema import known_keys
from whipray.platform.config.space_files import load_space
from whipray.platform.tuning.sweep import Sweep

IN_CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
KEYS = set(known_keys(Experiment))
SECTIONS = {key.partition(".")[0] for key in KEYS if "." in key}
FILE_ENDINGS = (
    ".safetensors",
    ".py",
    ".md",
    ".yaml",
    ".json",
    ".sh",
    ".env",
    ".txt",
    ".parquet",
    ".html",
)


COMMANDS = [command for page in PAGES for command in read_commands(page)]
OURS = [command for command in COMMANDS if command.words[0] == "whipray"]


def parse(words: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Parse a command line as `whipray` would, without running it: its name, and its parameters."""
    command: Any = typer.main.get_command(app)
    context = None
    name, rest = words[0], list(words[1:])
    while hasattr(command, "resolve_command"):
        context = command.make_context(name, rest, parent=context)
        name, command, rest = command.resolve_command(context, rest)
        assert command is not None
    return name, command.make_context(name, rest, parent=context).params


def test_there_are_commands_to_check() -> None:
    assert len(OURS) > 30
    assert {"README.md", "docs/clusters.md", "infra/README.md"} <= {c.page for c in OURS}


@pytest.mark.parametrize("command", OURS, ids=str)
def test_a_command_parses_and_its_config_resolves(command: Command) -> None:
    name, given = parse(command.words)
    overrides = list(given.get("overrides") or ())
    known = KEYS
    for override in overrides:
        for key in parse_override(override).values:
            assert key in known, f"{key} is no key of an experiment"
    if name in ("train", "sweep") and is_packaged(given["recipe"]) and given.get("on"):
        config = load_experiment(given["recipe"], overrides).value
        assert not relative_paths(config), "no node of a cluster has the reader's folder"
    if name == "train" and is_packaged(given["recipe"]):
        load_experiment(given["recipe"], overrides)
    elif name == "sweep" and is_packaged(given["recipe"]):
        space = load_space(given["space_name"])
        resolved = load_experiment(
            given["recipe"], overrides, [Layer(given["space_name"], space.base)]
        )
        Sweep("checked", resolved.value, space).points.check()


def is_packaged(recipe: str) -> bool:
    """Return whether a recipe is ours; the reader's own ends with .yaml or, a folder, with /, a gap is in capitals."""
    if recipe.endswith((".yaml", "/")) or recipe.isupper():
        return False
    assert recipe in recipe_names()
    return True


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.words[0] == "make"], ids=str)
def test_a_make_target_exists(command: Command) -> None:
    targets = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in command.words[1:]:
        assert word in targets or re.match(r"[A-Z]+=", word), word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_exist(page: Path) -> None:
    text = CODE_BLOCK.sub("", page.read_text())
    for target in LINK.findall(text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path)
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", CODE_BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "CHANGELOG.md"],  # it names what is gone
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_paths_keys_and_variables_exist(page: Path) -> None:
    text = page.read_text()
    paths = re.compile(r"(platform|trainers|search_spaces|infra|docs|tests)/[\w./-]*\w")
    for code in IN_CODE.findall(CODE_BLOCK.sub("", text)):
        if paths.fullmatch(code) and "NAME" not in code:
            assert (ROOT / code).exists(), code
        key = re.match(r"([a-z_]+)(\.[a-z_0-9]+)+(?=$|=)", code)
        if key and key[1] in SECTIONS and not code.endswith(FILE_ENDINGS):
            section = f"{key[0]}."
            assert key[0] in KEYS or any(k.startswith(section) for k in KEYS), code
    for command in read_commands(page):
        for word in command.words:
            if paths.fullmatch(word):
                assert (ROOT / word).exists(), word


def test_every_variable_of_ours_is_documented_and_exists() -> None:
    variable = re.compile(r"\bWHIPRAY_[A-Z_]+\b")
    pages = {name for page in PAGES for name in variable.findall(page.read_text())}
    folders = ("platform", "trainers", "infra")
    code = {
        name
        for folder in folders
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.suffix not in (".md", ".pyc")
        for name in variable.findall(file.read_text())
    }
    assert pages <= code
    internal = {"WHIPRAY_JOB"}  # set by a job's own entry point
    settings = set(variable.findall((ROOT / "infra/settings.env").read_text()))
    assert code - internal - settings <= pages


def test_the_table_has_every_variable_that_the_code_reads() -> None:
    page = (ROOT / "docs/configuration.md").read_text().partition("## Environment variables")[2]
    rows = "".join(line for line in page.splitlines() if line.startswith("| `"))
    code = {
        name
        for folder in ("platform", "trainers")
        for file in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"\bWHIPRAY_[A-Z_]+\b", file.read_text())
    }
    assert len(code) > 4
    assert {name for name in code if f"`{name}`" not in rows} == {
        "WHIPRAY_JOB"
    }  # set by a job itself


def test_the_readme_shows_every_package() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    tree = text.partition("## Repository layout")[2].partition("```\n")[2].partition("```")[0]
    shown, parent = set(), ""
    for line in tree.splitlines():
        name = line.split()[0].rstrip("/")
        if not line.startswith(" "):
            parent = name
        shown.add(name if not line.startswith(" ") else f"{parent}/{name}")
    assert all((ROOT / path).is_dir() for path in shown)
    packages = {
        f"{parent}/{file.parent.relative_to(ROOT / parent).parts[0]}"
        for parent in ("platform", "trainers")
        for file in (ROOT / parent).glob("*/*.py")
    }
    assert packages <= shown


def test_packages_are_listed_in_their_order() -> None:
    tree = ast.parse((ROOT / "tests/unit/test_guards.py").read_text())
    layers = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS"
    )
    page = (ROOT / "docs/design/README.md").read_text().partition("## Order of the packages")[2]
    rows = re.findall(r"^\| (\d+) \| `([\w/]+)`", page, re.MULTILINE)
    listed = {name.replace("/", "."): int(layer) for layer, name in rows}
    assert listed == {name: i for i, layer in enumerate(layers, 1) for name in layer if name}


def test_exit_codes_are_listed() -> None:
    page = (ROOT / "docs/configuration.md").read_text().partition("## Exit codes")[2]
    listed = set(map(int, re.findall(r"^\| (\d+) \|", page, re.MULTILINE)))
    assert listed == {value for value in vars(exit_codes).values() if isinstance(value, int)}


def test_every_stored_format_is_listed() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    files = [
        file.relative_to(ROOT).as_posix()
        for folder in ("platform", "trainers")
        for file in (ROOT / folder).rglob("*.py")
        if re.search(r"^\w*FORMAT = \d", file.read_text(), re.MULTILINE)
    ]
    assert len(files) > 3
    assert [file for file in files if f"| `{file}` |" not in page] == []
