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
                    problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
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
        UsageProblem: not YAML, or a key given twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: more digits than Python reads
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "not YAML"
        raise UsageProblem(f"{where}{line}: {reason}", "write it as YAML") from error


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
        UsageProblem: no such file, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageProblem(f"{path}: cannot be read ({reason})", "give a YAML file") from error


def dump_scalar(value: Any) -> str:
    """Return a scalar or list as YAML on one line, quoted where it must be."""
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, width=10**9, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")
