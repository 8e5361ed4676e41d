"""The full state of a training in and out of DeepSpeed, independent of world size and ZeRO stage."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .checkpoint import Manifest, file_of_rank, kinds, read_tensors
from .disk import save_tensors
from .errors import CheckpointProblem
from .optimizer import AdamWithEMA


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
        self.kinds = kinds(profiles)
        self._step_on_nothing = step_on_nothing

    def save(self, folder: Path) -> tuple[list[str], dict[str, str], dict[str, float]]:
        """Write this worker's share of the full state; every worker calls it.

        Each parameter's tensors are assembled on all workers and written by one.

        Returns:
            this worker's file names, tensor -> file name for all tensors, the L2 norm of each kind.
        """
        mine: dict[str, dict[str, Tensor]] = {
            file_of_rank(kind, self.rank): {} for kind in self.kinds
        }
        file_of: dict[str, str] = {}
        squares = dict.fromkeys(self.kinds, 0.0)
        for index, (name, parameter) in enumerate(self.trained.items()):
            writer = index % self.world
            for kind in self.kinds:
                full = self.full(parameter, kind).reshape(self.shapes[name])
                squares[kind] += float(full.double().square().sum())
                file = file_of_rank(kind, writer)
                file_of[f"{kind}/{name}"] = file
                if writer == self.rank:
                    mine[file][f"{kind}/{name}"] = full.detach().float().cpu().contiguous().clone()
        for file, tensors in mine.items():
            save_tensors(tensors, folder / file)
        return list(mine), file_of, {kind: math.sqrt(total) for kind, total in squares.items()}

    def restore(self, folder: Path, manifest: Manifest) -> None:
        """Set Adam's moments and the averages; the weights went in before DeepSpeed was initialised.

        Raises:
            CheckpointProblem: the state read back differs from what was saved.
        """
        self._step_on_nothing()
        for kind in self.kinds[1:]:
            tensors = read_tensors(folder, manifest, kind)
            for name, parameter in self.trained.items():
                self._set_state(parameter, kind, tensors[name].to(self.device))
        for state in self.adam.state.values():
            state["step"].fill_(manifest.optimizer_steps)
        for kind, saved in manifest.state_norms.items():
            restored = math.sqrt(
                sum(
                    float(self.full(p, kind).double().square().sum()) for p in self.trained.values()
                )
            )
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

    def _set_state(self, parameter: nn.Parameter, kind: str, full: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.zero_stage == 0:
            self.adam.state[parameter][kind].copy_(full)
        elif self.zero_stage < 3:
            safe_set_full_optimizer_state(parameter, full, kind)
        else:  # DeepSpeed 0.19: the full setter fails on sizes that the workers do not divide
            flat = full.flatten()
            share = math.ceil(len(flat) / self.world)
            padded = torch.nn.functional.pad(flat, (0, share * self.world - len(flat)))
            safe_set_local_optimizer_state(parameter, padded[share * self.rank :][:share], kind)
