"""DeepSpeed's import and settings, and what it leaves behind."""

from __future__ import annotations

import functools
import gc
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from .devices import accelerator
from .engine_config import EngineConfig
from .gradient_buckets import bucket_numbers
from .optimizer import OptimizerConfig


def deepspeed_config(
    config: EngineConfig,
    optimizer: OptimizerConfig,
    *,
    micro_batch: int,
    accumulation: int,
    sizes: Sequence[int],
    world: int,
) -> dict[str, Any]:
    """Return DeepSpeed's own config of a training.

    Args:
        micro_batch: images of a backward pass on a worker.
        accumulation: backward passes of a step.
        sizes: numbers of each parameter that is trained.
        world: workers.
    """
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": optimizer.clip if config.zero_stage else 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # its own for the CPU keeps no averages
        "steps_per_print": 10**12,
        # DeepSpeed 0.19: its throughput timer would wait for the device twice a step
        "timers": {"throughput": {"enabled": False}},
        # DeepSpeed 0.19 switches off an autocast that is entered around it, on a GPU at least.
        # No module is listed as safe: that would make it reduce gradients in bf16.
        "torch_autocast": {
            "enabled": config.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "communication_data_type": config.communication,
        "zero_optimization": {
            "stage": config.zero_stage,
            # DeepSpeed's default of 500 million would allocate buffers larger than the network
            "reduce_bucket_size": bucket_numbers(sizes),
            # of stages 1 and 2; alone, a worker would wait for its device without any use
            "overlap_comm": world > 1,
            **_stage_3(sizes),
            **_offload(config),
            # each gradient goes to the worker that needs it, once, instead of to all, twice
            "use_multi_rank_bucket_allreduce": False,
        },
    }


def _stage_3(sizes: Sequence[int]) -> dict[str, int]:
    """Return how many numbers of the weights a worker holds at once at stage 3.

    DeepSpeed's defaults are a billion: of a smaller network it would hold everything from the first step on.
    """
    share = max(*sizes, sum(sizes) // 8)
    return {
        "stage3_max_live_parameters": share,
        "stage3_max_reuse_distance": share,
        "stage3_prefetch_bucket_size": share // 2,
        # of one parameter; smaller ones stay whole: norms and biases, whose gathers would be all latency
        "stage3_param_persistence_threshold": min(100_000, sum(sizes) // 1000),
    }


def _offload(config: EngineConfig) -> dict[str, Any]:
    host = {"device": "cpu", "pin_memory": accelerator() == "cuda"}
    return {
        **({"offload_optimizer": host} if config.offload != "none" else {}),
        **({"offload_param": host} if config.offload == "all" else {}),
    }


def quiet_deepspeed() -> Any:
    """Import DeepSpeed without its start-up messages."""
    os.environ["DS_ACCELERATOR"] = accelerator()
    # DeepSpeed 0.19: its autotuner, which is not used, imports MLflow, which takes longer than the rest.
    hide_mlflow = "mlflow" not in sys.modules
    if hide_mlflow:
        sys.modules["mlflow"] = None  # type: ignore[assignment]  # an import then fails
    try:
        import deepspeed
    finally:
        if hide_mlflow:
            del sys.modules["mlflow"]
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    # DeepSpeed compiles its shared-memory collectives when it first starts; gloo needs no compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def forget_zero_3() -> None:
    """Empty the list and the method cache in which DeepSpeed 0.19 keeps a network after `destroy`.

    The cache belongs to a method defined in a class body and has no public name, hence the search.
    """
    from deepspeed.runtime.zero import parameter_offload, partitioned_param_coordinator

    parameter_offload.FWD_MODULE_STACK.clear()
    for cached in gc.get_objects():
        if type(cached) is functools._lru_cache_wrapper and (
            cached.__module__ == partitioned_param_coordinator.__name__
        ):
            cached.cache_clear()
