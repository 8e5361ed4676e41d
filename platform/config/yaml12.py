"""YAML with the plain values of YAML 1.2, read and written; recipes, spaces and overrides use it.

1e-4 is a number; on, off, yes, no, 1:30 and dates are text; 017 is seventeen; a key given twice is
an error. What is written reads back the same with `load` and in readers of YAML 1.1.

Why not ruamel.yaml (0.19), whose default is YAML 1.2: it reads dates as `datetime.date`, so its
resolvers would need the same change; it writes `off` without quotes, which readers of YAML 1.1 take
for false; its error for a key given twice is several lines; and Ray and MLflow need PyYAML anyway.
"""

from __future__ import annotations

import re
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from ...trainers.errors import UsageProblem
from ..foundation.text import brief, brief_name

DEEPEST = 32
"""Levels of a section in a section; an experiment has five."""
MOST_VALUES = 100_000
"""Values of a document; a recipe has hundreds, one that lists 10,000 classes has some 10,000."""
LARGEST = 4 << 20
"""Bytes of a file."""

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"([-+]?\d[\d_]*|0o[0-7]+|0x[\da-fA-F]+)$")
_FLOAT = re.compile(
    r"([-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)
_NULL = re.compile(r"(~|null|Null|NULL|)$")
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)$")


class _Loader(yaml.SafeLoader):
    """A safe loader that resolves null, bool, int and float as YAML 1.2 does, and nothing else."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict):
                raise yaml.MarkedYAMLError(
                    problem="a key is a list or a section", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {brief(key)} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_int(self, node: Any) -> int:
        text = self.construct_scalar(node).replace("_", "")
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML 1.1 or `_Loader` would take for something else."""


_Loader.yaml_implicit_resolvers = {}  # none of YAML 1.1
_Loader.add_constructor(_TAG + "int", _Loader.construct_int)
_Loader.add_implicit_resolver(_TAG + "null", _NULL, ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_TAG + "bool", _BOOL, list("tTfF"))
for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(_TAG + "int", _INT, list("-+0123456789"))
    _yaml.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+.0123456789"))


def load(text: str, where: str) -> Any:
    """Read one YAML document; `where` names it in the error.

    Raises:
        UsageProblem: not YAML, a key given twice, or more than any config holds: values nested deeper
            than `DEEPEST`, or more than `MOST_VALUES` of them once every alias is written out.
    """
    documents = load_all(text, where)
    if len(documents) > 1:
        raise UsageProblem(f"{brief_name(where)}: more than one document", "remove the `---`")
    return documents[0] if documents else None


def load_all(text: str, where: str) -> list[Any]:
    """Read YAML documents that `---` separates; `where` names them in the error.

    Raises:
        UsageProblem: as `load`.
    """
    try:
        _check_size(text)
        return list(yaml.load_all(text, Loader=_Loader))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: more digits than Python reads
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise UsageProblem(
            f"{brief_name(where)}{line}: {reason}", "write it as YAML: plain keys and values"
        ) from error


def _check_size(text: str) -> None:
    """Check what the values would take, before any of them is built.

    PyYAML 6 reads events one by one, but builds values by recursion, and a few lines of aliases of
    aliases stand for millions of values.

    Raises:
        yaml.MarkedYAMLError: nested too deep, too many values, or an alias inside of what it names.
    """
    sizes: dict[str, int] = {}
    open_sections: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=_Loader):
        name, size = getattr(event, "anchor", None), 1
        if isinstance(event, yaml.CollectionStartEvent):
            open_sections.append((name, 1))
            if len(open_sections) > DEEPEST:
                raise _refused(f"nested deeper than {DEEPEST} levels", event)
            continue
        if isinstance(event, yaml.AliasEvent):
            if any(name == opened for opened, _ in open_sections):
                raise _refused(f"*{brief_name(str(name))} is inside of what it names", event)
            size = sizes.get(str(name), 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            name, size = open_sections.pop()
            sizes[str(name)] = size
        elif isinstance(event, yaml.ScalarEvent):
            sizes[str(name)] = 1
        else:
            continue
        if open_sections:
            above, before = open_sections[-1]
            size += before
            open_sections[-1] = above, size
        if size > MOST_VALUES:
            raise _refused(f"more than {MOST_VALUES:,} values, with those of aliases", event)


def _refused(reason: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=reason, problem_mark=event.start_mark)


def load_mapping(text: str, where: str) -> dict[Any, Any]:
    """Read one YAML document of keys and values; an empty one has no keys.

    Raises:
        UsageProblem: as `load`, or not a mapping.
    """
    values = load(text, where)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageProblem(f"{where}: not a mapping of keys to values", "write `key: value` lines")
    return values


def read_text(path: Path | Traversable) -> str:
    """Read the text of a YAML file.

    Raises:
        UsageProblem: no such file, not UTF-8, or larger than `LARGEST`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        text = content.decode()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageProblem(
            f"{brief_name(str(path))}: cannot be read ({reason})", "give a YAML file"
        ) from error
    if len(content) > LARGEST:
        raise UsageProblem(
            f"{path}: larger than {LARGEST >> 20} MiB", "give a YAML file of a config"
        )
    return text


def dump_scalar(value: Any) -> str:
    """Return a scalar or list as YAML on one line, quoted where it must be."""
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, width=10**9, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")
