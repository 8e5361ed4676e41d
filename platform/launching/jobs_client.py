"""A Ray cluster's Jobs API, as far as we need it: submit, look, follow, stop.

The address is that of the dashboard, http://HEAD:8265. The token comes from RAY_AUTH_TOKEN or
RAY_AUTH_TOKEN_PATH; it travels in a header and is kept nowhere.
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
STOP_PATIENCE_S = 600
"""For the last checkpoint of a job that is asked to stop; Ray's own patience is 3 s."""
NOISY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers that tell of each step."""
HEAD_STARTUP_S = 60.0
"""A head that has just started lists jobs before it takes any."""
ANSWER_S = 60.0
"""How long an answer is waited for, and a job that says nothing: its connection may be dead unnoticed."""
AWAY_S = 600.0
"""How long a cluster may be out of reach before one who follows a job gives up."""


class ClusterProblem(Problem):
    """The cluster does not answer, refuses, or is another than we can work with."""

    exit_code = 4


class AuthenticationProblem(ClusterProblem):
    """It wants a token, or another one."""


@dataclass(frozen=True)
class Job:
    """A job of the cluster, ours or another's."""

    id: str
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    message: str
    started: float | None
    """Seconds since the epoch."""
    ended: float | None
    exit_code: int | None
    facts: dict[str, str] = field(default_factory=dict)
    """What was submitted: verb, name, storage, command, user, code."""
    node: str = ""
    """Address of the node where its driver runs."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ENDED


class JobsClient:
    """A cluster by the address of its dashboard."""

    def __init__(self, address: str) -> None:
        """Nothing is contacted before the first use.

        Raises:
            UsageProblem: not an address.
        """
        parts = urlsplit(address if "://" in address else f"http://{address}")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 8265)
        except ValueError:
            port = None
        if parts.scheme not in ("http", "https") or not parts.hostname or port is None:
            raise UsageProblem(f"{address} is no cluster's address", "use http://HEAD:8265")
        if parts.username or parts.password:
            raise UsageProblem(
                "a login in a cluster's address would be seen", "put the token into RAY_AUTH_TOKEN"
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.address = f"{parts.scheme}://{host}:{port}"
        self._client: JobSubmissionClient | None = None
        # Ray prefers these to the address that it is given, and reads its mode when it is imported.
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            os.environ.pop(name, None)
        given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
        kept = Path("~/.ray/auth_token").expanduser().exists()  # where Ray looks by itself
        os.environ.setdefault("RAY_AUTH_MODE", "token" if given or kept else "disabled")

    def version(self) -> str:
        """Ray's version on the cluster."""
        with self._translate_errors():
            return str(self._api()._server_ray_version)  # from its check of the connection

    def room(self, cpus: float, gpus: float) -> int:
        """How many workers that large its nodes hold, those that an autoscaler may add left out."""
        from ..compute.ray_session import count_fitting_workers

        alive = [node.resources_total for node in self._nodes() if node.state == "ALIVE"]
        return count_fitting_workers(alive, cpus, gpus)

    def seconds_since_node_change(self) -> float:
        """How long no node has come or gone, if its clock is this machine's."""
        moments = [t or 0 for node in self._nodes() for t in (node.start_time_ms, node.end_time_ms)]
        return time.time() - max(moments, default=0) / 1000

    def _nodes(self) -> list[NodeState]:
        """All, the lost ones too: Ray's own filter takes those that it leaves out for cut off."""
        from ray.util.state import list_nodes

        self._api()  # its loggers are quiet after that
        with self._translate_errors():
            return list_nodes(address=self.address, limit=10_000, detail=True)

    def is_static(self) -> bool:
        """Whether it surely has the nodes that were joined to it by hand, and no autoscaler."""
        with self._translate_errors():
            answer = self._api()._do_request("GET", "/api/cluster_status").json()
        status = (answer.get("data") or {}).get("clusterStatus") or {}
        kinds = ((status.get("autoscalerReport") or {}).get("nodeTypeMapping") or {}).values()
        # An autoscaler calls them by the kinds in its file, Ray by itself `node_` and their own ids.
        return bool(kinds) and all(re.fullmatch("node_[0-9a-f]{56}", kind) for kind in kinds)

    def submit(
        self, job: str, command: str, folder: str, facts: dict[str, str], node: str = ""
    ) -> None:
        """Send a folder and run a command in it, under the name `job`.

        Args:
            node: address of the node to run on; the head by default.
        """
        env = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_PATIENCE_S)}
        until = time.monotonic() + HEAD_STARTUP_S
        while True:
            try:
                with self._translate_errors():
                    self._api().submit_job(
                        entrypoint=command,
                        submission_id=job,
                        runtime_env={"working_dir": folder, "env_vars": env},
                        metadata=facts,
                        entrypoint_resources={f"node:{node}": 0.001} if node else None,
                    )
                return
            except ClusterProblem as problem:
                if "No available agent" not in problem.what or time.monotonic() > until:
                    raise
            time.sleep(1)

    def jobs(self) -> list[Job]:
        """Those of the Jobs API, the latest first."""
        with self._translate_errors():
            listed = [_job(found) for found in self._api().list_jobs() if found.submission_id]
        return sorted(listed, key=lambda job: -(job.started or 0))

    def job(self, job: str) -> Job:
        """One job.

        Raises:
            UsageProblem: there is none of this name.
        """
        known = {found.id: found for found in self.jobs()}
        if job not in known:
            hint = did_you_mean(job, known)
            raise UsageProblem(
                f"no job {job} at {self.address}", f"{hint}`whipray jobs list` shows them"
            )
        return known[job]

    def log(self, job: str) -> str:
        """All that it has said."""
        with self._translate_errors():
            return str(self._api().get_job_logs(job))

    def stop(self, job: str) -> None:
        """Ask it to end; it has ten minutes to save."""
        with self._translate_errors():
            self._api().stop_job(job)

    def follow(self, job: str, say: Callable[[str], None], lost: Callable[[], None]) -> Job:
        """Pass on what a job says, from the beginning, until it is over.

        A connection that breaks is taken up again where it was.

        Args:
            lost: called once when the cluster is out of reach, before it is tried again.

        Raises:
            ClusterProblem: out of reach for ten minutes, or back without the job.
        """
        heard = 0
        broken: float | None = None  # since when
        while True:
            before = heard
            try:
                heard = asyncio.run(self._tail(job, heard, say))
                found = self.job(job)
                log = self.log(job)  # whole, also where a proxy lets no tailing through
                say(log[heard:])
                heard, broken = len(log), None
                if found.over:
                    return found
            except AuthenticationProblem:
                raise
            except ClusterProblem:
                if broken is None or heard > before:
                    broken = time.monotonic()
                    lost()
                elif time.monotonic() - broken > AWAY_S:
                    raise
            except UsageProblem as problem:
                raise ClusterProblem(
                    f"{self.address} was started anew and has forgotten {job}",
                    "the command that began it goes on from the last checkpoint",
                ) from problem
            time.sleep(2)

    async def _tail(self, job: str, heard: int, say: Callable[[str], None]) -> int:
        """Skip the `heard` characters that were passed on before; how many have been now.

        It ends with the job, with the connection or with a silence; which of them, the job's state
        tells.
        """
        from aiohttp import ClientError

        position = 0
        log = self._api().tail_job_logs(job)
        while True:
            try:
                chunk = await asyncio.wait_for(anext(log), ANSWER_S)
            except (StopAsyncIteration, ClientError, OSError, RuntimeError):
                return heard
            position += len(chunk)
            if position > heard:
                say(chunk[len(chunk) - (position - heard) :])
                heard = position

    def _api(self) -> JobSubmissionClient:
        if self._client is None:
            from ray import job_submission

            for name in NOISY_LOGGERS:
                logging.getLogger(name).setLevel(logging.ERROR)

            class Client(job_submission.JobSubmissionClient):
                """Ray's would wait for an answer for ever."""

                def _do_request(self, *args: Any, **options: Any) -> Any:
                    return super()._do_request(*args, **{"timeout": ANSWER_S, **options})

            self._client = Client(self.address)
        return self._client

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Whatever Ray and HTTP throw, as one line."""
        from ray.exceptions import AuthenticationError
        from ray.util.state.exception import RayStateApiException

        try:
            yield
        except AuthenticationError as error:
            missing = "401" in str(error) or "Missing" in str(error)
            raise AuthenticationProblem(
                f"{self.address} {'wants a token' if missing else 'refuses the token'}",
                "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, to the cluster's token",
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
                "look into the dashboard's log on the head node",
            ) from error


def _job(found: JobDetails) -> Job:
    agent = urlsplit(found.driver_agent_http_address or "").hostname or ""
    return Job(
        id=str(found.submission_id),
        status=found.status.value,
        message=found.message or "",
        started=found.start_time / 1000 if found.start_time else None,
        ended=found.end_time / 1000 if found.end_time else None,
        exit_code=found.driver_exit_code,
        facts={str(k): str(v) for k, v in (found.metadata or {}).items()},
        node=agent,
    )
