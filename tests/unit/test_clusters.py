"""`whipray cluster`: the right tool for a file, its exact command and its exit code.

The tools here are scripts that write down how they were called: the real ones need an account, a
Kubernetes cluster or a Docker daemon.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest
import typer

from whipray.platform.cli.verbs.cluster import app
from whipray.platform.launching.cluster_files import read_cluster, run
from whipray.trainers.errors import Problem, UsageProblem

INFRA = Path(__file__).parents[2] / "infra"


class Tools:
    """A folder of programs, which is all of PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"

    def add(self, name: str, script: str = "") -> None:
        program = self.folder / name
        program.write_text(
            f'#!/bin/sh\nprintf "%s|" {name} "$@" >> {self.calls}; echo >> {self.calls}\n{script}\n'
        )
        program.chmod(0o755)

    def called(self) -> list[list[str]]:
        return [line.split("|")[:-1] for line in self.calls.read_text().splitlines()]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("WHIPRAY_SECRETS", str(tmp_path / "cluster.env"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere" / "python"))
    return Tools(folder)


def whipray_cluster(*words: str) -> int:
    code = typer.main.get_command(app)([*words], standalone_mode=False)
    return code if isinstance(code, int) else 0


KINDS = {
    "aws.yaml": "ray",
    "aws-8gpu.yaml": "ray",
    "gcp.yaml": "ray",
    "gcp-8gpu.yaml": "ray",
    "raycluster.yaml": "kubectl",
    "rayjob.yaml": "kubectl",
    "mlflow.yaml": "kubectl",
    "compose.yaml": "docker",
}


def test_every_file_is_known_by_its_contents(tmp_path: Path) -> None:
    assert {path.name for path in INFRA.glob("*.yaml")} == set(KINDS)
    for name, tool in KINDS.items():
        moved = tmp_path / "cluster"
        moved.write_text((INFRA / name).read_text())
        assert read_cluster(moved).tool == tool


COMMANDS = {
    ("aws.yaml", "up", "--yes"): "ray up FILE --yes",
    ("aws.yaml", "up"): "ray up FILE",
    ("gcp.yaml", "down", "-y"): "ray down FILE --yes",
    ("gcp.yaml", "status"): "ray exec FILE 'ray status'",
    ("raycluster.yaml", "up", "--yes"): "kubectl apply -f FILE",
    ("rayjob.yaml", "down"): "kubectl delete -f FILE",
    ("raycluster.yaml", "status"): "kubectl get -f FILE",
}


@pytest.mark.parametrize("asked", COMMANDS, ids=" ".join)
def test_the_command_is_shown_and_run_and_its_exit_code_passed_on(
    tools: Tools, capfd: pytest.CaptureFixture[str], asked: tuple[str, ...]
) -> None:
    name, action, *options = asked
    file = str(INFRA / name)
    words = [file if word == "FILE" else word for word in shlex.split(COMMANDS[asked])]
    tools.add(words[0], "exit 7")
    assert whipray_cluster(action, file, *options) == 7
    assert tools.called() == [words]
    assert f"$ {shlex.join(words)}" in capfd.readouterr().err


def test_what_is_up_can_be_reached(tools: Tools, capfd: pytest.CaptureFixture[str]) -> None:
    tools.add("ray")
    tools.add("kubectl")
    assert whipray_cluster("up", str(INFRA / "aws.yaml")) == 0
    assert f"ray dashboard {INFRA / 'aws.yaml'}" in capfd.readouterr().err
    assert whipray_cluster("up", str(INFRA / "raycluster.yaml")) == 0
    assert "kubectl port-forward service/whipray-head-svc 8265" in capfd.readouterr().err


def test_compose_gets_the_secrets_that_are_there(tools: Tools) -> None:
    tools.add("docker")
    file = str(INFRA / "compose.yaml")
    secrets = Path(os.environ["WHIPRAY_SECRETS"])
    assert whipray_cluster("down", file) == 0
    secrets.touch()
    assert whipray_cluster("up", file) == 0
    plain = ["docker", "compose", "-f", file, "down"]
    asked = ["docker", "compose", "--env-file", str(secrets), "-f", file, "up", "--detach"]
    probe = ["docker", "compose", "version"]
    assert tools.called() == [probe, plain, probe, asked]


@pytest.mark.parametrize("tool", ["ray", "kubectl", "docker"])
def test_a_tool_that_is_not_installed_is_named(tools: Tools, tool: str) -> None:
    assert not (tools.folder / tool).exists()
    with pytest.raises(Problem, match=f"^{tool} is not installed"):
        run([tool, "up"])


def test_docker_without_compose_is_told_from_no_docker(tools: Tools) -> None:
    tools.add("docker", "exit 125")
    with pytest.raises(Problem, match="docker-compose-plugin"):
        run(["docker", "compose", "ps"])


WRONG = {
    "endless": "[" * 3000,
    "nothing": None,
    "no YAML": "a: [",
    "an empty file": "",
    "a list": "- a\n",
    "a recipe": "name: mine\ndata: {source: digits}\n",
    "a cluster and something else": "{apiVersion: v1, kind: Pod}\n---\n{services: {}}\n",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_describes_no_cluster_is_refused_before_anything_runs(
    tools: Tools, tmp_path: Path, wrong: str
) -> None:
    file = tmp_path / "cluster.yaml"
    text = WRONG[wrong]
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageProblem, match=r"infra/|YAML"):
        whipray_cluster("up", str(file))
    assert not tools.calls.exists()
