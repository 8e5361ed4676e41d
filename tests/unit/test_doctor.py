from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
from support.servers import free_port

from whipray.platform.diagnostics import doctor
from whipray.platform.diagnostics.doctor import Check, checks
from whipray.platform.storage.config import StorageConfig


def by_name(storage: StorageConfig, tracking_uri: str, *, ray: bool = False) -> dict[str, Check]:
    return {check.name: check for check in checks(storage, tracking_uri, ray=ray)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy")  # inside MLflow
def test_on_this_machine_everything_answers_and_nothing_stays(tmp_path: Path) -> None:
    storage = StorageConfig(uri=str(tmp_path / "runs"))
    found = by_name(storage, f"sqlite:///{tmp_path}/mlflow.db", ray=True)
    assert [check for check in found.values() if not check.ok] == []
    here = {"libraries", "devices", "memory", "disk", "storage", "tracking"}
    assert set(found) == here | {"ray", "nodes", "clocks", "network", "limits"}
    assert list(tmp_path.iterdir()) == []
    assert "State API answers" in found["ray"].detail
    assert "1 with the same libraries" in found["nodes"].detail


@pytest.mark.slow
def test_what_is_down_is_one_line_with_a_fix_and_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    storage = StorageConfig(uri="s3://bucket/x", endpoint_url=f"http://127.0.0.1:{free_port()}")
    found = by_name(storage, f"http://me:hunter2@127.0.0.1:{free_port()}")
    failed = {name: check for name, check in found.items() if not check.ok}
    assert set(failed) == {"storage", "tracking"}
    assert "does not answer" in failed["storage"].detail
    for check in failed.values():
        assert check.fix
        assert "\n" not in check.detail
        assert "hunter2" not in check.detail + check.fix


def test_a_missing_or_old_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    requires = importlib.metadata.requires

    def more(distribution: str) -> list[str] | None:
        if distribution != "whipray":
            return requires(distribution)
        return ["torch>=999", 'not-a-package; extra == "run"', 'nor-this; extra == "dev"']

    monkeypatch.setattr(importlib.metadata, "requires", more)
    check = doctor._check("libraries", doctor._libraries, "")
    assert not check.ok
    assert re.fullmatch(r"torch \S+, not >=999; no not-a-package", check.detail)


def test_an_extra_of_a_requirement_is_asked_for_too() -> None:
    names = {wanted.name for wanted in doctor._wanted("whipray", {"run"})}
    assert {"ray", "aiohttp", "pydantic"} <= names  # aiohttp: of ray[default], for its dashboard


def test_little_disk_is_a_warning(small_disk: Path) -> None:
    storage = StorageConfig(uri=str(small_disk / "not" / "yet"))
    check = doctor._check("disk", lambda: doctor._disk(storage), "")
    assert check.ok
    assert "below 5 GiB" in check.fix
