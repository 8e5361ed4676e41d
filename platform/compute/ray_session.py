"""A connection to Ray: to the cluster that RAY_ADDRESS names, or to a Ray of this machine alone."""

from __future__ import annotations

import io
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

from ...trainers.errors import Problem
from ..config.scaling import ScalingConfig
from ..foundation.environment import environment
from ..foundation.job import in_cluster_job
from ..foundation.logs import quiet_logs
from ..foundation.signals import keeping_handlers
from ..foundation.text import last_line, printable
from .ray_address import check_head, cluster_address
from .ray_folder import own_temporary_folder, ray_folder, removing_forkserver_folders
from .ray_watch import watching_ray

T = TypeVar("T")

SETTINGS = {
    # Ray 2.60's newer output prints tables even with `verbose=0`.
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # The default of Ray 2.60; earlier versions hide the GPUs from tasks that ask for none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow has what they would write
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches the sweep, which can be resumed
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own snapshots are not what we resume from
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # the patch logs what workers print once more
}
"""Environment variables of Ray, unless they are set already."""

NO_EXPORTERS = {
    "RAY_enable_metrics_collection": "0",
    # No such port: Ray 2.60 has no other way to leave these two out, and goes on without them.
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}
"""Switches off the three servers for Prometheus, which ask for no token and listen on all interfaces."""


class TruncatingStderr(io.TextIOBase):
    """stderr in the place of stdout, which is for data: Ray 2.60 prints its warnings there.

    A lost worker or host comes with pages of the raylet's state; only the start of it is shown.
    """

    MAX_CHARACTERS = 200

    def write(self, text: str) -> int:
        """Write to stderr, messages of the raylet shortened."""
        if "(raylet)" in text:
            text = text.partition("\n")[0][: self.MAX_CHARACTERS]
        return sys.stderr.write(printable(text))

    def flush(self) -> None:
        """Flush stderr."""
        sys.stderr.flush()


@contextmanager
def ray_session() -> Iterator[None]:
    """Connect to the cluster that RAY_ADDRESS names, or start a Ray that ends with the block.

    Raises:
        Problem: the cluster does not answer, or Ray does not start.

    If it is lost inside, this process ends: see `ray_watch`.
    """
    # "local" and not None: by None, Ray 2.60 joins the cluster that a file in the temporary folder
    # names, /tmp/ray/ray_current_cluster, which any user of the machine may write.
    address = cluster_address() or "local"
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    quiet_logs()
    if ray.is_initialized():  # by a caller, who ends it too
        yield
        return
    local = address == "local"
    if not local:
        check_head(address)
    with (
        own_token() if local else nullcontext(),
        ray_folder() if local else nullcontext() as folder,
    ):
        _connect(address, folder)
        try:
            with redirect_stdout(TruncatingStderr()), watching_ray(None if local else address):
                yield
        finally:
            with removing_forkserver_folders() if local else nullcontext():
                ray.shutdown()


def _connect(address: str, folder: Path | None) -> None:
    """Attach to the cluster at the address, or start a Ray in the folder if that is "local".

    Raises:
        Problem: the cluster does not answer, or Ray does not start.
    """
    import ray
    from ray.job_config import JobConfig

    local = address == "local"
    # Nothing of Ray may import what lies in the folder where the command is typed, such as a
    # `random.py`. Ray 2.60 has no public way to keep it out of the workers' paths. In a job it is our
    # own package.
    config = JobConfig(_client_job=not in_cluster_job())
    try:
        # Without the dashboard's State API, Ray 2.60 never removes the placement group of Ray Train
        # workers whose controller was killed, and the next training waits for ever (ray-project/ray
        # #54305, #58515).
        variables, ours = {"PYTHONSAFEPATH": "1"}, {}
        if local:
            variables |= NO_EXPORTERS
        if folder and (usual := own_temporary_folder()):
            variables["TMPDIR"] = str(folder)
            ours = {"env_vars": {"TMPDIR": usual}}  # workers may need more room than /tmp has
        with (
            environment(variables),
            keeping_handlers(),  # Ray 2.60 ends the process at a SIGTERM, and saves nothing
        ):
            ray.init(
                address=address,
                include_dashboard=True if local else None,
                _temp_dir=str(folder) if folder else None,
                job_config=config,
                runtime_env=ours or None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:
        where = "on this machine" if local else f"at {address}"
        raise Problem(
            f"no Ray {where}: {last_line(error)}",
            "run the same command when the machine is less busy, or `whipray doctor --ray`"
            if local
            else "check RAY_ADDRESS, or run `whipray doctor --ray`",
        ) from error


@contextmanager
def own_token() -> Iterator[None]:
    """Close the Ray that starts within the block to all but this process and its children.

    Ray 2.60 listens on every interface of the machine, except for the dashboard, whatever
    `_node_ip_address` says; who can connect can run code. The token is random, in the environment
    alone, and the one of a cluster that may stand there comes back after the block.
    """
    variables = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_AUTH_TOKEN_PATH": None,
    }
    try:
        with environment(variables):
            _reload_token()
            yield
    finally:
        _reload_token()


def _reload_token() -> None:
    """Let Ray read mode and token again: Ray 2.60 reads them once, when it is imported and used."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    # In this order, as Ray's own tests do: a thread that still ends must not look for a token that
    # is gone while the mode asks for one.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def driver_node_options() -> dict[str, Any]:
    """Return options of an actor that uses no CPU and runs on the node of this process.

    It is lost only together with this process's host.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": this_node}


def run_on_worker(
    scaling: ScalingConfig,
    action: Callable[[], T],
    progress: Callable[[], object] = lambda: None,
    **options: Any,
) -> T:
    """Run a picklable action where there are one worker's CPUs and GPUs, and wait for it.

    Args:
        scaling: CPUs and GPUs of the worker.
        action: what to run.
        progress: returns another value once the action can go on from a later point: lost processes are
            then counted anew.
        **options: further ones of `ray.remote(..).options`.

    Raises:
        Exception: what the action raised, without Ray's words around it.
    """
    import ray
    from ray.exceptions import NodeDiedError, RayTaskError, WorkerCrashedError

    def run() -> T:
        return action()

    task = ray.remote(run).options(
        num_cpus=scaling.cpus_per_worker, num_gpus=scaling.gpus_per_worker, **options
    )
    while True:
        reached = progress()
        try:
            result: T = ray.get(task.remote())
        except RayTaskError as error:
            raise error.cause from None
        except (NodeDiedError, WorkerCrashedError):
            if progress() == reached:
                raise
        else:
            return result
