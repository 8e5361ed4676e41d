"""A connection to Ray: to the cluster that RAY_ADDRESS names, or to a Ray of this machine alone."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TypeVar

from ...trainers.errors import Problem
from ..config.experiment import ScalingConfig
from ..foundation.logs import quiet_logs
from ..foundation.text import last_line

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


class TruncatingStderr(io.TextIOBase):
    """stderr in the place of stdout, which is for data: Ray 2.60 prints its warnings there.

    A lost worker or host comes with pages of the raylet's state; only the start of it is shown.
    """

    MAX_CHARACTERS = 200

    def write(self, text: str) -> int:
        """Write to stderr, messages of the raylet shortened."""
        if "(raylet)" in text:
            text = text.partition("\n")[0][: self.MAX_CHARACTERS]
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush stderr."""
        sys.stderr.flush()


@contextmanager
def ray_session() -> Iterator[None]:
    """Connect to a cluster, or start a Ray that ends with the block.

    Raises:
        Problem: the cluster does not answer, or Ray does not start.
    """
    address = os.environ.get("RAY_ADDRESS")
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if not address:
        # Ray 2.60 would make a token in ~/.ray; a Ray of this machine listens on loopback alone.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    quiet_logs()
    if ray.is_initialized():  # by a caller, who ends it too
        yield
        return
    try:
        # Without the dashboard's State API, Ray 2.60 never removes the placement group of Ray Train
        # workers whose controller was killed, and the next training waits for ever (ray-project/ray
        # #54305, #58515).
        ray.init(
            address=address,
            include_dashboard=None if address else True,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:
        where = f"at {address}" if address else "on this machine"
        raise Problem(
            f"no Ray {where}: {last_line(error)}",
            "check RAY_ADDRESS, or run `whipray doctor --ray`"
            if address
            else "run the same command when the machine is less busy, or `whipray doctor --ray`",
        ) from error
    try:
        with redirect_stdout(TruncatingStderr()):
            yield
    finally:
        ray.shutdown()


def driver_node_options() -> dict[str, Any]:
    """Return options of an actor that uses no CPU and runs on the node of this process.

    It is lost only together with this process's host.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": this_node}


def run_on_worker(scaling: ScalingConfig, action: Callable[[], T], **options: Any) -> T:
    """Run a picklable action where there are one worker's CPUs and GPUs, and wait for it.

    Args:
        scaling: CPUs and GPUs of the worker.
        action: what to run.
        **options: further ones of `ray.remote(..).options`.

    Raises:
        Exception: what the action raised, without Ray's words around it.
    """
    import ray

    def run() -> T:
        return action()

    task = ray.remote(run).options(
        num_cpus=scaling.cpus_per_worker, num_gpus=scaling.gpus_per_worker, **options
    )
    try:
        result: T = ray.get(task.remote())
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return result
