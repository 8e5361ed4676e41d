"""What a run leaves behind, in every place where it leaves something, holds no secret."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

import psycopg2
import pytest
from support.ray_head import RayHead
from support.servers import MLflowServer, Server, Swift, free_port
from support.shell import TINY, Shell

from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage

pytestmark = [pytest.mark.slow, pytest.mark.faults]


class Locked(Swift):
    """With a secret that stands in no source file: a run keeps what of them is not committed."""

    secret_key = token_hex(20)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not Locked.venv.exists():
        pytest.skip("OpenStack Swift is not installed in .venv-s3")
    server = Locked(tmp_path_factory.mktemp("locked"))
    try:
        server.start()
        server.make_bucket("runs")
        yield server
    finally:
        server.kill()


@dataclass
class Place:
    """Everything that runs of one folder touch."""

    shell: Shell
    store: Server
    mlflow: MLflowServer
    cluster: RayHead
    said: list[str] = field(default_factory=list)

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        code, out, err = self.shell.run(*arguments, **environment)
        self.said += [out, err]
        return code, err

    def left(self) -> Iterator[tuple[str, bytes]]:
        """(where, content) of what is there now."""
        yield from (("the terminal", text.encode()) for text in self.said)
        for name, folder in {
            "the machine": self.shell.folder,
            "the store": self.store.folder / "devices",
            "the artifacts": self.mlflow.folder / "artifacts",
            "the cluster": self.cluster.folder,
        }.items():
            files = [path for path in folder.rglob("*") if path.is_file()]
            assert files, name
            for path in files:
                yield name, str(path).encode() + path.read_bytes()
        address = self.mlflow.backend.replace("+psycopg2", "")
        with closing(psycopg2.connect(address)) as database, database.cursor() as cursor:
            cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            tables = [name for (name,) in cursor.fetchall()]
            assert {"params", "tags", "metrics"} <= set(tables)
            for table in tables:
                cursor.execute(f'SELECT * FROM "{table}"')
                yield f"MLflow's {table}", repr(cursor.fetchall()).encode()

    def showing(self, secrets: list[str]) -> set[str]:
        """Where one of the secrets can be read, in plain or as a login is sent."""
        forms = [secret.encode() for secret in secrets]
        forms += [base64.b64encode(f"{self.mlflow.username}:{s}".encode()) for s in secrets]
        return {where for where, content in self.left() if any(form in content for form in forms)}


@pytest.fixture
def head(locked: Server, mlflow_server: MLflowServer) -> Iterator[RayHead]:
    with RayHead(environment=locked.environment() | mlflow_server.environment()) as started:
        yield started


def test_no_secret_is_left_behind(
    locked: Server,
    mlflow_server: MLflowServer,
    head: RayHead,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Place(Shell(tmp_path), locked, mlflow_server, head)
    (tmp_path / "tmp").mkdir()
    wrong, study = token_hex(20), token_hex(20)
    secrets = [locked.secret_key, mlflow_server.secret_key, wrong, study, head.token]

    def address(password: str) -> str:
        login = f"{mlflow_server.username}:{password}"
        return mlflow_server.endpoint.replace("//", f"//{login}@")

    environment = {
        **locked.environment(),
        "MLFLOW_TRACKING_URI": address(mlflow_server.secret_key),
        "WHIPRAY_STUDY_URL": f"postgresql+psycopg2://me:{study}@127.0.0.1:{free_port()}/study",
        "RAY_AUTH_TOKEN": head.token,
        "TMPDIR": str(tmp_path / "tmp"),
    }
    settings = ("digits-demo", *TINY, "training.images=640")
    settings = (*settings, f"storage.endpoint_url={locked.endpoint}")
    train = ("train", *settings, "storage.uri=s3://runs/tiny")

    code, err = place.run(*train, **environment)
    assert code == 0, err
    there = ("--run", "there", "--on", head.address)
    code, err = place.run(*train, f"tracking.uri={mlflow_server.endpoint}", *there, **environment)
    assert code == 0, err
    for listed in ("jobs/", "v0/runtime_envs", "v0/tasks?detail=1", "v0/actors?detail=1"):
        place.said.append(head.get(f"/api/{listed}"))
        assert "there" in place.said[-1] or "result" in place.said[-1]
    for what, changed, said in (
        (train, {"MLFLOW_TRACKING_URI": address(wrong)}, "refuses the login"),
        (train, {"AWS_SECRET_ACCESS_KEY": wrong}, "credentials|access denied"),
        (("train", *settings, "storage.uri=s3://other"), {}, "the bucket other does not exist"),
        (("sweep", "cbdm", "--recipe", *train[1:]), {}, "the study's storage cannot be opened"),
    ):
        code, err = place.run(*what, **(environment | changed))
        assert code == 1, err
        assert any(words in err for words in said.split("|")), err
    assert place.showing(secrets) == set()

    # and had there been one, it would have been found
    for name, value in locked.environment().items():
        monkeypatch.setenv(name, value)
    for name, value in mlflow_server.environment().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "tmp/some.log").write_text(f"key={head.token}")
    (head.folder / "some.log").write_text(study)
    config = StorageConfig(uri="s3://runs", endpoint_url=locked.endpoint)
    Storage(config).write_text("some.json", study)
    place.said.append(f"Authorization: Basic {login_of(mlflow_server)}")
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_server.endpoint)
    run = client.create_run("0").info.run_id
    client.set_tag(run, "note", wrong)
    client.log_text(run, wrong, "note.txt")
    assert place.showing(secrets) == {
        "the terminal",
        "the machine",
        "the store",
        "the artifacts",
        "the cluster",
        "MLflow's tags",
    }


def login_of(server: MLflowServer) -> str:
    """As HTTP sends it."""
    return base64.b64encode(f"{server.username}:{server.secret_key}".encode()).decode()
