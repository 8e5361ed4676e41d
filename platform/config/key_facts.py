"""What each key of a config means: its type, default, choices and range, from the models' own docstrings.

The models import PyTorch, so what is found is kept in the cache for completion and `whipray config explain`,
as long as no module of the package changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ...trainers.disk import cache_folder
from ...trainers.errors import UsageProblem
from ...trainers.whole_files import whole_file
from .errors import nearest_key
from .schema import alternatives, tag_field, tags_of, variants_of

SIGNS = {
    "ge": ">=",
    "gt": ">",
    "le": "<=",
    "lt": "<",
    "min_length": "length >=",
    "max_length": "length <=",
}
TYPES = {
    "int": "whole number",
    "float": "number",
    "str": "text",
    "bool": "true or false",
    "Path": "path",
}


@dataclass(frozen=True)
class KeyFact:
    """One key, of one variant of its section."""

    key: str
    """Dotted."""
    variant: str
    """The choice that the key belongs to, `objective.name=cbdm`; empty where it is always there."""
    type: str
    default: str
    """As YAML; `required` where there is none."""
    choices: tuple[str, ...]
    range: str
    text: str
    """Its docstring."""


def find_facts(model: type[BaseModel], above: str = "", variant: str = "") -> Iterator[KeyFact]:
    """Yield every key of a model, of all variants of its unions."""
    for name, field in model.model_fields.items():
        key = f"{above}{name}"
        below = variants_of(field.annotation)
        tag = tag_field(below)
        for each in below:
            choice = f"{key}.{tag}={tags_of(each, tag)[0]}" if tag else variant
            facts = find_facts(each, f"{key}.", choice)
            if tag is None:
                yield from facts
                continue
            every = [choice for one in below for choice in tags_of(one, tag)]
            for fact in facts:
                if fact.key != f"{key}.{tag}":
                    yield fact
                elif each is below[0]:  # the tag itself: once, with all of its choices
                    default = str(getattr(field.default, tag, fact.default))
                    text = field.description or "Which one."
                    yield KeyFact(
                        fact.key, variant, "choice", default, tuple(map(str, every)), "", text
                    )
        if not below:
            yield _fact(key, field, variant)


def _fact(key: str, field: FieldInfo, variant: str) -> KeyFact:
    kinds = [kind for kind in alternatives(_bare(field.annotation)) if kind is not NoneType]
    choices = [choice for kind in kinds for choice in _choices(kind)]
    default = "required" if field.is_required() else _default(field)
    limits = [
        f"{sign} {limit:g}"
        for constraint in field.metadata
        for name, sign in SIGNS.items()
        if (limit := getattr(constraint, name, None)) is not None
    ]
    names = " or ".join(dict.fromkeys(_type_name(kind) for kind in kinds))
    text = " ".join((field.description or "").split())
    return KeyFact(key, variant, names, default, tuple(choices), " and ".join(limits), text)


def _bare(annotation: Any) -> Any:
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    return ["true", "false"] if kind is bool else []


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "choice"
    origin = get_origin(kind)
    if origin in (list, tuple, set, frozenset):
        return "list"
    if origin is dict:
        return "section"
    name = getattr(kind, "__name__", str(kind))
    return TYPES.get(name, name)


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:  # of the environment, or empty
        return "see above" if field.description else "empty"
    value = field.get_default()
    if isinstance(value, BaseModel):
        return "a section"
    return json.dumps(value, default=str)


def known_facts() -> list[KeyFact]:
    """Return every key of an experiment; from the cache where it is known."""
    file = cache_folder() / f"keys-{_sources()}.json"
    with suppress(OSError, ValueError, TypeError):
        stored = json.loads(file.read_text())
        return [KeyFact(**{**fact, "choices": tuple(fact["choices"])}) for fact in stored]
    from .experiment import Experiment

    facts = list(find_facts(Experiment))
    with suppress(OSError), whole_file(file) as stream:
        stream.write(json.dumps([asdict(fact) for fact in facts]).encode())
    return facts


def _sources() -> str:
    """Return what changes with every module of the package."""
    package = Path(__file__).parents[2]
    digest = hashlib.sha256(str(package).encode())
    for folder in (package / "trainers", package / "platform"):
        for file in sorted(folder.rglob("*.py")):
            status = file.stat()
            digest.update(f"{file} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def explain(text: str) -> list[KeyFact]:
    """Return what a key means, of each variant that has it; of a section all of its keys.

    Raises:
        UsageProblem: there is no such key.
    """
    facts = known_facts()
    matching = [fact for fact in facts if fact.key == text]
    matching = matching or [fact for fact in facts if fact.key.startswith(f"{text}.")]
    if not matching:
        near = nearest_key(text, list(dict.fromkeys(fact.key for fact in facts)))
        sections = sorted({fact.key.partition(".")[0] for fact in facts})
        fix = f"did you mean {near}?" if near else f"the sections are {', '.join(sections)}"
        raise UsageProblem(f"no key is named {text}", fix)
    return matching
