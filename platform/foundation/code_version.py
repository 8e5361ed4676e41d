"""Which version of the code runs, as far as git knows it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

GIT_TIMEOUT_S = 20
"""Git can be slow on a network file system; a run must not hang on it."""


@dataclass(frozen=True)
class CodeVersion:
    """A commit and what was changed since."""

    commit: str
    """40 hex digits."""
    diff: str
    """A patch against `commit`, empty where nothing was changed."""

    def __str__(self) -> str:
        """Twelve digits of the commit, with a plus where the code was changed since."""
        return self.commit[:12] + ("+" if self.diff else "")


def code_version() -> CodeVersion | None:
    """Return the version of this package's checkout, None outside of git or without it."""
    commit = _git("rev-parse", "HEAD").strip()
    return CodeVersion(commit, _git("diff", "HEAD")) if commit else None


def _git(*arguments: str) -> str:
    """Return what git prints, empty where this is no checkout or there is no git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
