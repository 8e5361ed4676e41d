"""From a laptop to a cluster: check, tell, ask, send, follow."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import uuid4

from ...trainers.errors import UsageProblem
from ...trainers.scratch import Scratch
from ..compute.capacity import no_room
from ..config.experiment import Experiment, ScalingConfig, TrackingConfig, with_values
from ..config.layers import flatten
from ..config.space import Space
from ..config.yaml12 import dump_scalar
from ..foundation.code_version import code_version
from ..foundation.text import redact, without_login
from ..storage.config import StorageConfig
from ..storage.store import Storage
from ..tracking.mlflow_runs import tracking_uri, user_name
from .forecast import Forecast, Work, make_forecast, of_sweep, of_training
from .jobs_client import ClusterProblem, JobsClient
from .package import Package, stage

RECIPE, SPACE = "recipe.yaml", "space.yaml"
REJOIN_S = 120.0
"""For nodes to find a head that was restarted: they look for the old one a minute, and start again."""


@dataclass(frozen=True)
class Task:
    """What a job is to do."""

    verb: str
    name: str
    """Of the run or sweep; a cluster does one thing of a name at a time."""
    arguments: Sequence[str]
    """Of the command line on the cluster, after the verb."""
    storage: StorageConfig
    texts: Mapping[str, str]
    """Files that the arguments name, by name."""
    work: Work | None = None
    """The trainings in it."""


def train_task(name: str, experiment: Experiment) -> Task:
    """`whipray train` on a cluster.

    Raises:
        UsageProblem: as `for_cluster`.
    """
    there = for_cluster(experiment)
    arguments = [RECIPE, "--run", name]
    texts = {RECIPE: there.model_dump_json(indent=1)}
    return Task("train", name, arguments, there.storage, texts, of_training(there))


def sweep_task(name: str, experiment: Experiment, space: Space, resume: bool) -> Task:
    """`whipray sweep` on a cluster.

    Raises:
        UsageProblem: as `for_cluster`.
    """
    there = for_cluster(experiment)
    # There the space's base is laid over the recipe again; what was laid over it here goes on top.
    under = tuple(flatten(space.base))
    overrides = [
        f"{key}={dump_scalar(value)}"
        for key, value in flatten(there).items()
        if any(f"{key}.".startswith(f"{base}.") for base in under)
    ]
    arguments = [SPACE, "--recipe", RECIPE, "--name", name, *(["--resume"] if resume else [])]
    texts = {
        RECIPE: there.model_dump_json(indent=1),
        SPACE: space.model_dump_json(indent=1),
    }
    work = of_sweep(there, space)
    return Task("sweep", name, [*arguments, *overrides], there.storage, texts, work)


def evaluate_task(
    target: str, overrides: Sequence[str], storage: StorageConfig, tracking: str | None
) -> Task:
    """`whipray evaluate` on a cluster, on all of it unless the overrides say otherwise.

    Raises:
        UsageProblem: as `shared_store` and `shared_tracking`.
    """
    store = shared_store(storage)
    arguments = [target, *overrides, *_places(store, tracking)]
    if not any(override.startswith("evaluation.workers=") for override in overrides):
        arguments.append("evaluation.workers=all")
    return Task("evaluate", target, arguments, store, {})


def doctor_task(storage: StorageConfig, tracking: str | None) -> Task:
    """`whipray doctor --ray` on a cluster.

    Raises:
        UsageProblem: as `shared_store` and `shared_tracking`.
    """
    store = shared_store(storage)
    return Task("doctor", "cluster", ["--ray", *_places(store, tracking)], store, {})


def _places(store: StorageConfig, tracking: str | None) -> list[str]:
    """The options that name the store and MLflow."""
    server = shared_tracking(TrackingConfig(uri=tracking), store).uri
    options = {"--storage": store.uri, "--endpoint": store.endpoint_url, "--tracking": server}
    return [word for name, value in options.items() if value for word in (name, value)]


class Launch:
    """One job in the making. Use as a context: the staged folder lives as long."""

    def __init__(self, address: str, task: Task) -> None:
        self.cluster, self.task = JobsClient(address), task
        label = re.sub(r"[^a-zA-Z0-9]+", "-", task.name).strip("-")
        self.job = f"{task.verb}-{label}-{uuid4().hex[:6]}"
        self._folder = Scratch()
        self.package: Package | None = None
        self.status = "looking at the cluster"

    def __enter__(self) -> Self:
        self.package = stage(Path(self._folder.name), self.task.texts)
        return self

    def __exit__(self, *_error: object) -> None:
        self._folder.cleanup()

    def check(self) -> None:
        """Before anything is sent: the same Ray there, and nobody at the same work.

        Raises:
            ClusterProblem: it does not answer, rejects the token, or has another Ray.
            UsageProblem: a job of this name is running on the same store.
        """
        import ray

        there = self.cluster.version()
        if there != ray.__version__:
            raise ClusterProblem(
                f"{self.cluster.address} runs Ray {there}, this machine {ray.__version__}",
                f"pip install 'ray[default,train,tune]=={there}' here, or another image there",
            )
        task = self.task
        for job in self.cluster.jobs():
            same = (job.facts.get("name"), job.facts.get("storage")) == (
                task.name,
                task.storage.uri,
            )
            if same and not job.has_ended and job.facts.get("verb") == task.verb:
                raise UsageProblem(
                    f"{job.id} is at {task.verb} {task.name} already",
                    f"`whipray jobs logs -f {job.id} --on {self.cluster.address}` follows it; "
                    "or give another name",
                )

    def forecast(self) -> Forecast | None:
        """Hours and money, where there is something to train.

        Raises:
            UsageProblem: the cluster has no room for a training, and nothing that could make any.
        """
        work = self.task.work
        if work is None:
            return None
        return make_forecast(work, self._room(work.experiment.scaling))

    def _room(self, scaling: ScalingConfig) -> int:
        """Workers that there is room for, once nodes that may be coming back had their time."""
        until = time.monotonic() + REJOIN_S
        while True:
            room = self.cluster.room(scaling.cpus_per_worker, scaling.gpus_per_worker)
            if room >= scaling.fewest or not self.cluster.is_static():
                return room
            if self.cluster.seconds_since_node_change() > REJOIN_S or time.monotonic() > until:
                raise no_room(scaling, room, alternative=", or join more nodes to it")
            self.status = (
                f"the cluster has room for {room} of {scaling.fewest} workers; more may join"
            )
            time.sleep(2)

    @property
    def facts(self) -> dict[str, str]:
        """What the cluster's list of jobs shows; no secret."""
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
        """Send it; the job's name."""
        assert self.package is not None
        module = "whipray.platform.cli.job_entry"
        command = shlex.join([self.task.verb, *self.task.arguments])
        self.cluster.submit(
            self.job,
            # `exec`, or a shell stands between and goes first when the job is stopped: where nobody reaps
            # orphans, as in many a container, Ray would then wait for a process that has ended.
            f"exec python -m {module} {self.job} -- {command}",
            str(self.package.folder),
            self.facts,
        )
        return self.job


def for_cluster(experiment: Experiment) -> Experiment:
    """The experiment with what this machine's environment adds to it, as another machine needs it.

    Raises:
        UsageProblem: its store or MLflow is of this machine alone.
    """
    storage = shared_store(experiment.storage)
    tracking = shared_tracking(experiment.tracking, storage)
    return with_values(
        experiment,
        {"storage": storage.model_dump(), "tracking.uri": tracking.uri},
        "environment",
    )


def shared_store(config: StorageConfig) -> StorageConfig:
    """The store with the endpoint and region of the environment.

    Raises:
        UsageProblem: a folder that is relative to where one stands.
    """
    if not config.uri.startswith(("s3://", "/")):
        raise UsageProblem(
            f"storage.uri={config.uri} is a folder of this machine",
            "give storage.uri=s3://bucket/prefix, or an absolute folder that all nodes share",
        )
    if not config.uri.startswith("s3://"):
        return config
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return config.model_copy(
        update={
            "endpoint_url": config.endpoint_url or endpoint,
            "region": config.region or region,
        }
    )


def shared_tracking(config: TrackingConfig, storage: StorageConfig) -> TrackingConfig:
    """MLflow's address as the cluster will use it.

    Raises:
        UsageProblem: none for a bucket, or one with a login in it.
    """
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None and not storage.uri.startswith("s3://"):
        return config  # beside the runs
    uri = tracking_uri(config, Storage(storage))
    if without_login(uri) != uri:
        raise UsageProblem(
            "tracking.uri holds a login, which everybody who sees the job would see",
            "give the nodes MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead",
        )
    return config.model_copy(update={"uri": uri})
