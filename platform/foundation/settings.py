"""Settings that a person or a project types once: `whipray.toml`, and a file of the user.

    storage = "s3://bucket/runs"          # a relative folder is one beside the file
    endpoint = "https://s3.example.org"
    tracking = "http://mlflow:5000"
    on = "http://head:8265"

The project's file is in the present folder or the nearest one above it, up to the repository's or the home
folder. Each key is looked for by itself: there first, then in the user's file. Options, overrides, recipes and
environment variables come before both. The driver of a cluster's job reads neither: it was sent all it needs.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...trainers.errors import UsageProblem, did_you_mean
from .addresses import check_no_secret
from .job import in_cluster_job

FILE = "whipray.toml"
KEYS = ("storage", "endpoint", "tracking", "on")


@dataclass(frozen=True)
class Setting:
    """A value of a file."""

    value: str
    file: Path


def setting(key: str, *variables: str) -> Setting | None:
    """Return what the files say, None where they say nothing or the environment comes first.

    Args:
        key: one of `KEYS`.
        variables: names of environment variables; if one is set, it holds.

    Raises:
        UsageProblem: a file that cannot be read or is another user's, an unknown key, or a value that is no
            text or holds a secret.
    """
    if in_cluster_job() or any(os.environ.get(name) for name in variables):
        return None
    for file in _files():
        values = _read(file)
        if key in values:
            return Setting(values[key], file)
    return None


def _files() -> Iterator[Path]:
    """Yield the project's file, then the user's, as far as they exist."""
    home = Path(os.path.expanduser("~"))  # there may be none, for which Path raises
    for folder in _present_folders():
        if os.path.isfile(folder / FILE):  # False where it may not be looked at
            _check_owner(folder / FILE)
            yield folder / FILE
            break
        if folder == home or os.path.exists(folder / ".git"):
            break
    configured = os.environ.get("XDG_CONFIG_HOME")
    user = (Path(configured) if configured else home / ".config") / "whipray/config.toml"
    if os.path.isfile(user):
        yield user


def _check_owner(file: Path) -> None:
    """Refuse another user's file above the present folder: in /tmp it would choose everybody's store.

    Raises:
        UsageProblem: it is one.
    """
    if file.parent != Path.cwd() and file.stat().st_uid not in (0, os.geteuid()):
        raise UsageProblem(
            f"{file}: belongs to another user, and is above this folder",
            "copy it into this folder if you mean it, or work elsewhere",
        )


def _present_folders() -> list[Path]:
    """Return the present folder and those above it; none where it was removed."""
    try:
        present = Path.cwd()
    except FileNotFoundError:
        return []
    return [present, *present.parents]


def _read(file: Path) -> dict[str, str]:
    """Return a file's settings, checked; a relative folder is made absolute."""
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:  # not UTF-8, or not TOML
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageProblem(
            f"{file}: cannot be read ({reason})", "correct it, or remove it"
        ) from error
    values = {}
    for key, value in content.items():
        if key not in KEYS:
            hint = did_you_mean(key, KEYS)
            fix = f"{hint}its keys are {', '.join(KEYS)}; secrets belong in the environment"
            raise UsageProblem(f"{file}: unknown key {key}", fix)
        if not isinstance(value, str) or not value:
            raise UsageProblem(f"{file}: {key} is no text", f'write {key} = "..."')
        fix = "give the address alone; keys and passwords belong in the environment"
        values[key] = check_no_secret(value, f"{file}: {key}", fix)
    if "://" not in (folder := values.get("storage", "://")):
        values["storage"] = str((file.parent / Path(folder).expanduser()).absolute())
    return values
