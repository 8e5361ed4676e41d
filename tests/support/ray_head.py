"""A real Ray head with token authentication, as `ray start` makes it on a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from tempfile import mkdtemp
from typing import Self

import psutil

from whipray.tests.support.servers import free_port

from .shell import WAIT_S

BIN = Path(sys.executable).parent


class RayHead:
    """A head node with its dashboard on loopback. Use as a context.

    Args:
        cpus: that it offers.
        environment: further variables of its processes, such as the keys of a store.
    """

    def __init__(self, cpus: int = 2, environment: Mapping[str, str] | None = None) -> None:
        self.cpus, self.environment = cpus, environment or {}
        self.token = token_hex(20)
        # Short, because sockets lie below it.
        self.folder = Path(mkdtemp(prefix="ray-", dir="/tmp"))
        self.dashboard, self.port = free_port(), free_port()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def __enter__(self) -> Self:
        (self.folder / "tmp").mkdir(exist_ok=True)
        options = [f"--port={self.port}", f"--num-cpus={self.cpus}"]
        options += ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}"]
        # By default this is the same for every head of a machine.
        options += [f"--ray-client-server-port={free_port()}", "--include-dashboard=true"]
        self._process = self._start("--head", *options, f"--temp-dir={self.folder / 'ray'}")
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                self.get("/api/version")
                return self
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = (self.folder / "start.log").read_text()[-2000:]
                    self.__exit__()
                    raise RuntimeError(f"the Ray head did not come up:\n{said}") from None
                time.sleep(0.2)

    def join(self) -> subprocess.Popen[bytes]:
        """Start a second node, without CPUs; the caller ends it."""
        # In a folder of its own, or it takes the code of the first one's jobs away.
        own = f"--temp-dir={self.folder / 'second'}"
        return self._start(f"--address=127.0.0.1:{self.port}", "--num-cpus=0", own)

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        """Run `ray start`."""
        own = ("RAY_", "MLFLOW_", "WHIPRAY_", "AWS_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        environment |= {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "WHIPRAY_CACHE": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.folder / "tmp"),
            **self.environment,
        }
        # By default this is the same for every node of a machine.
        agent = f"--dashboard-agent-listen-port={free_port()}"
        command = [BIN / "ray", "start", "--block", "--disable-usage-stats", agent, *options]
        with (self.folder / "start.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log
            )

    def get(self, path: str) -> str:
        """Return what the dashboard answers with the token."""
        asked = urllib.request.Request(
            self.address + path, headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return str(answer.read().decode())

    def processes(self) -> Iterator[psutil.Process]:
        """Yield the head and everything that it started, drivers of jobs included."""
        psutil.process_iter.cache_clear()  # or a number that was used before stands for who had it
        for process in psutil.process_iter():
            with suppress(psutil.Error):  # it has ended meanwhile
                if process.environ().get("TMPDIR") == str(self.folder / "tmp"):
                    yield process

    def __exit__(self, *_error: object) -> None:
        """Kill all processes, until none starts another one."""
        while found := list(self.processes()):
            for process in found:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(found, timeout=10)
        self._process.wait()
        rmtree(self.folder, ignore_errors=True)
