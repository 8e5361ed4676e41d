"""The points of a measurement over guidance: every combination of the values that are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, get_args

from pydantic import BaseModel

from ...trainers.errors import UsageProblem, did_you_mean
from ...trainers.guidance import AnyGuidance
from ...trainers.samplers import AnySampler
from ...trainers.sampling import SamplingConfig
from ..config.parameters import Values
from ..config.yaml12 import load

GUIDANCE, SAMPLER = "sampling.guidance.name", "sampling.sampler.name"
OMEGA, STEPS = "sampling.guidance.omega", "sampling.sampler.steps"

OMEGAS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Strengths that are tried where none are asked for."""


def parse_lists(options: Mapping[str, str | None], over: Iterable[str]) -> dict[str, list[Any]]:
    """Return the values to try of each sampling setting, by dotted key.

    Args:
        options: comma-separated values by dotted key; None is the run's own.
        over: `KEY=V1,V2`; a key is dotted (`sampling.guidance.low`) or its last part (`low`).

    Raises:
        UsageProblem: an empty list, a key that no sampling has, or one that is given twice.
    """
    lists = {key: parse_list(key, text) for key, text in options.items() if text is not None}
    for text in over:
        key, equals, values = text.partition("=")
        if not equals:
            raise UsageProblem(
                f"--over {text} is not KEY=V1,V2", "write it like --over low=0.2,0.5"
            )
        dotted = dotted_key(key.strip())
        if dotted in lists:
            raise UsageProblem(f"{dotted} is given twice", "give all of its values at once")
        lists[dotted] = parse_list(dotted, values)
    return lists


def parse_list(key: str, text: str) -> list[Any]:
    """Return the values of a comma-separated list such as `0,0.5,1`.

    Raises:
        UsageProblem: an empty list, or a value that is not YAML.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageProblem(
            f"no values of {key} are given", "give them comma-separated, such as 0,0.5,1"
        )
    return [load(part, key) for part in parts]


def dotted_key(key: str) -> str:
    """Return the dotted key of a sampling setting.

    Raises:
        UsageProblem: there is none.
    """
    known = dict.fromkeys(
        [
            f"sampling.guidance.{name}"
            for kind in _variants(AnyGuidance)
            for name in kind.model_fields
        ]
        + [
            f"sampling.sampler.{name}"
            for kind in _variants(AnySampler)
            for name in kind.model_fields
        ]
        + [f"sampling.{name}" for name in SamplingConfig.model_fields]
    )
    matching = [
        each
        for each in known
        if each == key or (each.endswith(f".{key}") and not each.endswith(".name"))
    ]
    if len(matching) != 1:
        short = [each.rpartition(".")[2] for each in known if not each.endswith(".name")]
        raise UsageProblem(
            f"--over {key}: no setting of sampling has that name"
            if not matching
            else f"--over {key} may be {' or '.join(matching)}",
            f"{did_you_mean(key, short)}see sampling.* in `whipray train RECIPE --dry-run`"
            if not matching
            else "write one of them",
        )
    return matching[0]


def _variants(union: Any) -> tuple[type[BaseModel], ...]:
    return get_args(get_args(union)[0])


def combinations(own: SamplingConfig, lists: Mapping[str, Sequence[Any]]) -> list[Values]:
    """Return every combination of values; a guidance or a sampler without a setting is not varied in it.

    Args:
        own: the run's settings, where nothing else is given.
        lists: values of each setting, by dotted key.

    Raises:
        UsageProblem: a setting that none of the guidances or samplers has.
    """
    lists = {OMEGA: OMEGAS, **lists}
    kinds, samplers = (
        [*lists.get(key, [default])]
        for key, default in ((GUIDANCE, own.guidance.name), (SAMPLER, own.sampler.name))
    )
    points, used = [], {GUIDANCE, SAMPLER}
    for guidance, sampler in product(kinds, samplers):
        names = {GUIDANCE: guidance, SAMPLER: sampler}
        own_keys = {
            key: values
            for key, values in lists.items()
            if key not in names and _has(key, guidance, sampler)
        }
        used |= own_keys.keys()
        fixed = {key: names[key] for key in names if key in lists}
        points += [
            {**fixed, **dict(zip(own_keys, values, strict=True))}
            for values in product(*own_keys.values())
        ]
    for key in lists:
        if key not in used and not (key == OMEGA and lists[key] is OMEGAS):
            *_, section, name = key.split(".")
            chosen = kinds if section == "guidance" else samplers
            raise UsageProblem(
                f"{section} {' or '.join(map(str, chosen))} has no {name}",
                f"leave it out, or choose another --{section}",
            )
    return points


def _has(key: str, guidance: str, sampler: str) -> bool:
    """Return whether a setting is of one of these, or of neither section; unknown kinds have all."""
    _, section, *rest = key.split(".")
    if section not in ("guidance", "sampler") or not rest:
        return True
    name, union = (guidance, AnyGuidance) if section == "guidance" else (sampler, AnySampler)
    for variant in _variants(union):
        if variant.model_fields["name"].default == name:
            return rest[0] in variant.model_fields
    return True
