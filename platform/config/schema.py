"""Reading a pydantic model: its dotted keys, and the unions that a tag decides.

A union's tag is the field that is a `Literal` in each of its models, a different one in each, as
`name` in `objective: {name: cbdm, ...}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def known_keys(model: type[BaseModel]) -> list[str]:
    """Every dotted key that some config of this model can have, through all variants of unions."""
    keys: dict[str, None] = {}  # a set that keeps order
    for name, field in model.model_fields.items():
        variants = variants_of(field.annotation)
        for variant in variants:
            keys |= dict.fromkeys(f"{name}.{key}" for key in known_keys(variant))
        if not variants:
            keys[name] = None
    return list(keys)


def variants_of(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field of this type may hold; empty where it holds plain values."""
    if get_origin(annotation) is Annotated:
        return variants_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [variant for part in get_args(annotation) for variant in variants_of(part)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return []


def tags_of(variant: type[BaseModel], field: str) -> tuple[Any, ...]:
    """The values that a field of `Literal` type takes; empty for other types."""
    annotation = variant.model_fields[field].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def tag_field(variants: list[type[BaseModel]]) -> str | None:
    """The field that tells the variants apart: in all of them a Literal, and a different one."""
    if len(variants) < 2:
        return None
    for name in variants[0].model_fields:
        if all(name in variant.model_fields for variant in variants):
            of_each = [tags_of(variant, name) for variant in variants]
            together = [tag for tags in of_each for tag in tags]
            if all(of_each) and len(set(together)) == len(together):
                return name
    return None


def with_tag(variants: list[type[BaseModel]], field: str, tag: Any) -> type[BaseModel] | None:
    """The variant whose tag this is, if one has it."""
    return next((variant for variant in variants if tag in tags_of(variant, field)), None)


def walk(
    model: type[BaseModel], loc: Sequence[int | str]
) -> tuple[list[str], list[type[BaseModel]], FieldInfo | None]:
    """Follow a pydantic location, in which unions add a part: path, models there, last field."""
    path: list[str] = []
    here: list[type[BaseModel]] = [model]
    field: FieldInfo | None = None
    for part in loc:
        tag = tag_field(here)
        variant = with_tag(here, tag, part) if tag else None
        if variant is not None:
            here = [variant]
        elif here or field is None or len(alternatives(field.annotation)) == 1:
            path.append(str(part))
            if here:
                field = here[0].model_fields.get(str(part)) if len(here) == 1 else None
                here = variants_of(field.annotation) if field else []
            else:
                here = variants_of(_item_type(field.annotation)) if field else []
                field = None
    return path, here, field


def _item_type(annotation: Any) -> Any:
    """Return the type of the values of a dict or list; None for other types."""
    return get_args(annotation)[-1] if get_origin(annotation) in (dict, list) else None


def alternatives(annotation: Any) -> list[Any]:
    """The types of `a | b | None`, without the None."""
    union = get_origin(annotation) in (Union, UnionType)
    return [t for t in get_args(annotation) if t is not NoneType] if union else [annotation]
