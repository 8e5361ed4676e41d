"""The page of a result of `whipray diffult`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .content import (
    ArmResult,
    DiffultPage,
    Figure,
    Group,
    PairedDifference,
    ProtocolDifference,
    Published,
    Step,
)
from .page import diffult_page

ACCURACY = "accuracy/"
OVERALL = "overall"


def render_result(document: Mapping[str, Any], steps: Sequence[Step]) -> str:
    """Return a result as one self-contained HTML page.

    Args:
        document: as `make_document` returns it.
        steps: what this call did.
    """
    arms, images = document["arms"], document["images"]
    compared = document["compared"]
    content = DiffultPage(
        name=document["run"],
        steps=steps,
        groups=_groups(document),
        arms=[
            ArmResult(
                arm,
                sum(images["added"][arm]),
                _figures(result["figures"], result["trained"]),
            )
            for arm, result in arms.items()
        ],
        differences=[
            PairedDifference(
                compared,
                less,
                {
                    name.removeprefix(ACCURACY): _figure(entry, entry["by_seed"])
                    for name, entry in figures.items()
                    if name.startswith(ACCURACY)
                },
                {
                    name.removeprefix(ACCURACY): entry["p_holm"]
                    for name, entry in figures.items()
                    if name.startswith(ACCURACY) and entry["p_holm"] is not None
                },
            )
            for less, figures in document["differences"].items()
        ],
        seeds=document["seeds"],
        confidence=document["confidence"],
        interval=document["interval"],
        network=document["classification"]["network"],
        published=[Published(**row) for row in document["published"]],
        protocol=[ProtocolDifference(**row) for row in document["protocol"]],
        warnings=document["warnings"],
        settings=document["settings"],
    )
    return diffult_page(content)


def _groups(document: Mapping[str, Any]) -> list[Group]:
    images, compared = document["images"], document["compared"]
    real, test = images["real"], images["test"]
    added = images["added"][compared] if compared else [0] * len(real)
    groups = {OVERALL: list(range(len(real))), **document["groups"]}
    return [
        Group(name, len(classes), *(sum(of[c] for c in classes) for of in (real, added, test)))
        for name, classes in groups.items()
        if classes
    ]


def _figures(
    figures: Mapping[str, Mapping[str, Any]], trained: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    return {
        name.removeprefix(ACCURACY): _figure(entry, [one["figures"][name] for one in trained])
        for name, entry in figures.items()
        if name.startswith(ACCURACY)
    }


def _figure(entry: Mapping[str, Any], by_seed: Sequence[float]) -> Figure:
    return Figure(entry["value"], entry["low"], entry["high"], by_seed)
