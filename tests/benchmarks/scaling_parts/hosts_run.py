"""Steps that are run on hosts out of network namespaces, with a limited bandwidth."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whipray.tests.support.hosts import Host, Network

HERE = Path(__file__).resolve().parents[1]
PORTS = itertools.count(29500)
"""One for each group: the one before may still hold its own."""


class Group:
    """One worker on each host, all of one process group, or `apart`: each by itself."""

    def __init__(self, hosts: list[Host], python: str, *, apart: bool) -> None:
        port = next(PORTS)
        environment = {
            "PYTHONPATH": f"{HERE.parents[1] / '.dev'}:{HERE}",
            "OMP_NUM_THREADS": "1",
        }
        groups = [[host] for host in hosts] if apart else [hosts]
        self._workers = [
            host.popen(
                *(python, "-m", "scaling_parts.worker", str(rank), str(len(members))),
                *(members[0].address, str(port), "eth0"),
                environment=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sys.stderr,
            )
            for members in groups
            for rank, host in enumerate(members)
        ]
        self._answers()  # "ready"

    def do(self, job: Mapping[str, Any] | None) -> list[Any]:
        """Return what each worker says of a job, which they begin at once; None for the probe of the network."""
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.write(json.dumps(job) + "\n")
            worker.stdin.flush()
        return self._answers()

    def _answers(self) -> list[Any]:
        answers = []
        for worker in self._workers:
            assert worker.stdout is not None
            line = worker.stdout.readline()
            if not line:
                raise RuntimeError(f"a worker ended with {worker.wait()}")
            answers.append(json.loads(line))
        return answers

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.kill()
            worker.wait()


@contextmanager
def hosts(folder: Path, count: int, bits_per_second: int) -> Iterator[list[Host]]:
    """Hosts that send no faster than that."""
    with Network(folder, [f"node-{i}" for i in range(count)]) as network:
        for host in network.hosts:
            host.limit(bits_per_second)
        yield network.hosts


@contextmanager
def group(members: list[Host], python: str, *, apart: bool = False) -> Iterator[Group]:
    """Workers on these hosts, ended afterwards."""
    made = Group(members, python, apart=apart)
    try:
        yield made
    finally:
        made.close()
