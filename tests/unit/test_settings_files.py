"""`whipray.toml` and the user's file: what comes before what, where it shows, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from whipray.platform.cli import options
from whipray.platform.cli.stores import StoreOptions, options_of
from whipray.platform.config.experiment import load_experiment
from whipray.platform.config.tracking import TrackingConfig
from whipray.platform.foundation.settings import KEYS, Setting, setting
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.server import tracking_uri
from whipray.trainers.errors import UsageProblem

VARIABLES = (
    *("WHIPRAY_STORAGE", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    *("RAY_API_SERVER_ADDRESS", "WHIPRAY_JOB", "XDG_CONFIG_HOME"),
)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder two levels below a project's top, which is below the home folder."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    work = tmp_path / "project/deep/er"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    return tmp_path / "project"


def write(file: Path, **values: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f'{key} = "{value}"\n' for key, value in values.items()))
    return file


def test_the_order_is_option_recipe_environment_project_user_default(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def resolved(*overrides: str) -> tuple[str, str]:
        found = load_experiment("digits-lt", list(overrides))
        return found.value.storage.uri, found.origins["storage.uri"]

    assert resolved() == ("./whipray-runs", "default")
    user = write(tmp_path / ".config/whipray/config.toml", storage="s3://user")
    assert resolved() == ("s3://user", str(user))
    moved = write(tmp_path / "xdg/whipray/config.toml", storage="s3://moved")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert resolved() == ("s3://moved", str(moved))
    own = write(project / "whipray.toml", storage="s3://project")
    assert resolved() == ("s3://project", str(own))
    assert StoreOptions().config().uri == "s3://project"
    monkeypatch.setenv("WHIPRAY_STORAGE", "s3://environment")
    assert resolved() == ("s3://environment", "WHIPRAY_STORAGE")
    write(Path("mine.yaml"), extends="digits-lt")
    Path("mine.yaml").write_text("extends: digits-lt\nstorage: {uri: s3://recipe}\n")
    assert load_experiment("mine.yaml", []).origins["storage.uri"] == "mine.yaml"
    assert resolved("storage.uri=s3://typed") == ("s3://typed", "command line")


def test_each_key_is_looked_for_by_itself(project: Path, tmp_path: Path) -> None:
    user = write(tmp_path / ".config/whipray/config.toml", tracking="http://mlflow:5000")
    own = write(project / "whipray.toml", endpoint="https://s3.example.org")
    found = load_experiment("digits-lt", [])
    assert found.value.tracking.uri == "http://mlflow:5000"
    assert found.origins["tracking.uri"] == str(user)
    assert found.value.storage.endpoint_url == "https://s3.example.org"
    assert found.origins["storage.endpoint_url"] == str(own)
    assert StorageConfig(uri="s3://bucket").endpoint_url == "https://s3.example.org"
    store = Storage(StorageConfig(uri="s3://bucket"))
    assert tracking_uri(TrackingConfig(), store) == "http://mlflow:5000"
    assert options_of(found.value).words == []  # they need not be typed in the next command


def test_the_environment_comes_before_a_file(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project / "whipray.toml", tracking="http://file:5000", endpoint="http://file:9000")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment:5000")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://environment:9000")
    found = load_experiment("digits-lt", []).value
    assert (found.tracking.uri, found.storage.endpoint_url) == (None, None)
    store = Storage(found.storage)
    assert tracking_uri(found.tracking, store) == "http://environment:5000"


def test_a_relative_folder_is_beside_the_file(project: Path) -> None:
    write(project / "whipray.toml", storage="runs")
    assert load_experiment("digits-lt", []).value.storage.uri == str(project / "runs")
    write(project / "whipray.toml", storage="~/runs")
    assert StoreOptions().config().uri == str(Path("~/runs").expanduser())


def test_the_search_ends_at_the_repository_and_at_home(project: Path, tmp_path: Path) -> None:
    write(tmp_path.parent / "whipray.toml", storage="s3://above-home")
    try:
        assert setting("storage") is None
        write(project / "whipray.toml", storage="s3://project")
        assert setting("storage") is not None
        (project / "deep/.git").mkdir()
        assert setting("storage") is None
    finally:
        (tmp_path.parent / "whipray.toml").unlink()


def test_a_present_folder_that_was_removed_has_no_file(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / ".config/whipray/config.toml", on="http://head:8265")
    (project / "gone").mkdir()
    monkeypatch.chdir(project / "gone")
    (project / "gone").rmdir()
    assert (given := setting("on")) is not None
    assert given.value == "http://head:8265"


def test_a_cluster_s_job_reads_no_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project / "whipray.toml", storage="s3://project")
    monkeypatch.setenv("WHIPRAY_JOB", "job")
    assert load_experiment("digits-lt", []).value.storage.uri == "./whipray-runs"


def test_the_cluster_of_a_file_is_used_unless_local_is_asked_for(project: Path) -> None:
    assert options._cluster(None) is None
    with pytest.raises(UsageProblem, match="no cluster is named"):
        options._cluster_of_jobs()
    write(project / "whipray.toml", on="http://head:8265")
    assert options._cluster(None) == options._cluster_of_jobs() == "http://head:8265"
    assert options._cluster("local") is None
    assert options._cluster("http://other:8265") == "http://other:8265"


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ('storrage = "x"', "unknown key storrage", "did you mean storage?"),
        ('aws_secret_access_key = "x"', "unknown key aws_secret_access_key", "environment"),
        ("storage = 3", "storage is no text", "write storage = "),
        ("storage: x", "cannot be read", "correct it"),
        ('tracking = "http://me:secret@host"', "tracking holds a login", "environment"),
        ('storage = "gs://bucket"', "storage=gs://bucket cannot be used", "use a folder or s3://"),
    ],
)
def test_what_a_file_must_not_hold(project: Path, text: str, what: str, fix: str) -> None:
    (project / "whipray.toml").write_text(text)
    with pytest.raises(UsageProblem) as refused:
        load_experiment("digits-lt", [])
    assert what in refused.value.what
    assert str(project / "whipray.toml") in refused.value.what
    assert fix in refused.value.fix
    assert "secret@" not in refused.value.what + refused.value.fix


def test_the_page_lists_every_key() -> None:
    page = Path(__file__).parents[2] / "docs/configuration.md"
    rows = page.read_text().partition("## Settings files")[2].partition("\n## ")[0]
    assert [key for key in KEYS if f"| `{key}` |" not in rows] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_above_is_refused(project: Path) -> None:
    file = write(project / "whipray.toml", storage="s3://theirs")
    os.chown(file, 12345, -1)
    with pytest.raises(UsageProblem) as caught:
        setting("storage")
    assert "belongs to another user" in caught.value.what
    beside = write(Path("whipray.toml"), storage="s3://seen")
    os.chown(beside, 12345, -1)  # whoever works in its folder has seen it
    assert setting("storage") == Setting("s3://seen", beside.absolute())
