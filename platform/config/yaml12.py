"""YAML without surprises, read and written.

1e-4 is a number; on, off, yes, no and dates are text (as in YAML 1.2); a key given twice is an
error. What is written reads back the same here and in readers of YAML 1.1.
"""

from __future__ import annotations

import re
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from ...trainers.errors import UsageProblem


class _Loader(yaml.SafeLoader):
    """A safe loader with the plain values of YAML 1.2."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML 1.1 or `_Loader` would take for something else."""


_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)([eE][-+]?\d+)?$")
_YAML_1_1 = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in resolvers if tag not in _YAML_1_1]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def load(text: str, where: str) -> Any:
    """Read one YAML document; `where` names it in the error.

    Raises:
        UsageProblem: not YAML, or a key given twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
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
    """A scalar or list on one line, quoted where it must be."""
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, width=10**9, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")
