"""GPUs that a config asks for are there, or the command ends: no training goes on a CPU unasked."""

from __future__ import annotations

import math

from ...trainers.errors import UsageProblem


def check_gpus(per_worker: float, workers: int = 1) -> None:
    """Check that this machine has the GPUs that its workers ask for.

    Args:
        per_worker: `scaling.gpus_per_worker`.
        workers: how many of them are on this machine.

    Raises:
        UsageProblem: it has fewer.
    """
    if per_worker == 0:
        return
    import torch

    wanted = math.ceil(per_worker * workers)
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if usable >= wanted:
        return
    if torch.version.cuda is None and torch.version.hip is None:
        reason = f"PyTorch {torch.__version__} is built for CPUs: install a build for GPUs"
    elif usable == 0:
        reason = "see what `nvidia-smi` says of the driver, and CUDA_VISIBLE_DEVICES"
    else:
        reason = "lower scaling.workers"
    raise UsageProblem(
        f"scaling.gpus_per_worker={per_worker:g} asks for {wanted} "
        f"GPU{'s' if wanted > 1 else ''}, and PyTorch finds {usable or 'none'} on this machine",
        f"{reason}; or set scaling.gpus_per_worker=0 to train on CPUs",
    )
