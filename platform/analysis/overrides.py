"""Overrides of a finished run: only some sections of its config may still change."""

from __future__ import annotations

from collections.abc import Sequence

from ...trainers.errors import UsageProblem
from ..config.layers import Layer, parse_override


def parse_overrides(overrides: Sequence[str], sections: Sequence[str]) -> list[Layer]:
    """Return the layers of overrides `KEY=VALUE`.

    Args:
        sections: the sections that may be changed, such as `sampling`.

    Raises:
        UsageProblem: not an override, or one of another section.
    """
    layers = [parse_override(text) for text in overrides]
    for layer in layers:
        for key in layer.values:
            if not key.startswith(tuple(f"{section}." for section in sections)):
                keys = [f"{section}.*" for section in sections]
                raise UsageProblem(
                    f"{key} cannot be changed after the training",
                    f"override {', '.join(keys[:-1])} or {keys[-1]}, or train another run",
                )
    return layers
