"""The scripts in infra/ start real servers that let in nobody without the token or the password."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from uuid import uuid4

import pytest
import yaml
from support.metadata import Metadata
from support.servers import free_port, wait_for
from support.shell import WAIT_S

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MISSING = "as infra/README.md says"


class Node:
    """A copy of infra/ with ports of its own, and the secrets of a made-up home."""

    def __init__(self, folder: Path) -> None:
        self.home, self.infra = folder / "home", folder / "infra"
        self.secret = {
            "RAY_AUTH_TOKEN": uuid4().hex,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": uuid4().hex,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": uuid4().hex,
            "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        }
        shutil.copytree(ROOT / "infra", self.infra)
        (self.home / ".whipray").mkdir(parents=True)
        self.ports = {name: free_port() for name in ("RAY", "DASHBOARD", "MLFLOW")}
        settings = (self.infra / "settings.env").read_text()
        settings += "".join(f"WHIPRAY_{name}_PORT={port}\n" for name, port in self.ports.items())
        (self.infra / "settings.env").write_text(settings)
        self.log = folder / "log"
        self.processes: list[subprocess.Popen[bytes]] = []
        # Ray's sockets want a short path.
        self.scratch = Path(tempfile.mkdtemp(prefix="whipray-"))

    def give_secrets(self) -> None:
        lines = [f"{name}={value}\n" for name, value in self.secret.items()]
        (self.home / ".whipray" / "cluster.env").write_text("".join(lines))

    def environment(self) -> dict[str, str]:
        own = ("RAY_", "MLFLOW_", "WHIPRAY_", "AWS_")
        found = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return found | {"HOME": str(self.home), "PATH": path, "RAY_TMPDIR": str(self.scratch)}

    def start(self, script: str, *arguments: str) -> None:
        with self.log.open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    ["bash", str(self.infra / script), *arguments],
                    env=self.environment(),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command],
            env=self.environment(),
            cwd=self.infra,
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_S,
        )

    def end(self) -> None:
        for process in reversed(self.processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.scratch)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("node"))
    try:
        yield node
    finally:
        node.end()


@pytest.mark.parametrize(
    "command", ["start-ray.sh head", "start-ray.sh worker x", "start-mlflow.sh"]
)
def test_nothing_starts_without_its_secret(node: Node, command: str) -> None:
    done = node.run(f"bash {command}")
    assert done.returncode != 0
    assert done.stderr.count("is not set") == 1
    assert MISSING in done.stderr


@pytest.mark.parametrize("arguments", ["", "worker", "heads", "worker ''"])
def test_a_wrong_call_is_told_the_right_one(node: Node, arguments: str) -> None:
    done = node.run(f"RAY_AUTH_TOKEN=x bash start-ray.sh {arguments}")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: start-ray.sh head")


def status(url: str, authorization: str | None) -> int:
    request = urllib.request.Request(url)
    if authorization is not None:
        request.add_header("Authorization", authorization)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def command_lines() -> str:
    """Of every process of this machine."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().decode(errors="replace"))
        except OSError:  # it has ended in the meantime
            continue
    return "\n".join(found)


def test_ray_is_for_those_with_the_token(node: Node) -> None:
    from ray.util import get_node_ip_address

    node.give_secrets()
    token = node.secret["RAY_AUTH_TOKEN"]
    address = get_node_ip_address()
    dashboard = f"http://{address}:{node.ports['DASHBOARD']}"
    gcs = f"{address}:{node.ports['RAY']}"
    node.start("start-ray.sh", "head", "--num-cpus=0", "--block")
    wait_for(f"{dashboard}/api/gcs_healthz", node.processes, node.log)

    assert status(f"{dashboard}/api/jobs/", None) == 401
    assert status(f"{dashboard}/api/jobs/", f"Bearer {uuid4().hex}") == 403
    assert status(f"{dashboard}/api/jobs/", f"Bearer {token}") == 200

    node.start("start-ray.sh", "worker", address, "--num-cpus=1", "--block")
    asked = f". ./environment.sh && ray status --address {gcs}"
    deadline = time.monotonic() + 90
    while "/1.0 CPU" not in (seen := node.run(asked)).stdout:
        assert time.monotonic() < deadline, seen.stdout + seen.stderr + node.log.read_text()
        time.sleep(0.5)
    for wrong in (
        f"RAY_AUTH_TOKEN={uuid4().hex}",
        "unset RAY_AUTH_TOKEN",
        "RAY_AUTH_MODE=disabled",
    ):
        refused = node.run(f". ./environment.sh && {wrong} && ray status --address {gcs}")
        assert refused.returncode != 0, wrong
        assert "CPU" not in refused.stdout

    assert dashboard.rpartition(":")[2] in command_lines()
    assert token not in command_lines()


def test_mlflow_is_for_those_with_the_password(node: Node) -> None:
    node.give_secrets()
    password = node.secret["MLFLOW_TRACKING_PASSWORD"]
    server = f"http://127.0.0.1:{node.ports['MLFLOW']}"
    node.start("start-mlflow.sh")
    wait_for(f"{server}/health", node.processes, node.log)

    def ask(login: str | None) -> int:
        encoded = None if login is None else f"Basic {base64.b64encode(login.encode()).decode()}"
        return status(f"{server}/api/2.0/mlflow/experiments/search?max_results=1", encoded)

    assert ask(None) == 401
    assert ask("admin:") == 401
    assert ask(f"admin:{uuid4().hex}") == 401
    assert ask(f"admin:{password}") == 200
    assert password not in command_lines()
    assert password not in (node.home / ".whipray" / "mlflow" / "auth.ini").read_text()
    assert password not in node.log.read_text()


@pytest.mark.parametrize(("cloud", "seconds"), [("aws", 120), ("gcp", 30)])
def test_a_clouds_notice_reaches_ray(
    tmp_path: Path, cloud: Literal["aws", "gcp"], seconds: int
) -> None:
    """As the launcher's file starts the watch. A stand-in for `ray` fails once, then writes down what
    it is told."""
    node = Node(tmp_path)
    (node.home / "whipray").symlink_to(tmp_path)
    *_, watch = yaml.safe_load((ROOT / f"infra/{cloud}.yaml").read_text())[
        "worker_start_ray_commands"
    ]
    told, log = tmp_path / "told", node.home / ".whipray" / "spot.log"
    ray = tmp_path / ".venv" / "bin" / "ray"
    ray.parent.mkdir(parents=True)
    ray.write_text(f'#!/bin/sh\nmkdir "{tmp_path}/asked" && exit 1\necho "$@" > "{told}"\n')
    ray.chmod(0o755)
    try:
        with Metadata(cloud) as metadata:
            settings = " ".join(f"{name}={value}" for name, value in metadata.environment.items())
            for _ in range(2):  # the second finds the first, and leaves
                node.run(f"export {settings}; {watch}")
            time.sleep(5)
            assert (told.exists(), log.read_text()) == (False, "")
            metadata.notice = True
            deadline = time.monotonic() + WAIT_S
            while not told.exists():
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        assert log.read_text().count(f"this machine will be taken away in {seconds} s") == 1
        *words, left = told.read_text().split()
        assert words[:3] == ["drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        assert words[-1] == "--deadline-remaining-seconds"
        assert seconds - 20 <= int(left) < seconds  # a second or more was lost on the first try
    finally:
        node.end()
