"""A proposal as a commented YAML file of at most `MOST_LINES` lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..config.yaml12 import dump_scalar
from .propose import Proposal

MOST_LINES = 30
OPEN = ("data",)
"""Sections of which each key has a line of its own."""


def recipe_text(proposal: Proposal, command: str) -> str:
    """Return the YAML text.

    Args:
        command: that proposed it.
    """
    # A folder may have a line break in its name.
    lines = [f"# {' '.join(line.splitlines())}" for line in _head(proposal, command)]
    for name, value in proposal.values.items():
        if name in OPEN:
            lines.append(f"{name}:")
            lines += [
                _line(f"  {key}: {dump_scalar(leaf)}", proposal.why.get(f"{name}.{key}"))
                for key, leaf in value.items()
            ]
        else:
            lines.append(_line(f"{name}: {_flow(value)}", proposal.why.get(name)))
    assert len(lines) <= MOST_LINES, len(lines)
    return "\n".join(lines) + "\n"


def _head(proposal: Proposal, command: str) -> Iterator[str]:
    counts = [c.remaining for c in proposal.inspection.classes]
    yield (
        f"Proposed by `{command}`: {sum(counts):,} images of {len(counts)} classes, {max(counts):,} to "
        f"{min(counts):,} of each."
    )
    yield f"On {proposal.machine}: {proposal.times}."
    yield from proposal.warnings


def _line(text: str, comment: str | None) -> str:
    return f"{text}  # {comment}" if comment else text


def _flow(value: Any) -> str:
    """Return a value on one line, as a flow mapping where it is one."""
    if not isinstance(value, Mapping):
        return dump_scalar(value)
    return "{" + ", ".join(f"{key}: {_flow(leaf)}" for key, leaf in value.items()) + "}"
