"""The base of every typed config: frozen, validated when it is made, without unknown keys.

Each config stands beside the code that it configures; the text under a field is its help.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

DISCRIMINATOR_SUFFIXES = (".name", ".source", ".kind")
"""Ends of the keys that select one of several configs for a section."""


class Config(BaseModel):
    """A frozen config; an unknown key or a value out of range raises `pydantic.ValidationError`."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


class OfOneVariant:
    """Marks a field that a layer gives for one variant of a union, and that no other one inherits.

    As in `Annotated[LongTail, OfOneVariant()]`: a tail is for the data set that it was given for.
    """
