"""The structure of a pydantic model: its dotted keys and its tagged unions.

The tag of a union is the field that is a `Literal` in all of its models, with different values in
each, as `name` in `objective: {name: cbdm, ...}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def known_keys(model: type[BaseModel]) -> list[str]:
    """Return every dotted key that a config of this model can have, for all variants of unions."""
    keys: dict[str, None] = {}  # a set that keeps order
    for name, field in model.model_fields.items():
        variants = variants_of(field.annotation)
        for variant in variants:
            keys |= dict.fromkeys(f"{name}.{key}" for key in known_keys(variant))
        if not variants:
            keys[name] = None
    return list(keys)


def variants_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that a field of this type may hold; empty where it holds plain values."""
    if get_origin(annotation) is Annotated:
        return variants_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [variant for part in get_args(annotation) for variant in variants_of(part)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return []


def tags_of(variant: type[BaseModel], field: str) -> tuple[Any, ...]:
    """Return the values of a field of `Literal` type; empty for other types."""
    annotation = variant.model_fields[field].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def tag_field(variants: list[type[BaseModel]]) -> str | None:
    """Return the tag of a union: the field that is a Literal in all variants, different in each."""
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
    """Return the variant that has this value of the tag, or None."""
    return next((variant for variant in variants if tag in tags_of(variant, field)), None)


def walk(
    model: type[BaseModel], loc: Sequence[int | str]
) -> tuple[list[str], list[type[BaseModel]], FieldInfo | None]:
    """Follow the location of a pydantic error, in which each union adds a part.

    Returns:
        the path without the parts of unions, the models that it may lead to, and its last field.
    """
    path: list[str] = []
    models: list[type[BaseModel]] = [model]
    field: FieldInfo | None = None
    for part in loc:
        tag = tag_field(models)
        variant = with_tag(models, tag, part) if tag else None
        if variant is not None:
            models = [variant]
        elif models or field is None or len(alternatives(field.annotation)) == 1:
            path.append(str(part))
            if models:
                field = models[0].model_fields.get(str(part)) if len(models) == 1 else None
                models = variants_of(field.annotation) if field else []
            else:
                models = variants_of(_item_type(field.annotation)) if field else []
                field = None
    return path, models, field


def _item_type(annotation: Any) -> Any:
    """Return the type of the values of a dict or list; None for other types."""
    return get_args(annotation)[-1] if get_origin(annotation) in (dict, list) else None


def alternatives(annotation: Any) -> list[Any]:
    """Return the types of `a | b | None`, without the None."""
    union = get_origin(annotation) in (Union, UnionType)
    return [t for t in get_args(annotation) if t is not NoneType] if union else [annotation]
