"""Client of a Ray cluster's Jobs API: submit, list, follow and stop jobs.

The address is that of the dashboard, http://HEAD:8265. Ray reads the token from RAY_AUTH_TOKEN or
RAY_AUTH_TOKEN_PATH and sends it in a header; it is stored nowhere.

The Jobs API rather than KubeRay's RayJob: it is the same on every cluster (a virtual machine,
Slurm, compose, Kubernetes), needs no access to Kubernetes from the laptop, and takes the code
along. `infra/rayjob.yaml` is for those who want a cluster per job.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...trainers.errors import Problem, UsageProblem, did_you_mean
from ..foundation.text import last_line

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient
    from ray.util.state.common import NodeState

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
STOP_GRACE_S = 600
"""Time for a job to save its last checkpoint when it is asked to stop; Ray's default is 3 s."""
NOISY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of Ray that report every request."""
HEAD_STARTUP_S = 60.0
"""A head that has just started answers requests before it can start jobs."""
RESPONSE_TIMEOUT_S = 60.0
"""Timeout of a request; also how long a log may be silent before its connection is opened anew,
since a dead connection looks the same."""
UNREACHABLE_LIMIT_S = 600.0
"""How long the cluster may be unreachable before following a job is given up."""
NODE_LIMIT = 10_000
"""Most nodes that the State API lists; its own maximum."""


class ClusterProblem(Problem):
    """The cluster does not answer, rejects the request, or runs an unsuitable version of Ray."""


class AuthenticationProblem(ClusterProblem):
    """The cluster wants a token, or rejects the given one."""


@dataclass(frozen=True)
class Job:
    """A job of the cluster, whether submitted by Whipray or not."""

    id: str
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    message: str
    started: float | None
    """Seconds since the epoch."""
    ended: float | None
    exit_code: int | None
    facts: dict[str, str] = field(default_factory=dict)
    """Metadata of the submission: verb, name, storage, command, user, code."""
    node: str = ""
    """Address of the node that its driver runs on."""

    @property
    def has_ended(self) -> bool:
        """True once the status is final."""
        return self.status in ENDED


class JobsClient:
    """A Ray cluster, known by the address of its dashboard."""

    def __init__(self, address: str) -> None:
        """Check the address; the first request opens the connection.

        Raises:
            UsageProblem: not an address, or one with a login in it.
        """
        parts = urlsplit(address if "://" in address else f"http://{address}")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 8265)
            (parts.hostname or "").encode("idna")  # part by part: none empty, none over 63 letters
        except ValueError:
            port = None
        if parts.scheme not in ("http", "https") or not parts.hostname or port is None:
            raise UsageProblem(f"{address} is not a cluster's address", "use http://HEAD:8265")
        if parts.username or parts.password:
            raise UsageProblem(
                "a cluster's address must not contain a login, which logs would show",
                "put the token into RAY_AUTH_TOKEN",
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.address = f"{parts.scheme}://{host}:{port}"
        self._client: JobSubmissionClient | None = None
        # Ray 2.60 prefers these variables to the address that its clients are given.
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            os.environ.pop(name, None)
        # Ray 2.60 reads the mode when it is imported, and defaults to tokens: without one it
        # would make one.
        in_environment = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
        in_file = Path("~/.ray/auth_token").expanduser().exists()  # Ray's default location
        os.environ.setdefault("RAY_AUTH_MODE", "token" if in_environment or in_file else "disabled")

    def version(self) -> str:
        """Return the version of Ray on the cluster."""
        with self._translate_errors():
            # Ray 2.60 fetches it when the client connects, and has no public name for it.
            return str(self._api()._server_ray_version)

    def room(self, cpus: float, gpus: float) -> int:
        """Return how many workers of this size fit on the nodes that are alive now."""
        from ..compute.capacity import count_fitting_workers

        alive = [node.resources_total for node in self._nodes() if node.state == "ALIVE"]
        return count_fitting_workers(alive, cpus, gpus)

    def seconds_since_node_change(self) -> float:
        """Return the time since a node last joined or left, assuming that the clocks agree."""
        moments = [t or 0 for node in self._nodes() for t in (node.start_time_ms, node.end_time_ms)]
        return time.time() - max(moments, default=0) / 1000

    def _nodes(self) -> list[NodeState]:
        """Return all nodes, lost ones included.

        Not filtered by the server: Ray 2.60 counts the nodes that a filter leaves out as missing
        from its answer, and raises (`_raise_on_missing_output` in ray/util/state/api.py).
        """
        from ray.util.state import list_nodes

        with self._translate_errors():
            self._api()  # silences its loggers
            return list_nodes(address=self.address, limit=NODE_LIMIT, detail=True)

    def is_static(self) -> bool:
        """Return True if the cluster certainly has no autoscaler: its nodes were joined by hand."""
        with self._translate_errors():
            answer = self._api()._do_request("GET", "/api/cluster_status").json()
        status = (answer.get("data") or {}).get("clusterStatus") or {}
        types = ((status.get("autoscalerReport") or {}).get("nodeTypeMapping") or {}).values()
        # An autoscaler's node types have the names in its file. Without one, Ray 2.60 makes a
        # type for each node, `node_` and the node's id.
        return bool(types) and all(re.fullmatch("node_[0-9a-f]{56}", name) for name in types)

    def submit(
        self, job: str, command: str, folder: str, facts: dict[str, str], node: str = ""
    ) -> None:
        """Upload a folder and run a command in it as the job `job`.

        Args:
            node: address of the node to run on; the head by default.

        Raises:
            ClusterProblem: the cluster does not take the job.
        """
        env = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_S)}
        until = time.monotonic() + HEAD_STARTUP_S
        while True:
            try:
                with self._translate_errors():
                    self._api().submit_job(
                        entrypoint=command,
                        submission_id=job,
                        runtime_env={"working_dir": folder, "env_vars": env},
                        metadata=facts,
                        # Each node has 1 of its own resource: a trace of it binds the job to the
                        # node.
                        entrypoint_resources={f"node:{node}": 0.001} if node else None,
                    )
                return
            except ClusterProblem as problem:
                if "No available agent" not in problem.what or time.monotonic() > until:
                    raise
            time.sleep(1)

    def jobs(self) -> list[Job]:
        """Return the jobs of the Jobs API, the latest first."""
        with self._translate_errors():
            # Drivers that were not submitted as jobs are listed too; they have no id.
            listed = [_job(info) for info in self._api().list_jobs() if info.submission_id]
        return sorted(listed, key=lambda job: -(job.started or 0))

    def job(self, job: str) -> Job:
        """Return a job by its id.

        Raises:
            UsageProblem: no such job.
        """
        known = {each.id: each for each in self.jobs()}
        if job not in known:
            hint = did_you_mean(job, known)
            raise UsageProblem(
                f"no job {job} at {self.address}",
                f"{hint}`whipray jobs list --on {self.address}` shows them",
            )
        return known[job]

    def log(self, job: str) -> str:
        """Return all output of a job so far."""
        with self._translate_errors():
            return str(self._api().get_job_logs(job))

    def stop(self, job: str) -> None:
        """Ask a job to stop; Ray kills it after `STOP_GRACE_S`."""
        with self._translate_errors():
            self._api().stop_job(job)

    def follow(
        self, job: str, write: Callable[[str], None], on_disconnect: Callable[[], None]
    ) -> Job:
        """Pass the output of a job to `write`, from the beginning, until the job has ended.

        After a lost connection it continues where it was.

        Args:
            on_disconnect: called once when the cluster becomes unreachable, before retries.

        Raises:
            ClusterProblem: unreachable for `UNREACHABLE_LIMIT_S`, or restarted without the job.
        """
        written = 0
        unreachable_since: float | None = None
        while True:
            before = written
            try:
                written = asyncio.run(self._tail(job, written, write))
                state = self.job(job)
                log = self.log(job)  # the whole log, also where a proxy does not pass a stream on
                write(log[written:])
                written, unreachable_since = len(log), None
                if state.has_ended:
                    return state
            except AuthenticationProblem:
                raise
            except ClusterProblem:
                if unreachable_since is None or written > before:
                    unreachable_since = time.monotonic()
                    on_disconnect()
                elif time.monotonic() - unreachable_since > UNREACHABLE_LIMIT_S:
                    raise
            except UsageProblem as problem:
                raise ClusterProblem(
                    f"{self.address} was restarted and no longer knows {job}",
                    "run the job's command again: it resumes from the last checkpoint",
                ) from problem
            time.sleep(2)

    async def _tail(self, job: str, written: int, write: Callable[[str], None]) -> int:
        """Stream a job's output after its first `written` characters; return how many are written.

        Returns when the job ends, the connection breaks or the log is silent for
        `RESPONSE_TIMEOUT_S`; the caller asks for the job's status to learn which.
        """
        from aiohttp import ClientError

        position = 0
        log = self._api().tail_job_logs(job)
        while True:
            try:
                chunk = await asyncio.wait_for(anext(log), RESPONSE_TIMEOUT_S)
            except (StopAsyncIteration, ClientError, OSError, RuntimeError):
                return written
            position += len(chunk)
            if position > written:
                write(chunk[len(chunk) - (position - written) :])
                written = position

    def _api(self) -> JobSubmissionClient:
        if self._client is None:
            from ray import job_submission

            for name in NOISY_LOGGERS:
                logging.getLogger(name).setLevel(logging.ERROR)

            class Client(job_submission.JobSubmissionClient):
                """Ray 2.60's client with a timeout; it sets none and would wait forever."""

                def _do_request(self, *args: Any, **options: Any) -> Any:
                    return super()._do_request(*args, **{"timeout": RESPONSE_TIMEOUT_S, **options})

            self._client = Client(self.address)
        return self._client

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn the exceptions of Ray and HTTP into problems with one line each."""
        from ray.exceptions import AuthenticationError
        from ray.util.state.exception import RayStateApiException

        try:
            yield
        except AuthenticationError as error:
            missing = "401" in str(error) or "Missing" in str(error)
            raise AuthenticationProblem(
                f"{self.address} {'requires a token' if missing else 'rejects the token'}",
                "set RAY_AUTH_TOKEN to the cluster's token, or RAY_AUTH_TOKEN_PATH to its file",
            ) from None
        except (ConnectionError, OSError) as error:
            raise ClusterProblem(
                f"no Ray cluster answers at {self.address}",
                "check the address (the dashboard's, port 8265), the tunnel to it, and "
                "`whipray cluster status`",
            ) from error
        except (RuntimeError, RayStateApiException) as error:
            raise ClusterProblem(
                f"{self.address}: {last_line(error)}",
                "see the dashboard's log on the head node",
            ) from error


def _job(info: JobDetails) -> Job:
    agent = urlsplit(info.driver_agent_http_address or "").hostname or ""
    return Job(
        id=str(info.submission_id),
        status=info.status.value,
        message=info.message or "",
        started=info.start_time / 1000 if info.start_time else None,
        ended=info.end_time / 1000 if info.end_time else None,
        exit_code=info.driver_exit_code,
        facts={str(k): str(v) for k, v in (info.metadata or {}).items()},
        node=agent,
    )
