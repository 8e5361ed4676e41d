"""Layers (a recipe, files, the command line) merged into one checked config with known origins.

Works on any pydantic model whose parts are models or tagged unions of models, as in
`objective: {name: cbdm, tau: 1.0}`. Keys may be dotted anywhere in a layer: `objective.tau: 1.0`.

Why not OmegaConf or Hydra: neither keeps the origin of each value after merging, nor drops the keys
of the old variant when a layer chooses another one of a union.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ...trainers.config import OfOneVariant
from ...trainers.errors import UsageProblem
from ..foundation.text import brief
from .errors import COMMAND_LINE, DEFAULT, problem
from .schema import tag_field, variants_of, with_tag
from .yaml12 import dump_scalar, load, load_mapping, read_text

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Layer:
    """Values with their origin; keys may be nested, dotted or both."""

    origin: str
    """For messages: "recipe digits-lt", a file's name, "command line"."""
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved(Generic[M]):
    """A checked config and the origin of every leaf of it."""

    value: M
    origins: dict[str, str]
    """Dotted leaf -> origin; "default" where no layer gave a value."""


def read_yaml(path: Path | Traversable, origin: str | None = None) -> Layer:
    """Read a layer from a YAML file; its origin is the file's name unless given.

    Raises:
        UsageProblem: no such file, not YAML, a key given twice, or not a mapping.
    """
    return Layer(origin or path.name, load_mapping(read_text(path), str(path)))


def parse_override(text: str) -> Layer:
    """Read `objective.tau=1.5`; the value is YAML, so `[1, 2]`, `null` and `true` work.

    Raises:
        UsageProblem: no `=`, an empty part in the key, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"[^\s.]+(\.[^\s.]+)*", key):
        raise UsageProblem(f"{brief(text)} is not key=value", "write it like objective.tau=1.5")
    return Layer(COMMAND_LINE, {key: load(value, key)})


def resolve(model: type[M], layers: list[Layer]) -> Resolved[M]:
    """Merge the layers in order, validate the result, and record the origin of each value.

    Sections merge key by key; lists and scalars replace. A layer that chooses another variant of
    a union (another `objective.name`) drops what other layers gave for keys it lacks. A layer that
    gives one of a model's `alternatives` (`optimizer.warmup_steps`) drops what other layers gave for
    the other (`optimizer.warmup_images`).

    Raises:
        UsageProblem: unknown keys or wrong values, each with what to do.
    """
    tree: _Tree = {}
    for layer in layers:
        _merge(tree, layer.values, layer.origin, [model])
    try:
        value = model.model_validate(_plain(tree))
    except ValidationError as error:
        raise problem(error, model, lambda path: _origin_near(tree, path)) from error
    leaves = _leaves(value.model_dump(mode="json"))
    return Resolved(value, {".".join(path): _origin(tree, path) for path, _ in leaves})


def flatten(value: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted leaf -> scalar or list, as JSON types. An empty mapping is a leaf."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return {".".join(path): leaf for path, leaf in _leaves(plain) if path}


def render(resolved: Resolved[Any], colour: bool = False) -> str:
    """Return the config as YAML that reads back equal, each value's origin as an aligned comment.

    Args:
        resolved: the result of `resolve`.
        colour: dim default values, with ANSI codes.
    """
    lines: list[tuple[str, str]] = []
    shown: tuple[str, ...] = ()
    for path, leaf in _leaves(resolved.value.model_dump(mode="json")):
        for depth, name in enumerate(path[:-1]):
            if path[: depth + 1] != shown[: depth + 1]:
                lines.append((f"{'  ' * depth}{dump_scalar(name)}:", ""))
        shown = path[:-1]
        text = f"{'  ' * len(shown)}{dump_scalar(path[-1])}: {dump_scalar(leaf)}"
        key = ".".join(path)
        lines.append((text, resolved.origins[key]))
    width = max((len(text) for text, origin in lines if origin and len(text) <= 60), default=0)
    rendered = []
    for text, origin in lines:
        line = f"{text:<{width}}  # {origin}" if origin else text
        rendered.append(f"\x1b[2m{line}\x1b[0m" if colour and origin.startswith(DEFAULT) else line)
    return "\n".join(rendered) + "\n"


# --- merging ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Leaf:
    value: Any
    origin: str


_Tree = dict[str, "_Leaf | _Tree"]


def _merge(
    tree: _Tree, values: Mapping[str, Any], origin: str, variants: list[type[BaseModel]]
) -> None:
    """Put one layer's values into the tree; `variants` are the models that this section may be."""
    tag = tag_field(variants)
    if tag is not None:
        before = tree.get(tag)
        old = before.value if isinstance(before, _Leaf) else None
        new = with_tag(variants, tag, values.get(tag, old))
        if tree and old != values.get(tag, old):
            # Without a tag so far, the keys were for the variant that is the default.
            known = new if old is None else with_tag(variants, tag, old)
            _drop_other_variant(tree, origin, known, new)
        variants = [new] if new else variants
    _drop_alternatives(tree, values, origin, variants)
    for name, value in values.items():
        key, dot, rest = str(name).partition(".")
        if dot and variants:
            _merge(tree, {key: {rest: value}}, origin, variants)
            continue
        key = str(name)
        field = next((v.model_fields[key] for v in variants if key in v.model_fields), None)
        if isinstance(value, Mapping):
            child = tree.get(key)
            if not isinstance(child, dict):
                child = _default_section(field)
            tree[key] = child
            _merge(child, value, origin, variants_of(field.annotation) if field else [])
        else:
            tree[key] = _Leaf(value, origin)


def _drop_other_variant(
    tree: _Tree, origin: str, old: type[BaseModel] | None, new: type[BaseModel] | None
) -> None:
    """Drop defaults of the old variant, and other layers' values that are not for the new one.

    Those are of keys that it lacks, and of fields that no variant inherits from another.
    """
    for key in list(tree):
        field = new.model_fields.get(key) if new else None
        marks = field.metadata if field is not None and old is not new else []
        own = any(isinstance(mark, OfOneVariant) for mark in marks)
        keep_given = new is None or (field is not None and not own)
        _prune(tree, key, origin, keep_given)


def _drop_alternatives(
    tree: _Tree, values: Mapping[str, Any], origin: str, variants: list[type[BaseModel]]
) -> None:
    """Drop other layers' values of keys that this layer gives in another way."""
    pairs = [pair for v in variants for pair in getattr(v, "alternatives", ())]
    for pair in (*pairs, *map(reversed, pairs)):
        given, other = pair
        before = tree.get(other)
        if values.get(given) is not None and isinstance(before, _Leaf) and before.origin != origin:
            del tree[other]


def _prune(tree: _Tree, key: str, origin: str, keep_given: bool) -> None:
    """Keep only the leaves of this origin, and with `keep_given` those that any layer gave."""
    node = tree[key]
    if isinstance(node, _Leaf):
        if node.origin != origin and (node.origin == DEFAULT or not keep_given):
            del tree[key]
        return
    for child in list(node):
        _prune(node, child, origin, keep_given)
    if not node:
        del tree[key]


def _default_section(field: FieldInfo | None) -> _Tree:
    """Return the field's default, for the keys of a section that a layer does not give."""
    if field is None or field.is_required() or field.default_factory_takes_validated_data:
        return {}
    default = field.get_default(call_default_factory=True)
    return _as_tree(default.model_dump()) if isinstance(default, BaseModel) else {}


def _as_tree(values: Mapping[str, Any]) -> _Tree:
    return {
        key: _as_tree(value) if isinstance(value, Mapping) else _Leaf(value, DEFAULT)
        for key, value in values.items()
    }


def _plain(tree: _Tree) -> dict[str, Any]:
    return {k: v.value if isinstance(v, _Leaf) else _plain(v) for k, v in tree.items()}


def _origin(tree: _Tree, path: Sequence[str]) -> str:
    """Return the origin of a leaf, or of the list or mapping above it that was given as a whole."""
    node: _Leaf | _Tree | None = tree
    for name in path:
        if not isinstance(node, dict):
            break
        node = node.get(name)
    return node.origin if isinstance(node, _Leaf) else DEFAULT


def _leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from _leaves(value, (*path, str(key)))
    else:
        yield path, values


def _origin_near(tree: _Tree, path: str) -> str:
    """Return the origin of a path, of the leaf above it, or of the first leaf below it."""
    node: _Leaf | _Tree | None = tree
    for name in path.split("."):
        if not isinstance(node, dict):
            break
        node = node.get(name)
    while isinstance(node, dict):
        node = next(iter(node.values()), None)
    return node.origin if isinstance(node, _Leaf) else DEFAULT
