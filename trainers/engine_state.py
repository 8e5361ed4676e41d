"""The full state of a training in and out of DeepSpeed, independent of world size and ZeRO stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .checkpoint import Manifest, file_of_rank, kinds, read_tensors
from .errors import CheckpointProblem
from .optimizer import AdamWithEMA
from .shares import in_rounds, share_evenly
from .state_copy import StateCopy, sum_of_squares

Range = tuple[int, int]
"""Of a flat tensor: where a worker's part begins, and how many numbers it has."""


class EngineState:
    """Reads and writes weights, moments and averages of the trained parameters as full fp32 tensors.

    Args:
        trained: the parameters that are trained, by name.
        shapes: of them, as they are without ZeRO.
        adam: their optimizer.
        zero_stage: how DeepSpeed shards them.
        profiles: widths of the power-function averages.
        device: of the parameters.
        step_on_nothing: takes a step at learning rate 0, in which Adam creates its states.
    """

    def __init__(
        self,
        trained: dict[str, nn.Parameter],
        shapes: dict[str, torch.Size],
        adam: AdamWithEMA,
        *,
        zero_stage: int,
        profiles: tuple[float, ...],
        device: torch.device,
        step_on_nothing: Callable[[], None],
    ) -> None:
        self.trained, self.shapes, self.adam, self.device = trained, shapes, adam, device
        self.zero_stage = zero_stage
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.sharded = zero_stage > 0 and self.world > 1
        self.kinds = kinds(profiles)
        self._step_on_nothing = step_on_nothing

    @torch.no_grad()
    def copy(self) -> StateCopy:
        """Copy this worker's share of the full state to the host's memory; every worker calls it.

        All workers' shares have about as many bytes. Each number crosses the network once, from the worker
        that has it to the one that writes it, in few and large exchanges.
        """
        numbers = {
            f"{kind}/{name}": shape.numel()
            for kind in self.kinds
            for name, shape in self.shapes.items()
        }
        writer = share_evenly(numbers, self.world)
        file_of = {name: file_of_rank(name.partition("/")[0], writer[name]) for name in numbers}
        # Every worker has both files where there are profiles, though nothing may be in them.
        tensors: dict[str, dict[str, Tensor]] = {
            file_of_rank(kind, self.rank): {} for kind in self.kinds
        }
        for round_ in in_rounds(numbers, writer, self.world):
            mine = round_[self.rank]
            flat = self._to_host(round_).split_with_sizes([numbers[name] for name in mine])
            for name, tensor in zip(mine, flat, strict=True):
                shape = self.shapes[name.partition("/")[2]]
                tensors[file_of[name]][name] = tensor.view(shape)
        copied = None
        if self.device.type != "cpu":
            copied = torch.Event(self.device)
            copied.record()
        return StateCopy(tensors, file_of, copied)

    @torch.no_grad()
    def restore(self, folder: Path, manifest: Manifest) -> None:
        """Set Adam's moments and the averages; the weights went in before DeepSpeed was initialised.

        Raises:
            CheckpointProblem: the state read back differs from what was saved.
        """
        with torch.enable_grad():
            self._step_on_nothing()
        for kind in self.kinds[1:]:
            tensors = read_tensors(
                folder, manifest, kind
            )  # of a mapped file, read where it is used
            for name in self.trained:
                self._set_state(name, kind, tensors[name].flatten())
        for state in self.adam.state.values():
            state["step"].fill_(manifest.optimizer_steps)
        for kind, restored in zip(self.kinds, self._norms(), strict=True):
            saved = manifest.state_norms.get(kind, restored)
            if not math.isclose(restored, saved, rel_tol=1e-5, abs_tol=1e-12):
                raise CheckpointProblem(
                    f"{kind} restored with norm {restored:.9g}, saved with {saved:.9g}",
                    "resume with the workers and ZeRO stage of the checkpoint, and report this",
                )

    def full(self, parameter: nn.Parameter, kind: str) -> Tensor:
        """Return a parameter's whole tensor of a kind, which may be flat; every worker calls it."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self.zero_stage == 0:
            state = self.adam.state[parameter]
            return parameter.detach() if kind == "weights" else state[kind]
        if kind == "weights":
            full = safe_get_full_fp32_param(parameter)
        else:
            full = safe_get_full_optimizer_state(parameter, kind)
        assert full is not None
        tensor: Tensor = full
        return tensor

    # -- parts of workers -----------------------------------------------------------------------------

    def _part(self, name: str, kind: str) -> Tensor:
        """Return this worker's part of a tensor, flat, without padding."""
        from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

        parameter: Any = self.trained[name]  # DeepSpeed adds attributes
        if self.zero_stage == 0:
            return self.full(parameter, kind).reshape(-1)
        key = None if kind == "weights" else kind
        if self.zero_stage < 3:
            mapping = parameter._hp_mapping  # DeepSpeed 0.19 has no local API for these stages
            return mapping.get_hp_fragment(key) if mapping else torch.empty(0, device=self.device)
        if key is None:
            part: Tensor = safe_get_local_fp32_param(parameter)
        else:
            part = safe_get_local_optimizer_state(parameter, key)
        return part.flatten()[: self._range(name)[1]]

    def _range(self, name: str) -> Range:
        """Return which part of a tensor this worker has."""
        parameter: Any = self.trained[name]
        numbers = self.shapes[name].numel()
        if self.zero_stage == 0:
            return 0, numbers
        if self.zero_stage < 3:
            mapping = parameter._hp_mapping
            address = mapping.lp_fragment_address if mapping else None
            return (address.start, address.numel) if address else (0, 0)
        share = parameter.ds_tensor.ds_numel
        start = min(share * self.rank, numbers)
        return start, min(share, numbers - start)

    @cached_property
    def _ranges(self) -> list[dict[str, Range]]:
        """Which part of each tensor each worker has, by rank; the first use is a collective."""
        ranges: list[dict[str, Range]] = [{} for _ in range(self.world)]
        dist.all_gather_object(ranges, {name: self._range(name) for name in self.trained})
        for name, shape in self.shapes.items():
            held = sum(of_worker[name][1] for of_worker in ranges)
            assert held == shape.numel(), f"{name}: the workers' parts have {held} numbers"
        return ranges

    def _to_host(self, round_: Sequence[Sequence[str]]) -> Tensor:
        """Return the tensors of a round that this worker writes, flat and one after the other, on the CPU.

        A GPU may still be copying them.

        Args:
            round_: the tensors that each worker writes, by rank.
        """
        names = [name.partition("/")[::2] for name in round_[self.rank]]  # (kind, parameter)
        numbers = [self.shapes[name].numel() for _, name in names]
        on_cpu = self.device.type == "cpu"
        # Pinned memory is kept by PyTorch for the next checkpoint, in blocks of powers of two.
        host = torch.empty(sum(numbers), pin_memory=not on_cpu)
        whole = host if on_cpu or not self.sharded else torch.empty_like(host, device=self.device)
        tensors = list(zip(names, whole.split_with_sizes(numbers), strict=True))
        for (kind, name), tensor in tensors:
            start, count = self._range(name)
            tensor[start : start + count].copy_(self._part(name, kind), non_blocking=True)
        if self.sharded:
            arrived = self._exchange(round_)
            for rank, ranges in enumerate(self._ranges):
                for (_, name), tensor in tensors if rank != self.rank else ():
                    start, count = ranges[name]
                    piece, arrived = arrived[:count], arrived[count:]
                    tensor[start : start + count].copy_(piece)
        if whole is not host:
            host.copy_(whole, non_blocking=True)
        return host

    def _exchange(self, round_: Sequence[Sequence[str]]) -> Tensor:
        """Send this worker's parts to those that write them; return the parts that it writes, by sender."""
        names = [[name.partition("/")[::2] for name in of_writer] for of_writer in round_]
        others = [rank for rank in range(self.world) if rank != self.rank]
        leaving = [0] * self.world
        arriving = [0] * self.world
        parts = []
        for rank in others:
            of_writer = [self._part(name, kind) for kind, name in names[rank]]
            leaving[rank] = sum(map(len, of_writer))
            arriving[rank] = sum(self._ranges[rank][name][1] for _, name in names[self.rank])
            parts += of_writer
        sent = torch.empty(sum(leaving), device=self.device)
        for slot, part in zip(
            sent.split_with_sizes([len(part) for part in parts]), parts, strict=True
        ):
            slot.copy_(part)
        received = torch.empty(sum(arriving), device=self.device)
        dist.all_to_all_single(received, sent, arriving, leaving)
        return received

    def _norms(self) -> list[float]:
        """Return the L2 norm of each kind over all workers' parts; every worker calls it."""
        squares = torch.tensor(
            [
                sum_of_squares(self._part(name, kind) for name in self.trained)
                for kind in self.kinds
            ],
            dtype=torch.float64,
            device=self.device,
        )
        if self.world > 1:
            dist.all_reduce(squares)
            squares /= 1 if self.sharded else self.world
        return squares.sqrt().tolist()

    def _set_state(self, name: str, kind: str, full: Tensor) -> None:
        """Set this worker's part of a tensor.

        Args:
            full: the whole one, flat, on the CPU.
        """
        from deepspeed.utils import safe_set_local_optimizer_state

        start, count = self._range(name)
        part = full[start : start + count]
        parameter: Any = self.trained[name]
        if self.zero_stage == 0:
            state = self.adam.state[parameter][kind]
            state.copy_(part.view(state.shape))
        elif self.zero_stage < 3:
            self._part(name, kind).copy_(part)
        else:  # DeepSpeed 0.19: the full setter fails on sizes that the workers do not divide
            padding = parameter.ds_tensor.ds_numel - count
            padded = torch.nn.functional.pad(part, (0, padding)).to(self.device)
            safe_set_local_optimizer_state(parameter, padded, kind)
