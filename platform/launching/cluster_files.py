"""Cluster files: which tool a file is for, and the tool's commands.

Thin on purpose: Ray's launcher, kubectl and docker compose do the work. Each command is shown
before it runs, so that it can be typed without Whipray too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...trainers.errors import Problem, UsageProblem
from ..config.yaml12 import load_all, read_text

Action = Literal["up", "down", "status"]

COMMANDS: dict[str, dict[Action, list[str]]] = {
    "ray": {
        "up": ["ray", "up", "FILE"],
        "down": ["ray", "down", "FILE"],
        "status": ["ray", "exec", "FILE", "ray status"],
    },
    "kubectl": {
        "up": ["kubectl", "apply", "-f", "FILE"],
        "down": ["kubectl", "delete", "-f", "FILE"],
        "status": ["kubectl", "get", "-f", "FILE"],
    },
    "docker": {
        "up": ["docker", "compose", "-f", "FILE", "up", "--detach"],
        "down": ["docker", "compose", "-f", "FILE", "down"],
        "status": ["docker", "compose", "-f", "FILE", "ps"],
    },
}
MISSING = {
    "ray": "pip install 'whipray[run]', which brings Ray's launcher",
    "kubectl": "install kubectl and point it at your Kubernetes cluster",
    "docker": "install Docker with its compose plugin",
}


@dataclass(frozen=True)
class ClusterFile:
    """A file that describes a cluster, and the program that reads it."""

    file: Path
    tool: str
    name: str

    def command(self, action: Action, *, yes: bool = False) -> list[str]:
        """Return the command; only Ray's launcher asks for confirmation, unless `yes`."""
        words = [str(self.file) if w == "FILE" else w for w in COMMANDS[self.tool][action]]
        if self.tool == "ray" and yes and action != "status":
            words.append("--yes")
        if self.tool == "docker" and (secrets := _secrets_file()).exists():
            words[2:2] = ["--env-file", str(secrets)]
        return words

    def forward_command(self) -> list[str] | None:
        """Return the command that forwards the dashboard to local port 8265, if one is needed."""
        if self.tool == "ray":
            return ["ray", "dashboard", str(self.file)]
        service = f"service/{self.name}-head-svc"
        return ["kubectl", "port-forward", service, "8265"] if self.name else None


def read_cluster(file: Path) -> ClusterFile:
    """Recognise by its contents which tool a file is for.

    Raises:
        UsageProblem: no such file, not YAML, or a file of none of the three tools.
    """
    documents = [each for each in load_all(read_text(file), str(file)) if each is not None]
    for keys, tool in (
        ({"cluster_name", "provider"}, "ray"),
        ({"apiVersion", "kind"}, "kubectl"),
        ({"services"}, "docker"),
    ):
        if documents and all(isinstance(d, dict) and keys <= d.keys() for d in documents):
            cluster = documents[0] if documents[0].get("kind") == "RayCluster" else {}
            return ClusterFile(file, tool, str((cluster.get("metadata") or {}).get("name", "")))
    raise UsageProblem(
        f"{file} is not a cluster file",
        "give a file for Ray's launcher, Kubernetes or docker compose, as in infra/",
    )


def run(command: list[str]) -> int:
    """Run a command on this terminal and return its exit code.

    Raises:
        Problem: its program is not installed.
    """
    tool = command[0]
    # In a virtual environment that is not activated, `ray` is beside Python but not on PATH.
    program = shutil.which(tool) or shutil.which(tool, path=str(Path(sys.executable).parent))
    if program is None:
        raise Problem(f"{tool} is not installed", MISSING[tool])
    if tool == "docker":
        plugin = subprocess.run([program, "compose", "version"], capture_output=True, check=False)
        if plugin.returncode:
            raise Problem(
                "docker compose is not installed", "install the package docker-compose-plugin"
            )
    return subprocess.run([program, *command[1:]], check=False).returncode


def _secrets_file() -> Path:
    """Return the file of secrets, the same that the scripts in infra/ read."""
    return Path(os.environ.get("WHIPRAY_SECRETS", "~/.whipray/cluster.env")).expanduser()
