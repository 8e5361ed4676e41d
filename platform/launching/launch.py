"""Launch a task on a cluster: check, forecast, package and submit."""

from __future__ import annotations

import re
import shlex
import sys
import time
from pathlib import Path
from typing import Self
from uuid import uuid4

from ...trainers.errors import UsageProblem
from ...trainers.scratch import Scratch
from ..compute.capacity import no_room
from ..config.scaling import ScalingConfig
from ..foundation.code_version import code_version
from ..foundation.text import redact
from ..tracking.server import user_name
from .forecast import Forecast, make_forecast
from .jobs_client import ClusterProblem, JobsClient
from .package import Package, stage
from .tasks import Task

REJOIN_S = 120.0
"""Time for nodes to rejoin a restarted head: they look for the old one for a minute, then start
again."""


class Launch:
    """One job, from the checks to its submission. As a context it stages the folder to send."""

    def __init__(self, address: str, task: Task) -> None:
        self.client, self.task = JobsClient(address), task
        label = re.sub(r"[^a-zA-Z0-9]+", "-", task.name).strip("-")
        self.job = f"{task.verb}-{label}-{uuid4().hex[:6]}"
        self._folder: Scratch | None = None
        self.package: Package | None = None
        self.status = "checking the cluster"

    def __enter__(self) -> Self:
        self._folder = Scratch()
        self.package = stage(Path(self._folder.name), self.task.texts)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def check(self) -> None:
        """Check that the cluster has the same version of Ray, and no job with the same work.

        Raises:
            ClusterProblem: it does not answer, rejects the token, or runs another version of Ray.
            UsageProblem: a job of this verb and name is running on the same store.
        """
        import ray

        version = self.client.version()
        if version != ray.__version__:
            raise ClusterProblem(
                f"{self.client.address} runs Ray {version}, this machine {ray.__version__}",
                f"pip install 'ray[default,train,tune]=={version}' on this machine, or change the "
                "cluster's image",
            )
        task = self.task
        for job in self.client.jobs():
            same = {"verb": task.verb, "name": task.name, "storage": task.storage.uri}
            if not job.has_ended and same.items() <= job.facts.items():
                raise UsageProblem(
                    f"{job.id} already runs {task.verb} {task.name}",
                    f"`whipray jobs logs -f {job.id} --on {self.client.address}` follows it; "
                    "or choose another name",
                )

    def forecast(self) -> Forecast | None:
        """Return the time and costs to expect; None where nothing is trained.

        Raises:
            UsageProblem: a training does not fit on the cluster, and no autoscaler can add nodes.
        """
        work = self.task.work
        if work is None:
            return None
        return make_forecast(work, self._count_fitting_workers(work.experiment.scaling))

    def costs(self, forecast: Forecast | None) -> str | None:
        """Return what the launch will cost, in words; None where its workers have no price."""
        if not self.task.price_per_hour:
            return None
        if forecast is None or forecast.money is None:
            return "an unknown amount"
        return f"{forecast.money:.2f}"

    def _count_fitting_workers(self, scaling: ScalingConfig) -> int:
        """Return how many workers fit, after waiting for nodes that may rejoin."""
        until = time.monotonic() + REJOIN_S
        while True:
            room = self.client.room(scaling.cpus_per_worker, scaling.gpus_per_worker)
            if room >= scaling.required_workers or not self.client.is_static():
                return room
            if self.client.seconds_since_node_change() > REJOIN_S or time.monotonic() > until:
                raise no_room(scaling, room, alternative=", or join more nodes to it")
            wanted = scaling.required_workers
            self.status = f"the cluster has room for {room} of {wanted} workers; more may join"
            time.sleep(2)

    @property
    def facts(self) -> dict[str, str]:
        """The metadata that the cluster lists with the job; it holds no secret."""
        task = self.task
        return {
            "whipray": "1",
            "verb": task.verb,
            "name": task.name,
            "storage": task.storage.uri,
            "command": redact(shlex.join(["whipray", *sys.argv[1:]])),
            "user": user_name(),
            "code": str(code_version() or ""),
        }

    def submit(self) -> str:
        """Submit the job and return its id."""
        assert self.package is not None
        module = "whipray.platform.cli.job_entry"
        command = shlex.join([self.task.verb, *self.task.arguments])
        self.client.submit(
            self.job,
            # To stop a job, Ray 2.60 signals the command's process and its children and waits for
            # all of them. Without `exec` the first one is a shell, which ends before the driver
            # does; in a container without an init nobody reaps the orphaned driver, and Ray waits
            # in vain.
            f"exec python -m {module} {self.job} -- {command}",
            str(self.package.folder),
            self.facts,
        )
        return self.job
