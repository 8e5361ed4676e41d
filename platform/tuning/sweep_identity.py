"""What makes a sweep the same sweep when it is resumed: its experiment and its search space."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from ...trainers.data.identity import DataIdentity
from ...trainers.errors import Problem, UsageProblem
from ...trainers.integrity import Altered, unseal
from ..config.experiment import WHERE_DATA_LIE, Experiment
from ..config.layers import flatten
from ..config.space import Space

FORMAT = 5
"""Raise it when the meaning of a sweep's stored experiment or search space changes."""

CHANGEABLE_IN_RESUMED_SWEEP = (
    *WHERE_DATA_LIE,
    "engine.",
    "evaluation.workers",
    "scaling.",
    "storage.",
    "tracking.",
    "keep_checkpoints",
    "tuning.trials",
    "tuning.concurrent",
)
"""What a resumed sweep may change: where it runs and how many trials it has."""


def identity_of(
    experiment: Experiment, space: Space, data: DataIdentity | None = None
) -> dict[str, Any]:
    """Return the identity as JSON types.

    Args:
        data: the training images; compared by `check_same_images`.
    """
    return {
        "data": data and asdict(data),
        "format": FORMAT,
        "experiment": experiment.model_dump(mode="json"),
        "space": space.model_dump(mode="json"),
    }


def read_identity(text: str, where: str) -> dict[str, Any]:
    """Return a stored identity.

    Args:
        text: sealed JSON.
        where: its address, for messages.

    Raises:
        UsageProblem: another version of Whipray began the sweep.
        Problem: it is damaged.
    """
    try:
        if json.loads(text).get("format") != FORMAT:
            raise UsageProblem(
                f"{where}: the sweep was begun by another version of Whipray",
                "finish it with that version, or give another --name",
            )
        return unseal(text)
    except (ValueError, AttributeError, Altered) as error:
        raise Problem(
            f"{where}: damaged, so it is not known what the sweep runs",
            "restore it from a copy; without one, remove it: the same command then writes it again, and "
            "goes on with the study",
        ) from error


def check_same_sweep(name: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare a stored identity with that of the sweep that is to resume it.

    Args:
        name: of the sweep.
        before: as `read_identity`.
        now: as `identity_of`.

    Raises:
        UsageProblem: the first difference that a resumed sweep may not have.
    """
    if before["space"] != now["space"]:
        raise UsageProblem(
            f"sweep {name} was begun with another search space",
            "restore the search space that it was begun with, or give another --name",
        )
    was, is_now = flatten(_completed(before["experiment"])), flatten(now["experiment"])
    for key in sorted(was.keys() | is_now.keys()):
        if was.get(key) != is_now.get(key) and not key.startswith(CHANGEABLE_IN_RESUMED_SWEEP):
            raise UsageProblem(
                f"sweep {name} was begun with {key}={was.get(key)}, not {is_now.get(key)}",
                "keep its value, or give another --name",
            )


def _completed(stored: dict[str, Any]) -> dict[str, Any]:
    """Return a stored experiment with the defaults of keys that came after it, by which it ran as without them."""
    try:
        return Experiment.model_validate(stored).model_dump(mode="json")
    except ValidationError:  # of keys or values that are gone: the first of them is named
        return stored


def check_same_images(name: str, before: dict[str, Any], now: DataIdentity) -> None:
    """Compare the training images of a sweep with those of the one that is to resume it.

    Args:
        name: of the sweep.
        before: as `read_identity`.
        now: the images that the config reads now.

    Raises:
        UsageProblem: they differ; the classes or counts are named.
    """
    data = before["data"]
    lists = ("class_names", "class_counts", "image_shape")
    images = DataIdentity(**{**data, **{key: tuple(data[key]) for key in lists}})
    if difference := images.difference(now):
        raise UsageProblem(
            f"the data are not those that sweep {name} was begun with: {difference}",
            "restore them, or give another --name",
        )
