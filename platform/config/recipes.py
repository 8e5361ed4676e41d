"""Packaged recipes: which names there are, and the layers that each is composed of.

`extends` in a recipe names those that come before it, in order; later ones win. A data recipe, one
that sets `name`, lists in `methods` the files of `methods/` that may follow its name:
`cifar100-lt-ir50-oc` is `extends: [cifar100-lt-ir50, methods/oc]`, unless a file has that name.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ...trainers.errors import UsageProblem, did_you_mean
from .layers import Layer, read_yaml

METHODS = "methods/"
"""Recipes in this folder set a method and no data: they are parts of other recipes."""


def recipe_names() -> list[str]:
    """Return the name of every packaged experiment."""
    packaged = _packaged()
    data = [name for name in packaged if not name.startswith(METHODS)]
    return sorted({*data, *(f"{name}-{m}" for name in data for m in _methods(name, packaged))})


@dataclass(frozen=True)
class RecipeFacts:
    """A packaged recipe in a list."""

    name: str
    data: str
    method: str
    text: str
    """The first sentence of its comment; of one without a file, that of its method."""


def matching_names(pattern: str | None) -> list[str]:
    """Return the packaged recipes whose name fits a pattern with `*`, or contains it; None: all."""
    if pattern is None:
        return recipe_names()
    if "*" in pattern or "?" in pattern:
        return fnmatch.filter(recipe_names(), pattern)
    return [name for name in recipe_names() if pattern in name]


def describe_recipe(name: str) -> RecipeFacts:
    """Return what a packaged recipe is."""
    packaged = _packaged()
    layers = recipe_layers(name)
    source = str(_last(layers, "data", "source"))
    data = str(_last(layers, "data", "dataset") or source)
    method = str(_last(layers, "objective", "name") or "ddpm")
    extras = [str(_last(layers, part, "name") or "") for part in ("augmentation", "process")]
    method = " + ".join([method, *(extra for extra in extras if extra not in ("", "none", "vp"))])
    file = packaged[name if name in packaged else _parts(name, packaged)[-1]]
    return RecipeFacts(name, data, method, _first_sentence(file.read_text("utf-8")))


def _last(layers: Sequence[Layer], section: str, key: str) -> Any:
    """Return the value of a key that the last layer gives."""
    for layer in reversed(layers):
        inside = layer.values.get(section)
        value = inside.get(key) if isinstance(inside, Mapping) else None
        value = layer.values.get(f"{section}.{key}", value)
        if value is not None:
            return value
    return None


def _first_sentence(text: str) -> str:
    """Return the first sentence of the comment at the top of a recipe."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    comment = " ".join(line.removeprefix("#").strip() for line in lines)
    sentence = re.split(r"(?<=[\w)\]])(?<!et al)[.:;] ", f"{comment} ", maxsplit=1)[0].strip(" .:")
    if sentence.count("(") > sentence.count(")"):  # it ended within
        sentence = sentence.rpartition("(")[0].strip()
    return f"{sentence}."


def recipe_layers(name_or_path: str) -> list[Layer]:
    """Return a packaged recipe, or a YAML file given by its path, after what it extends.

    Raises:
        UsageProblem: no such recipe or file, or one that extends itself.
    """
    return _layers(name_or_path, ())


def _layers(name_or_path: str, within: tuple[str, ...]) -> list[Layer]:
    """Return the layers of a recipe that the recipes `within` lead to."""
    if name_or_path in within:
        circle = " -> ".join([*within, name_or_path])
        raise UsageProblem(f"recipes extend each other in a circle: {circle}", "break it")
    own, extended = _read(name_or_path)
    layers: list[Layer] = []
    for base in extended:
        below = _layers(base, (*within, name_or_path))
        # A recipe that two of them extend comes once, before both: again, it would undo the first.
        layers += [lower for lower in below if lower not in layers]
    return [*layers, own] if own.values else layers


def _read(name_or_path: str) -> tuple[Layer, list[str]]:
    """Return a recipe's own layer, and the recipes that it extends."""
    packaged = _packaged()
    if name_or_path in packaged:
        layer = _read_packaged(name_or_path)
        values = {key: value for key, value in layer.values.items() if key != "methods"}
    elif name_or_path.endswith((".yaml", ".yml")) or (
        os.sep in name_or_path and not name_or_path.startswith(METHODS)
    ):
        if os.path.isdir(name_or_path):
            raise _folder(name_or_path)
        layer = read_yaml(Path(name_or_path))
        values = dict(layer.values)
    else:
        return Layer(name_or_path, {}), _parts(name_or_path, packaged)
    extended = values.pop("extends", None) or []
    names = extended if isinstance(extended, list) else [extended]
    return Layer(layer.origin, values), [str(name) for name in names]


def _parts(name: str, packaged: Mapping[str, Traversable]) -> list[str]:
    """Return the data recipe and the method that a name without a file is made of."""
    data_names = [data for data in packaged if name.startswith(f"{data}-")]
    for data in sorted(data_names, key=len, reverse=True):
        method = name.removeprefix(f"{data}-")
        if method in _methods(data, packaged):
            return [data, METHODS + method]
    if os.path.isdir(name):
        raise _folder(name)
    known = recipe_names()
    hint = did_you_mean(name, sorted({*known, *packaged}), most=3)
    hint = hint or f"there are {', '.join(known)}, "
    raise UsageProblem(
        f"no recipe is named {name}",
        f"{hint}or give a .yaml file; `whipray init FOLDER` proposes one for your own pictures",
    )


def _folder(path: str) -> UsageProblem:
    proposes = f"`whipray init {shlex.quote(path)}` proposes a recipe for pictures in it"
    return UsageProblem(
        f"{path} is a folder, not a recipe",
        f"{proposes}; `whipray train {shlex.quote(f'./{path}')}` trains by it at once"
        if os.sep not in path
        else proposes,
    )


def _methods(data: str, packaged: Mapping[str, Traversable]) -> list[str]:
    """Return the methods that a data recipe lists, or the data recipe that it extends."""
    values = _read_packaged(data).values
    if "name" not in values:
        return []
    listed = values.get("methods")
    return list(listed) if listed is not None else _methods(str(values["extends"]), packaged)


@cache
def _packaged() -> dict[str, Traversable]:
    folder = files("whipray.trainers") / "recipes"
    return {
        prefix + file.name.removesuffix(".yaml"): file
        for prefix, entries in (("", folder.iterdir()), (METHODS, (folder / METHODS).iterdir()))
        for file in entries
        if file.name.endswith(".yaml")
    }


@cache
def _read_packaged(name: str) -> Layer:
    return read_yaml(_packaged()[name], f"recipe {name}")
