"""Overrides of a finished run: only some sections of its config may still change."""

from __future__ import annotations

from collections.abc import Sequence

from ...trainers.errors import UsageProblem
from ..config.layers import Layer, parse_override


def parse_overrides(
    overrides: Sequence[str], sections: Sequence[str], single_keys: Sequence[str] = ()
) -> list[Layer]:
    """Return the layers of overrides `KEY=VALUE`.

    Args:
        sections: the sections that may be changed, such as `sampling`.
        single_keys: keys of others that may be changed.

    Raises:
        UsageProblem: not an override, or one of another section.
    """
    layers = [parse_override(text) for text in overrides]
    for layer in layers:
        for key in layer.values:
            in_section = key.startswith(tuple(f"{section}." for section in sections))
            if not in_section and key not in single_keys:
                keys = [f"{section}.*" for section in sections]
                raise UsageProblem(
                    f"{key} cannot be changed after the training",
                    f"override {', '.join(keys[:-1])} or {keys[-1]}, or train another run",
                )
    return layers
