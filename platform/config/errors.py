"""Errors of pydantic about a config, as one line of what is wrong and one of what to do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ...trainers.config import DISCRIMINATOR_SUFFIXES
from ...trainers.errors import UsageProblem, did_you_mean
from ..foundation.text import brief
from .schema import alternatives, known_keys, tag_field, tags_of, walk

COMMAND_LINE = "command line"
DEFAULT = "default"

OriginOf = Callable[[str], str] | None
"""Dotted path -> the layer that gave its value or one near it; None: messages name no layer."""

_NOUNS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a section of keys",
    "model": "a section of keys",
    "path": "a path",
}
MOST = 5
"""Errors that are described; a recipe of another program has dozens."""
_SEVERAL = re.compile(r"\s*[-+.\deE]+(\s*,\s*[-+.\deE]+)+\s*")
"""Numbers with commas, as other programs' command lines take them for a search."""
_WRONG_TYPE = ("_type", "_parsing", "_from_float")
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}


def problem(
    error: ValidationError, model: type[BaseModel], origin_of: OriginOf = None
) -> UsageProblem:
    """Return pydantic's errors as one line of what is wrong and one of what to do.

    Several are numbered, in both lines.
    """
    # A field of type `int | str` has an error for each type. Wrong values come before missing ones:
    # a misspelt required key is both.
    by_path: dict[str, list[Any]] = {}
    errors = error.errors(include_url=False)
    for entry in sorted(errors, key=lambda e: e["type"] == "missing"):
        by_path.setdefault(".".join(walk(model, entry["loc"])[0]), []).append(entry)
    explained = {path: _explain(path, of, model, origin_of) for path, of in by_path.items()}
    # A misspelt required key is also missing; the error about its name says what to do.
    meant = {fix for _, fix in explained.values()}
    found = [
        each
        for path, each in explained.items()
        if by_path[path][0]["type"] != "missing" or f"did you mean {path}?" not in meant
    ]
    whats, fixes = (
        [" ".join(text.split()) for text in texts] for texts in zip(*found[:MOST], strict=True)
    )
    if len(found) == 1:
        return UsageProblem(whats[0], fixes[0])
    more = len(found) - len(whats)
    return UsageProblem(_numbered(whats) + (f"; and {more} more" if more else ""), _numbered(fixes))


def _numbered(texts: Sequence[str]) -> str:
    return "; ".join(f"({number}) {text}" for number, text in enumerate(texts, 1))


def nearest_key(path: str, known: Sequence[str]) -> str | None:
    """Return the known dotted key that was probably meant by an unknown one.

    Of a section that is what says which it is. Else known keys with the same last part come first, then
    similar keys, then similar last parts.
    """
    last = {key: key.rpartition(".")[2] for key in known}
    name = path.rpartition(".")[2]
    tags = [f"{path}{tag}" for tag in DISCRIMINATOR_SUFFIXES if f"{path}{tag}" in last]
    near_last = get_close_matches(name, list(last.values()), n=1, cutoff=0.7)
    candidates = (
        tags
        or [key for key in known if last[key] == name]
        or get_close_matches(path, known, n=1, cutoff=0.7)
        or [key for key in known if last[key] in near_last]
    )
    return candidates[0] if candidates else None


def _explain(
    path: str, errors: list[Any], model: type[BaseModel], origin_of: OriginOf
) -> tuple[str, str]:
    error = errors[0]
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    _, models, field = walk(model, error["loc"])
    if kind == "extra_forbidden":
        return _unknown_key(path, given, error["loc"], model, origin_of)
    if kind in ("value_error", "assertion_error"):
        reason = str(context["error"])
        if isinstance(given, Mapping | BaseModel):
            return (f"{path}: {reason}" if path else reason), "change one of these values"
        return f"{path}: {reason}, {brief(given)} given", f"change it{_where(origin_of, path)}"
    tag = tag_field(models)
    if kind == "missing" and tag is None:
        required = [
            f"{path}.{name}"
            for each in models[:1]
            for name, of in each.model_fields.items()
            if of.is_required()
        ]
        if required:
            return f"{path} is missing", f"add it, with {' and '.join(required)}"
        example = f", as {path}=..." if origin_of else ""
        return f"{path} is missing", f"add it{': a section of keys' if models else example}"
    if tag is not None and kind in ("missing", "union_tag_invalid", "union_tag_not_found"):
        choices = [choice for variant in models for choice in tags_of(variant, tag)]
        if kind != "union_tag_invalid":
            return f"{path}.{tag} is missing", f"choose one of {_listed(choices)}"
        return _wrong_choice(f"{path}.{tag}", context["tag"], choices, origin_of)
    if kind in ("literal_error", "enum") and len(errors) == 1:
        literal = field is not None and get_origin(field.annotation) is Literal
        choices = list(get_args(field.annotation)) if field and literal else []
        return _wrong_choice(
            path, given, choices or re.findall(r"'([^']*)'", context["expected"]), origin_of
        )
    expected = " or ".join(dict.fromkeys(_expected(entry, field) for entry in errors))
    shown = "a section" if isinstance(given, Mapping | BaseModel) else brief(given)
    what = f"{path}: {shown} given, expected {expected}"
    if isinstance(given, str) and _SEVERAL.fullmatch(given):
        level = "sample" if path.startswith("sampling.") else "train"
        return what, (
            f"give one; `whipray sweep` tries several: name a search space of yours that has, under "
            f"{level}:, `{path}: {{type: categorical, choices: [{brief(given)[1:-1]}]}}`"
        )
    if models and (name := tag_field(models)) and not isinstance(given, Mapping | BaseModel):
        choices = [choice for variant in models for choice in tags_of(variant, name)]
        if given in choices:
            return what, f"write {path}.{name}={given}{_where(origin_of, path)}"
        return what, f"choose {path}.{name} of {_listed(choices)}{_where(origin_of, path)}"
    return what, f"change it{_where(origin_of, path)}"


def _unknown_key(
    path: str, given: Any, loc: Sequence[int | str], model: type[BaseModel], origin_of: OriginOf
) -> tuple[str, str]:
    above, _, name = path.rpartition(".")
    origin = _origin(origin_of, path)
    everywhere = known_keys(model)
    if any(key == path or key.startswith(path + ".") for key in everywhere):
        what = f"{path}{origin} is not a key of {above} when that is {loc[-2]}"
        return what, f"remove it, or choose the {above} that has it"
    what = f"unknown key {path}{origin}"
    level = [key for variant in walk(model, loc[:-1])[1] for key in variant.model_fields]
    if isinstance(given, Mapping) and (section := _section_of(given, everywhere)):
        return what, f"did you mean {section}?"
    below = f"{above}." if above else ""
    if same := [key for key in everywhere if key.startswith(below) and key.endswith(f".{name}")]:
        return what, f"did you mean {same[0]}?"
    if near := get_close_matches(name, level, n=1):
        return what, f"did you mean {above + '.' if above else ''}{near[0]}?"
    if meant := nearest_key(path, everywhere):
        return what, f"did you mean {meant}?"
    return what, f"the keys {'of ' + above if above else 'at the top level'} are {_listed(level)}"


def _section_of(given: Mapping[str, Any], known: Sequence[str]) -> str | None:
    """Return the section that alone has most of these keys, or what it calls the only one."""
    counts = Counter(
        section for section, _, key in (each.rpartition(".") for each in known) if key in given
    )
    first, second = [*counts.most_common(2), ("", 0), ("", 0)][:2]
    if first[1] == second[1]:
        return None
    return f"{first[0]}.{next(iter(given))}" if len(given) == 1 else first[0]


def _wrong_choice(
    path: str, given: Any, choices: list[Any], origin_of: OriginOf
) -> tuple[str, str]:
    hint = did_you_mean(str(given), map(str, choices))
    what = f"{path}: {brief(given)} is not one of its choices{_origin(origin_of, path)}"
    return what, f"{hint}the choices are {_listed(choices)}"


def _expected(error: Any, field: FieldInfo | None) -> str:
    """Return what would have been right: "a whole number >= 1"."""
    noun = _NOUNS.get(error["type"].partition("_")[0])
    if not error["type"].endswith(_WRONG_TYPE):
        noun = None
    bounds: list[str] = []
    if field is not None and (types := alternatives(field.annotation)) in ([int], [float]):
        noun = noun or _NOUNS[types[0].__name__]
        for constraint in field.metadata:
            limits = ((sign, getattr(constraint, name, None)) for name, sign in _BOUNDS.items())
            bounds += [f"{sign} {limit:g}" for sign, limit in limits if limit is not None]
    if noun is None or error["type"] == "finite_number":
        return str(error["msg"]).removeprefix("Input should be ")
    return f"{noun} {' and '.join(bounds)}".strip()


def _origin(origin_of: OriginOf, path: str) -> str:
    return f" ({origin_of(path)})" if origin_of else ""


def _where(origin_of: OriginOf, path: str) -> str:
    if origin_of is None:
        return ""
    origin = origin_of(path)
    return f" on the {origin}" if origin == COMMAND_LINE else f" in {origin}"


def _listed(names: Any) -> str:
    return ", ".join(str(name) for name in names)
