"""Preflight checks: does everything that a run needs work?

Each check does a small version of the real thing: write and read an object, log and delete a run,
ask Ray for its nodes. It leaves nothing behind but MLflow's record of a deleted experiment.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from ...trainers.errors import Problem, combine
from ...trainers.scratch import Scratch
from ..config.tracking import TrackingConfig
from ..foundation.environment import environment
from ..foundation.text import describe_exception, redact
from ..foundation.versions import PINNED_LIBRARIES, local_versions, unsatisfied
from ..storage.config import StorageConfig
from ..storage.layout import MLFLOW_DATABASE
from ..storage.s3 import environment as s3_environment
from ..storage.store import Storage
from ..tracking.errors import translate_errors
from ..tracking.server import (
    check_file,
    configure_mlflow,
    database_exists,
    database_lock,
    sqlite_uri,
)
from ..tracking.tracker import find_experiment

if TYPE_CHECKING:
    from packaging.requirements import Requirement

GIB = 1 << 30
LITTLE_DISK = 5 * GIB
"""With less, a few checkpoints of a small model and its samples may not fit."""

QUICK_MLFLOW = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""MLflow retries for minutes by default; a preflight check has to report a dead server soon."""


@dataclass(frozen=True)
class Check:
    """The result of one check; one that is ok and has a fix is a warning."""

    name: str
    ok: bool
    detail: str
    fix: str = ""


class Warn(Exception):
    """Raised by a probe that succeeded, with a warning: (detail, fix)."""


def checks(storage: StorageConfig, tracking_uri: str, *, ray: bool = False) -> Iterator[Check]:
    """Run the checks one after the other and yield their results; a failed check does not raise.

    Args:
        storage: store of the runs.
        tracking_uri: MLflow's URI; a login in it is not shown.
        ray: also attach to the cluster at RAY_ADDRESS, or start a local Ray temporarily, and check
            every node and the network between them.
    """
    yield _check("libraries", _libraries, "pip install 'whipray[run]', in a fresh environment")
    yield _check("devices", _devices, "check the driver with nvidia-smi")
    yield _check("memory", _memory, "close other programs")
    yield _check("disk", lambda: _disk(storage), "check --storage")
    with _new_folders_removed(storage):
        yield _check("storage", lambda: _storage(storage), "check --storage and --endpoint")
        yield _check(
            "tracking",
            lambda: _tracking(tracking_uri, storage),
            "check --tracking, that its server runs, and that you may write to it",
        )
    if ray:
        yield from _ray_checks()


@contextmanager
def _new_folders_removed(config: StorageConfig) -> Iterator[None]:
    """Remove the store's folders that did not exist before, unless something else is in them."""
    storage = Storage(config)
    folders = [Path(storage.path), *Path(storage.path).parents] if storage.is_folder else []
    missing = [folder for folder in folders if not folder.exists()]
    try:
        yield
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def _check(name: str, probe: Callable[[], str], fix: str) -> Check:
    """Run a probe, which returns a detail or raises; turn either into a result."""
    try:
        return Check(name, True, probe())
    except Warn as warning:
        return Check(name, True, *warning.args)
    except Problem as problem:
        return Check(name, False, problem.what, problem.fix)
    except Exception as error:  # noqa: BLE001 - whatever a library throws is the answer
        return Check(name, False, describe_exception(error), fix)


def _libraries() -> str:
    """Check the installed libraries against the requirements; return the main versions."""
    wanted = {
        "python": importlib.metadata.metadata("whipray")["Requires-Python"],
        "libraries": [f"{of.name}{of.specifier}" for of in _wanted("whipray", {"run"})],
    }
    if problems := unsatisfied(wanted):
        raise Problem("; ".join(problems), "pip install 'whipray[run]', in a fresh environment")
    versions = local_versions()
    return ", ".join(f"{name} {versions[name]}" for name in PINNED_LIBRARIES)


def _wanted(distribution: str, extras: set[str]) -> Iterator[Requirement]:
    """Yield the requirements of an installed distribution, with those that its extras add."""
    from packaging.requirements import Requirement

    for line in importlib.metadata.requires(distribution) or []:
        wanted = Requirement(line)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": e}) for e in extras):
            yield wanted
            if wanted.extras:
                with suppress(
                    importlib.metadata.PackageNotFoundError
                ):  # reported already, as a requirement that is not met
                    yield from _wanted(wanted.name, wanted.extras)


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"CPU only, {os.cpu_count()} cores"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{len(names)} GPU: {', '.join(dict.fromkeys(names))}"


def _memory() -> str:
    import psutil  # type: ignore[import-untyped]

    memory = psutil.virtual_memory()
    return f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"


def _disk(config: StorageConfig) -> str:
    """Return the free space of the temporary folder, and of the store if it is a folder."""
    storage = Storage(config)
    folders = [Path(tempfile.gettempdir()), *([Path(storage.uri)] if storage.is_folder else [])]
    lines, little = [], False
    for folder in folders:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        little |= free < LITTLE_DISK
        lines.append(f"{free / GIB:.1f} GiB free at {folder}")
    detail = ", ".join(lines)
    if little:
        raise Warn(detail, f"free space: below {LITTLE_DISK // GIB} GiB checkpoints may not fit")
    return detail


def _storage(config: StorageConfig) -> str:
    """Write, list, read and delete a small object."""
    storage = Storage(config)
    name = f"doctor-{uuid4().hex}/hello.txt"
    text = "written by whipray doctor\n"
    storage.write_text(name, text)
    try:
        if name not in storage.list(name.split("/")[0]) or storage.read_text(name) != text:
            raise Problem(
                f"{storage.uri}: an object that was written could not be read back",
                "check the store's health",
            )
    finally:
        storage.delete(name.split("/")[0])
    return f"wrote, listed, read and deleted an object in {storage.uri}"


def _tracking(uri: str, config: StorageConfig) -> str:
    """Create an experiment, a run, a metric and an artifact, ask the registry, delete them all."""
    configure_mlflow()
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    storage = Storage(config)
    name = f"doctor-{uuid4().hex}"
    # A server has its own location for artifacts; those of a plain database go to the store.
    location = None if uri.startswith("http") else storage.uri_of(name)
    with ExitStack() as stack:
        stack.enter_context(environment({**QUICK_MLFLOW, **s3_environment(storage.config)}))
        stack.enter_context(_quiet())
        shown = redact(uri)
        if not database_exists(uri):  # the first run makes it; one of its kind is tried
            shown = f"a database as the first run makes it at {shown}"
            uri = sqlite_uri(f"{stack.enter_context(Scratch())}/{MLFLOW_DATABASE}")
        check_file(uri)
        stack.enter_context(translate_errors(uri))
        with database_lock(uri):
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            find_experiment(client, TrackingConfig().experiment)
            experiment = client.create_experiment(name, artifact_location=location)
        try:
            run = client.create_run(experiment).info
            client.log_metric(run.run_id, "answer", 42.0)
            client.log_text(run.run_id, "written by whipray doctor", "hello.txt")
            metric = client.get_run(run.run_id).data.metrics.get("answer")
            artifacts = [file.path for file in client.list_artifacts(run.run_id)]
            if metric != 42.0 or artifacts != ["hello.txt"]:
                raise Problem(
                    f"{shown}: a run that was logged could not be read back",
                    "check the tracking server's database and artifact store",
                )
            client.search_registered_models(max_results=1)
            artifact_store = get_artifact_repository(run.artifact_uri, tracking_uri=uri)
            artifact_store.delete_artifacts()
            client.delete_run(run.run_id)
        finally:
            client.delete_experiment(experiment)
            if location:
                storage.delete(name)
    return f"logged a run with an artifact and asked the registry: {shown}"


def _ray_checks() -> Iterator[Check]:
    """Attach to Ray or start a local one, and check it and each of its nodes."""
    from ..compute.ray_session import ray_session
    from .cluster_checks import probes

    fix = "pip install 'ray[default,train,tune]'; check RAY_ADDRESS"
    with ExitStack() as open_ray:
        started = _check("ray", lambda: _attach(open_ray, ray_session()), fix)
        yield started
        if started.ok:
            for name, (probe, mend) in open_ray.enter_context(probes()).items():
                yield _check(name, probe, mend)
            yield _check("limits", _limits, "run `whipray doctor` on each node")


def _attach(stack: ExitStack, ray_open: AbstractContextManager[None]) -> str:
    """Check that the State API answers; Ray Train 2.60 frees a lost run's resources through it."""
    stack.enter_context(ray_open)
    import ray
    from ray.util.state import list_nodes

    address = (
        ray.get_runtime_context().gcs_address
    )  # of this Ray: there may be others on this machine
    alive = sum(
        node.state == "ALIVE" for node in list_nodes(address=address, limit=10_000, timeout=60)
    )
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    return f"Ray {ray.__version__}: {alive} nodes, {cpus:g} CPU, {gpus:g} GPU; State API answers"


def _limits() -> str:
    """Check shared memory, limits of processes, disks and network of each node."""
    from ..compute.node_facts import Needs, doubts, lacks, limits_text
    from ..compute.nodes import examine_nodes

    nodes = examine_nodes()
    needs = Needs(uses_gpus=any(node.gpus_of_ray for node in nodes), several_nodes=len(nodes) > 1)
    if problems := [problem for node in nodes for problem in lacks(node, needs)]:
        raise combine(problems)
    detail = "; ".join(sorted({limits_text(node) for node in nodes}))
    if lines := [line for node in nodes for line in doubts(node, needs)]:
        raise Warn(detail, "; ".join(lines))
    return detail


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence MLflow, which logs every migration when it creates a database."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
