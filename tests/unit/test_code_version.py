"""The version of the code, in a checkout, outside of one and without git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from whipray.platform.foundation import code_version as module
from whipray.platform.foundation.code_version import code_version


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose code this is taken for."""
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "code_version.py"))
    return tmp_path


def test_a_commit_and_what_was_changed_since(checkout: Path) -> None:
    version = code_version()
    assert version is not None
    assert len(version.commit) == 40
    assert (version.diff, str(version)) == ("", version.commit[:12])
    (checkout / "a.txt").write_text("new\n")
    subprocess.run(["git", "-C", str(checkout), "add", "a.txt"], check=True)
    changed = code_version()
    assert changed is not None
    assert changed.diff.endswith("+new\n")
    assert str(changed) == version.commit[:12] + "+"


def test_there_is_none_outside_of_git_or_without_it(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(checkout / "none"))
    assert code_version() is None
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.setenv("PATH", str(checkout))
    assert code_version() is None
