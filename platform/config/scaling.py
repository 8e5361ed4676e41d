"""The workers of one training: how many, where, and how long they wait for each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ...trainers.config import Config
from ..foundation.text import redact

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET = re.compile(
    r"(?<!P)KEY|SECRET|TOKEN|PASSW|CREDENTIAL|AUTH|^(AWS|AZURE|GOOGLE|MLFLOW)_|_URL$|_URI$",
    re.IGNORECASE,
)
"""Names of variables that hold logins as a rule: a config is kept and shown with every run. InfiniBand's
P_Keys are numbers of partitions."""
OURS = re.compile(
    r"(CUDA_VISIBLE_DEVICES|DS_ACCELERATOR|(LOCAL_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|PATH|"
    r"PYTHON.*|RAY_.*|TMPDIR|TUNE_.*|WHIPRAY_.*|OMPI_COMM_.*)"
)
"""Names of variables that Ray or Whipray set for workers."""


def _as_text(value: Any) -> Any:
    """Return the values of a mapping as text: YAML reads `NCCL_IB_DISABLE: 1` as a number."""
    if not isinstance(value, Mapping):
        return value
    return {
        name: str(given) if type(given) in (int, float) else given for name, given in value.items()
    }


class ScalingConfig(Config):
    """Workers of one training."""

    workers: int = Field(1, ge=1)
    """Processes that share each batch. One trains in the calling process; more go through Ray
    Train."""
    min_workers: int | None = Field(None, ge=1)
    """A training continues with this many workers while others are lost; those rejoin when there
    is room. None: it waits for all."""
    elastic_step: int = Field(1, ge=1)
    """With `min_workers`: the numbers of workers that it may continue with are this far apart. With as many as
    a node has GPUs, a training loses and regains whole nodes."""
    placement: Literal["pack", "spread", "strict_pack", "strict_spread"] = "pack"
    """How Ray puts several workers on nodes: on as few as possible, on as many as possible, and whether
    nothing else will do."""
    cpus_per_worker: int = Field(1, ge=1)
    gpus_per_worker: float = Field(0, ge=0)
    """A fraction such as 0.25 lets several trainings of one worker share a GPU, with that share of its
    memory each."""
    max_failures: int = Field(3, ge=0)
    """Failures of workers that a training survives without a new checkpoint, each by resuming from its last
    one; the next one ends it."""
    timeout_s: int = Field(600, ge=10)
    """Seconds after which a step's communication between workers counts as a hang, which is a failure: at
    most how much longer one worker's step, compilation included, may take than another's."""
    load_timeout_s: int = Field(21_600, ge=10)
    """Seconds for which workers wait for one that still reads its images, its model or its checkpoint, or
    uploads its part of one."""
    environment: Annotated[dict[str, str], BeforeValidator(_as_text)] = Field({})
    """Environment variables of the workers, where there are several: NCCL's, PyTorch's, a network's library's.
    No secrets: a config is kept with every run."""
    price_per_hour: float = Field(0, ge=0)
    """Price of one worker, in any currency. With it, a launch on a cluster estimates the cost and
    asks for confirmation."""

    @property
    def requirement_text(self) -> str:
        """The resources that a training requests of a cluster, for messages."""
        cpus, gpus = self.cpus_per_worker, self.gpus_per_worker
        return f"{self.workers} workers with {cpus} CPUs and {gpus:g} GPUs each"

    @property
    def required_workers(self) -> int:
        """The number of workers without which a training waits."""
        return self.min_workers or self.workers

    @property
    def sizes(self) -> range:
        """Every number of workers that may train."""
        return range(self.required_workers, self.workers + 1, self.elastic_step)

    @field_validator("environment")
    @classmethod
    def _harmless(cls, variables: dict[str, str]) -> dict[str, str]:
        for name, value in variables.items():
            if not VARIABLE.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an environment variable")
            if OURS.fullmatch(name):
                raise ValueError(f"{name} is set by Whipray or Ray: leave it out")
            if SECRET.search(name):
                raise ValueError(
                    f"{name} may hold a secret, and a config is kept with every run: set it on the nodes"
                )
            if redact(value) != value:
                raise ValueError(
                    f"{name} holds a login, and a config is kept with every run: set it on the nodes"
                )
        return variables

    @model_validator(mode="after")
    def _min_workers_fit(self) -> ScalingConfig:
        if self.required_workers > self.workers:
            raise ValueError(
                f"min_workers={self.min_workers} is more than workers={self.workers}: "
                "lower scaling.min_workers"
            )
        if (self.workers - self.required_workers) % self.elastic_step:
            raise ValueError(
                f"workers={self.workers} is not min_workers={self.min_workers} and steps of "
                f"elastic_step={self.elastic_step}: choose another scaling.min_workers"
            )
        if self.elastic_step > 1 and self.min_workers is None:
            raise ValueError("elastic_step without min_workers: set scaling.min_workers")
        return self

    @model_validator(mode="after")
    def _whole_gpus(self) -> ScalingConfig:
        if self.gpus_per_worker > 1 and not self.gpus_per_worker.is_integer():
            raise ValueError(
                f"gpus_per_worker={self.gpus_per_worker:g}: Ray gives a worker whole GPUs or a part of one"
            )
        return self

    @model_validator(mode="after")
    def _one_gpu_each(self) -> ScalingConfig:
        if self.workers > 1 and self.gpus_per_worker not in (0, 1):
            raise ValueError(
                f"{self.workers} workers with {self.gpus_per_worker:g} GPUs each: NCCL needs "
                "a GPU of its own for each of several workers: set scaling.gpus_per_worker=1"
            )
        return self


def shown_sizes(sizes: range) -> str:
    """Return the numbers of workers in words."""
    if len(sizes) <= 4:
        return ", ".join(map(str, sizes))
    step = f" in steps of {sizes.step}" if sizes.step > 1 else ""
    return f"{sizes[0]} to {sizes[-1]}{step}"
