"""A watch over the Ray that this process uses, whose loss Ray 2.60 does not report.

When the raylet of this machine is killed, by the kernel for lack of memory for example, a driver in
`ray.wait` waits for ever; without a head Ray ends the driver's process after a minute, without an
error. Neither can be caught, so the watch ends the process itself, and says why.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any

import psutil  # type: ignore[import-untyped]

from ...trainers.errors import Problem
from ..foundation.abort import abort
from ..foundation.background import in_background

POLL_S = 0.5
"""How often the processes are looked at. Ray may end this process some seconds after it lost them."""
HEAD_POLL_S = 5.0
"""How often a head on another machine is asked."""
HEAD_SILENCE_S = 50.0
"""How long a head on another machine may be silent. After 60 s (`gcs_rpc_server_reconnect_timeout_s`
of Ray 2.60) Ray ends this process."""
LAST_ANSWER_S = 10.0
"""How long the end of the watch waits for an answer that is due; Ray must not shut down before it."""

ROLES = {"raylet": "raylet", "gcs_server": "head"}
"""Names of Ray's processes, and what people call them."""


@contextmanager
def watching_ray(address: str | None) -> Iterator[None]:
    """Inside, the loss of the connected Ray ends this process with a problem and exit code 1.

    Args:
        address: of the cluster; None for a Ray that this process started.
    """
    watch = _Watch(address)
    try:
        yield
    except Exception:
        if (problem := watch.loss()) is not None:  # the error is what came of it
            abort(problem)
        raise
    finally:
        watch.stop()


class _Watch:
    """A thread that looks for Ray's processes on this machine, and asks a head on another one."""

    def __init__(self, address: str | None) -> None:
        self._where = f"Ray at {address}" if address else "Ray on this machine"
        self._processes = _processes_of_ray()
        self._asks_head = "gcs_server" not in self._processes
        self._question: Future[bool] | None = None
        self._asked = self._answered = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ray-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the watch; does not return if it is ending the process."""
        self._over.set()
        self._thread.join()
        if self._question is not None:
            wait([self._question], timeout=LAST_ANSWER_S)

    def loss(self) -> Problem | None:
        """Return the problem of a lost Ray, None while it lives."""
        for name, process in self._processes.items():
            if _has_ended(process):
                return self._problem(f"its {ROLES[name]} ended, perhaps for lack of memory")
        return None

    def _run(self) -> None:
        while not self._over.wait(POLL_S):
            problem = self.loss() or (self._loss_of_head() if self._asks_head else None)
            if problem is not None:
                abort(problem)

    def _loss_of_head(self) -> Problem | None:
        """Ask the head about this node, without waiting for it."""
        now = time.monotonic()
        if self._question is None:
            if now - self._asked >= HEAD_POLL_S:
                self._asked, self._question = now, in_background(_this_node_is_alive)
        elif self._question.done():
            answer, self._question = self._question, None
            if answer.exception() is None:
                self._answered = now
                if not answer.result():
                    return self._problem("its head has given up this machine")
        if now - self._answered > HEAD_SILENCE_S:
            return self._problem(f"its head has not answered for {HEAD_SILENCE_S:.0f} s")
        return None

    def _problem(self, reason: str) -> Problem:
        return Problem(
            f"{self._where} was lost: {reason}",
            "the same command goes on from the last checkpoint (a sweep: with --resume); if it comes "
            "again, lower scaling.workers, tuning.concurrent or training.micro_batch",
        )


def _processes_of_ray() -> dict[str, psutil.Process]:
    """Return the raylet that this process uses, and the head's process if it is on this machine."""
    import ray

    # Ray 2.60 has no public name for them; where it changes these, only the head is asked.
    node: Any = ray._private.worker.global_worker.node
    marks = {
        "raylet": {
            f"--raylet_socket_name={node.raylet_socket_name}",
            f"--node_ip_address={node.node_ip_address}",
        },
        "gcs_server": {
            f"--session-name={node.session_name}",
            f"--node-ip-address={node.node_ip_address}",
        },
    }
    return {
        process.info["name"]: process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] in marks
        and marks[process.info["name"]] <= set(process.info["cmdline"] or ())
    }


def _has_ended(process: psutil.Process) -> bool:
    """Return whether a process has ended, waited for by its parent or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _this_node_is_alive() -> bool:
    """Return whether the head counts this machine among its nodes."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == here)
