"""DeepSpeed around one network: ZeRO, precision, gradients and updates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .checkpoint import EMA, check_architecture
from .compilation import compile_network, uncompiled
from .deepspeed_setup import deepspeed_config, forget_zero_3, quiet_deepspeed
from .engine_config import EngineConfig
from .engine_state import EngineState
from .errors import UsageProblem
from .gradient_buckets import GradientBuckets
from .networks import Network
from .optimizer import AdamWithEMA, OptimizerConfig


class Engine:
    """A network in training on this worker.

    Needs an initialised `torch.distributed` group (`join_workers`), also for one worker.
    """

    def __init__(
        self,
        network: Network,
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
            UsageProblem: a setting that this device cannot do.
        """
        deepspeed = quiet_deepspeed()
        self.config, self.device = config, device
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        if weights is not None:
            check_architecture(weights, self.trained)
            network.load_state_dict(weights, strict=False)
        network.to(device)
        if config.compile == "graphs" and device.type != "cuda":
            raise UsageProblem(
                f"engine.compile=graphs needs a GPU, this worker has {device.type}",
                "choose engine.compile=regional, full or off",
            )
        compile_network(network, config.compile)
        network.recompute = config.activation_checkpointing
        if device.type == "cuda":
            precision = "high" if config.tf32 else "highest"
            torch.set_float32_matmul_precision(precision)
            torch.backends.cudnn.allow_tf32 = config.tf32
        self.adam = AdamWithEMA(self.trained.values(), optimizer)
        self._accumulation = accumulation
        self._image_shape = image_shape
        self._clip = optimizer.clip
        self._norm: Tensor | float = 0.0
        shapes = {name: p.shape for name, p in self.trained.items()}  # ZeRO 3 empties them
        sent_in = torch.bfloat16 if config.communication == "bf16" else torch.float32
        for parameter in self.trained.values():
            parameter.comm_dtype = sent_in  # type: ignore[attr-defined]  # DeepSpeed's, under autocast
        self._ds, *_ = deepspeed.initialize(
            model=network,
            optimizer=self.adam,
            config=deepspeed_config(
                config,
                optimizer,
                micro_batch=micro_batch,
                accumulation=accumulation,
                sizes=[shape.numel() for shape in shapes.values()],
                world=self.world,
            ),
            dist_init_required=False,
        )
        self._buckets: GradientBuckets | None = None
        if config.zero_stage == 0:
            self._ds.enable_backward_allreduce = False
            if self.world > 1:
                self._buckets = GradientBuckets(list(self.trained.values()), sent_in)
        self.network: nn.Module = self._ds.module
        self.state = EngineState(
            self.trained,
            shapes,
            self.adam,
            zero_stage=config.zero_stage,
            profiles=optimizer.ema_profiles,
            device=device,
            step_on_nothing=self._step_on_nothing,
        )

    def predict(self, x: Tensor, time: Tensor, labels: Tensor, **extra: Any) -> Tensor:
        """Return the network's output in float32; arguments as `Network.forward`."""
        if self.config.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        output: Tensor = self._ds(x, time, labels, **extra)  # in bf16 under DeepSpeed's autocast
        return output.float()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch dropout, gradients and compiled forms off within this context."""
        self.network.eval()
        try:
            with torch.no_grad(), uncompiled(self.config.compile):
                yield
        finally:
            self.network.train()

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Yield the network in evaluation mode with the averaged weights; its own are back after it.

        Every worker calls it; not for ZeRO 3, where no worker has whole weights.
        """
        own = {name: p.detach().clone() for name, p in self.trained.items()}
        averages = {
            name: self.state.full(p, EMA).reshape(p.shape) for name, p in self.trained.items()
        }
        self.network.eval()
        try:
            with torch.no_grad(), uncompiled(self.config.compile):
                for name, parameter in self.trained.items():
                    parameter.copy_(averages[name])
                yield self.network
        finally:
            with torch.no_grad():
                for name, parameter in self.trained.items():
                    parameter.copy_(own[name])
            self.network.train()

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of one micro-batch; the last one's pass averages them over the workers."""
        graphs = self.config.compile == "graphs"
        if graphs and self._accumulation > 1:
            # else a gradient would be memory of the graph, which its next replay overwrites
            for parameter in self.trained.values():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        last = self._buckets is not None and self._ds.is_gradient_accumulation_boundary()
        if self._buckets is not None and last:
            self._buckets.begin()
        self._ds.backward(loss)
        if self._buckets is not None and last:
            self._buckets.finish()
        if graphs:
            # what comes next may overwrite this pass's memory
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

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
        if self._buckets is not None:
            self._buckets.close()
        self._ds.destroy()
        if self.config.zero_stage == 3:
            forget_zero_3()

    def _step_on_nothing(self) -> None:
        """Take a step at learning rate 0, in which Adam creates its states."""
        with uncompiled(self.config.compile):
            self._accumulate_nothing()

    def _accumulate_nothing(self) -> None:
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
