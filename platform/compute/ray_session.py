"""Ray for as long as it is needed: the cluster that RAY_ADDRESS names, or one of this machine."""

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
    "RAY_AIR_NEW_OUTPUT": "0",  # the newer one prints tables even when told to be silent
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches the sweep, which can be resumed
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own snapshots are not what we resume from
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}


class TruncatingStderr(io.TextIOBase):
    """stderr, for what Ray prints on stdout, where data goes: of lost workers and hosts the first
    words, without the pages of its own state that follow."""

    WORDS = 200

    def write(self, text: str) -> int:
        """Pass it on, cut where it is the raylet's."""
        if "(raylet)" in text:
            text = text.partition("\n")[0][: self.WORDS]
        return sys.stderr.write(text)

    def flush(self) -> None:
        """As stderr's."""
        sys.stderr.flush()


@contextmanager
def ray_session() -> Iterator[None]:
    """Attach or start; a Ray of our own ends with the block.

    Raises:
        Problem: the cluster does not answer, or Ray does not start.
    """
    address = os.environ.get("RAY_ADDRESS")
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if not address:  # a Ray of this machine alone listens on loopback; tokens are for clusters
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    quiet_logs()
    if ray.is_initialized():  # by the caller, who ends it
        yield
        return
    try:
        # The dashboard serves the State API, which frees the places of Ray Train workers whose
        # training was lost.
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
            else "the same command again when the machine is less busy, or `whipray doctor --ray`",
        ) from error
    try:
        with redirect_stdout(TruncatingStderr()):
            yield
    finally:
        ray.shutdown()


def driver_node_options() -> dict[str, Any]:
    """Options of an actor that takes no CPU and is lost with this process's host, no other."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": here}


def run_on_worker(scaling: ScalingConfig, action: Callable[[], T], **options: Any) -> T:
    """Run a picklable action where there are one worker's CPUs and GPUs, and wait for it.

    Args:
        options: further ones of `ray.remote(..).options`.

    Raises:
        whatever the action raises, without Ray's words around it.
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
