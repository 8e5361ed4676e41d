"""Registered versions and their addresses; imports no MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...trainers.errors import UsageProblem, did_you_mean
from ..foundation.names import check_name
from ..storage import layout


@dataclass(frozen=True)
class Version:
    """A registered version."""

    name: str
    version: str
    aliases: tuple[str, ...]
    run_id: str | None
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        """MLflow's address of it."""
        return f"models:/{self.name}/{self.version}"

    @property
    def origin(self) -> str:
        """The run that it is of, or SWEEP/TRIAL; empty where Whipray did not register it."""
        tag = layout.VersionTag
        trial = f"{self.tags.get(tag.SWEEP, '')}/{self.tags.get(tag.TRIAL, '')}".strip("/")
        return self.tags.get(tag.RUN, trial)


def parse_uri(uri: str) -> tuple[str, str, str]:
    """Return the name, the number and the alias in `models:/...`; what is not given is empty.

    Raises:
        UsageProblem: a name or an alias that Whipray cannot have given.
    """
    address, at, alias = uri.removeprefix("models:/").strip("/").partition("@")
    name, _, number = address.partition("/")
    check_name(name, "a model")
    return name, number, check_name(alias, "an alias") if at else ""


def choose(uri: str, known: Sequence[Version], names: Iterable[str]) -> Version:
    """Return the version that `models:/name@alias`, `models:/name/3` or `models:/name` means.

    Without an alias or a number it is the newest.

    Args:
        uri: the address.
        known: all versions of the model, the newest first.
        names: of all models, for the message.

    Raises:
        UsageProblem: no such model, version or alias.
    """
    name, number, alias = parse_uri(uri)
    if not known:
        existing = sorted(names)
        raise UsageProblem(
            f"no registered model is named {name}",
            f"{did_you_mean(name, existing)}there are {', '.join(existing) or 'none yet'}: "
            "see `whipray models`",
        )
    for candidate in known:
        wanted = alias in candidate.aliases if alias else number in ("", candidate.version)
        if wanted:
            return candidate
    aliases = sorted({a for v in known for a in v.aliases})
    raise UsageProblem(
        f"{uri}: {name} has no {'alias ' + alias if alias else 'version ' + number}",
        f"{did_you_mean(alias, aliases)}"
        f"its versions are {known[-1].version} to {known[0].version}, "
        f"its aliases {', '.join(aliases) or 'none'}",
    )
