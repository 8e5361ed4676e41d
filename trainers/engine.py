"""DeepSpeed around one network: ZeRO, precision, and state independent of world size and stage."""

from __future__ import annotations

import atexit
import functools
import gc
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import model_validator
from torch import Tensor, nn

from .checkpoint import EMA, Manifest, check_architecture, file_of_rank, kinds, read_tensors
from .config import Config
from .disk import save_tensors
from .errors import CheckpointProblem
from .optimizer import AdamWithEMA, OptimizerConfig

MPI_LOCAL_RANK = "OMPI_COMM_WORLD_LOCAL_RANK"
"""DeepSpeed 0.19 fails where it differs from LOCAL_RANK."""
LAUNCHERS_VARIABLES = (
    "WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    MPI_LOCAL_RANK,
)
"""With which torchrun and others tell a process its place in a group."""


class EngineConfig(Config):
    """How a step is computed; nothing here changes what is computed, beyond rounding."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """ZeRO: 1 shards optimizer state and EMA, 2 gradients too, 3 weights too."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs convolutions and products in bfloat16; weights, gradients, Adam's moments and the
    EMA stay fp32."""
    compile: bool = False
    """torch.compile of the network: slow to start, faster steps on a GPU."""
    channels_last: bool = True
    """Memory layout of images and activations; the fast one for convolutions. The weights stay
    contiguous, which ZeRO's flat buffers and DeepSpeed's broadcast need."""
    tf32: bool = True
    """Allow TF32 in fp32 matrix products and convolutions on a GPU."""

    @model_validator(mode="after")
    def _supported(self) -> EngineConfig:
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile does not work with zero_stage 3: choose stage 0, 1 or 2")
        return self


class Engine:
    """A network in training on this worker.

    Needs an initialised `torch.distributed` group (`join_workers`), also for one worker.
    """

    def __init__(
        self,
        network: nn.Module,
        config: EngineConfig,
        optimizer: OptimizerConfig,
        *,
        micro_batch: int,
        accumulation: int,
        device: torch.device,
        image_shape: tuple[int, int, int],
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        """Wrap `network`, first loading `weights` (full fp32 tensors by parameter) into it.

        Parameters that require no gradient are frozen: not optimised, not averaged, not saved.

        Raises:
            CheckpointProblem: the weights are of another architecture.
        """
        deepspeed = _quiet_deepspeed()
        self.config, self.device = config, device
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        if weights is not None:
            check_architecture(weights, self.trained)
            network.load_state_dict(weights, strict=False)
        network.to(device)
        if config.compile:
            network.compile()
        if device.type == "cuda":
            precision = "high" if config.tf32 else "highest"
            torch.set_float32_matmul_precision(precision)
            torch.backends.cudnn.allow_tf32 = config.tf32
        self.shapes = {name: p.shape for name, p in self.trained.items()}
        self.adam = AdamWithEMA(self.trained.values(), optimizer)
        self._kinds = kinds(optimizer.ema_profiles)
        self._accumulation = accumulation
        self._image_shape = image_shape
        self._clip = optimizer.clip
        self._norm: Tensor | float = 0.0
        self._ds, *_ = deepspeed.initialize(
            model=network,
            optimizer=self.adam,
            config=_deepspeed_config(config, optimizer, micro_batch, accumulation),
            dist_init_required=False,
        )
        if self.world == 1 and config.zero_stage == 0:
            # DeepSpeed 0.19 would flatten all gradients, reduce them over one worker and copy them back
            self._ds.enable_backward_allreduce = False
        self.network: nn.Module = self._ds.module

    def predict(self, x: Tensor, time: Tensor, labels: Tensor, **extra: Any) -> Tensor:
        """Return the network's output in float32; arguments as `Network.forward`."""
        if self.config.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        output: Tensor = self._ds(x, time, labels, **extra)  # in bf16 under DeepSpeed's autocast
        return output.float()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch dropout and gradients off within this context."""
        self.network.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.network.train()

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Yield the network in evaluation mode with the averaged weights; its own are back after it.

        Every worker calls it; not for ZeRO 3, where no worker has whole weights.
        """
        own = {name: p.detach().clone() for name, p in self.trained.items()}
        averages = {name: self._full(p, EMA).reshape(p.shape) for name, p in self.trained.items()}
        self.network.eval()
        try:
            with torch.no_grad():
                for name, parameter in self.trained.items():
                    parameter.copy_(averages[name])
                yield self.network
        finally:
            with torch.no_grad():
                for name, parameter in self.trained.items():
                    parameter.copy_(own[name])
            self.network.train()

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of one micro-batch."""
        self._ds.backward(loss)

    def step(self, lr: float, decays: Mapping[str, float]) -> None:
        """Count a micro-batch; after the last one of a global batch, update the weights.

        Args:
            decays: of the averages, as `OptimizerConfig.decays_at` gives them.
        """
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.decays.update(decays)
        if self.config.zero_stage == 0 and self._ds.is_gradient_accumulation_boundary():
            # DeepSpeed 0.19 clips at stage 0 too, but does not give the norm
            limit = self._clip or math.inf
            self._norm = nn.utils.clip_grad_norm_(self.trained.values(), limit)
        self._ds.step()

    def gradient_norm(self) -> float:
        """Return the L2 norm of the last global gradient, before clipping."""
        norm = self._norm if self.config.zero_stage == 0 else self._ds.get_global_grad_norm()
        return float(norm)

    def all_reduce_mean(self, values: Tensor) -> Tensor:
        """Return the mean over workers; every worker calls it."""
        if self.world > 1:
            dist.all_reduce(values)
            values = values / self.world
        return values

    def close(self) -> None:
        """Release DeepSpeed's hooks and buffers, so that the process can train again."""
        self._ds.destroy()
        if self.config.zero_stage == 3:
            _forget_zero_3()

    # -- state independent of world size and ZeRO stage -----------------------------------------

    def save_shard(self, folder: Path) -> tuple[list[str], dict[str, str], dict[str, float]]:
        """Write this worker's share of the full state; every worker calls it.

        Each parameter's tensors are assembled on all workers and written by one.

        Returns:
            this worker's file names, tensor -> file name for all tensors, the L2 norm of each kind.
        """
        mine: dict[str, dict[str, Tensor]] = {
            file_of_rank(kind, self.rank): {} for kind in self._kinds
        }
        file_of: dict[str, str] = {}
        squares = dict.fromkeys(self._kinds, 0.0)
        for index, (name, parameter) in enumerate(self.trained.items()):
            writer = index % self.world
            for kind in self._kinds:
                full = self._full(parameter, kind).reshape(self.shapes[name])
                squares[kind] += float(full.double().square().sum())
                file = file_of_rank(kind, writer)
                file_of[f"{kind}/{name}"] = file
                if writer == self.rank:
                    mine[file][f"{kind}/{name}"] = full.detach().float().cpu().contiguous().clone()
        for file, tensors in mine.items():
            save_tensors(tensors, folder / file)
        return list(mine), file_of, {kind: math.sqrt(total) for kind, total in squares.items()}

    def restore_optimizer(self, folder: Path, manifest: Manifest) -> None:
        """Set Adam's moments and the averages; the weights went in before DeepSpeed was initialised.

        Raises:
            CheckpointProblem: the state read back differs from what was saved.
        """
        self._make_states()
        for kind in self._kinds[1:]:
            tensors = read_tensors(folder, manifest, kind)
            for name, parameter in self.trained.items():
                self._set_state(parameter, kind, tensors[name].to(self.device))
        for state in self.adam.state.values():
            state["step"].fill_(manifest.optimizer_steps)
        for kind, saved in manifest.state_norms.items():
            restored = math.sqrt(
                sum(
                    float(self._full(p, kind).double().square().sum())
                    for p in self.trained.values()
                )
            )
            if not math.isclose(restored, saved, rel_tol=1e-5, abs_tol=1e-12):
                raise CheckpointProblem(
                    f"{kind} restored with norm {restored:.9g}, saved with {saved:.9g}",
                    "resume with the workers and ZeRO stage of the checkpoint, and report this",
                )

    def _full(self, parameter: nn.Parameter, kind: str) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self.config.zero_stage == 0:
            state = self.adam.state[parameter]
            return parameter.detach() if kind == "weights" else state[kind]
        if kind == "weights":
            full = safe_get_full_fp32_param(parameter)
        else:
            full = safe_get_full_optimizer_state(parameter, kind)
        assert full is not None
        tensor: Tensor = full
        return tensor

    def _make_states(self) -> None:
        """Take a step at learning rate 0, in which Adam creates its states."""
        zero = torch.zeros(1, device=self.device)
        for _ in range(self._accumulation):
            output = self.predict(
                torch.zeros(1, *self._image_shape, device=self.device), zero, zero.long()
            )
            self.backward((output * 0).sum())
            for p in self.trained.values():  # parameters that such an input does not reach
                if self.config.zero_stage == 0 and p.grad is None:
                    p.grad = torch.zeros_like(p)
            self.step(lr=0.0, decays=dict.fromkeys(self.adam.decays, 0.0))

    def _set_state(self, parameter: nn.Parameter, kind: str, full: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.config.zero_stage == 0:
            self.adam.state[parameter][kind].copy_(full)
        elif self.config.zero_stage < 3:
            safe_set_full_optimizer_state(parameter, full, kind)
        else:  # DeepSpeed 0.19: the full setter fails on sizes that the workers do not divide
            flat = full.flatten()
            share = math.ceil(len(flat) / self.world)
            padded = torch.nn.functional.pad(flat, (0, share * self.world - len(flat)))
            safe_set_local_optimizer_state(parameter, padded[share * self.rank :][:share], kind)


def _deepspeed_config(
    config: EngineConfig, optimizer: OptimizerConfig, micro_batch: int, accumulation: int
) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": optimizer.clip if config.zero_stage else 0.0,
        "zero_allow_untested_optimizer": True,
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
        "zero_optimization": {
            "stage": config.zero_stage,
            # numbers gathered and reduced at once, 100 MB in fp32; DeepSpeed's default of
            # 500 million would allocate buffers larger than the network
            "reduce_bucket_size": 25_000_000,
            "allgather_bucket_size": 25_000_000,
        },
    }


def join_workers(device: torch.device) -> None:
    """Make sure this process is in a process group: the one that it has joined, or one of its own.

    A group of its own stays for the life of the process, since DeepSpeed keeps references to it
    from one training to the next.
    """
    if dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = dist.HashStore()  # type: ignore[attr-defined]  # documented, but not re-exported
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    set_local_rank(device.index or 0)
    atexit.register(dist.destroy_process_group)


def set_local_rank(rank: int) -> None:
    """Tell DeepSpeed and `choose_device` which of its host's workers this process is."""
    os.environ["LOCAL_RANK"] = str(rank)
    os.environ.pop(MPI_LOCAL_RANK, None)


def ignored_variables() -> list[str]:
    """Return the variables of other launchers in the environment, which say nothing to this process.

    torchrun, Slurm's scripts and Kubeflow set them; what they start inherits them.
    """
    if dist.is_initialized():
        return []
    names = [name for name in LAUNCHERS_VARIABLES if name in os.environ]
    accelerator = os.environ.get("DS_ACCELERATOR", _accelerator())
    return [*names, *(["DS_ACCELERATOR"] if accelerator != _accelerator() else [])]


def choose_device() -> torch.device:
    """Return this worker's GPU, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if dist.is_initialized() and dist.get_world_size() > 1:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device("cuda", torch.cuda.current_device())


def _accelerator() -> str:
    """Return DeepSpeed's word for the devices that `choose_device` returns."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _quiet_deepspeed() -> Any:
    """Import DeepSpeed without its start-up messages."""
    os.environ["DS_ACCELERATOR"] = _accelerator()
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


def _forget_zero_3() -> None:
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
