"""The contract of a network: (x_t, its time, labels) -> what the process says it should predict.

A network's own file has its layers alone, as an ordered list of stages (`Network.stages`), and the
features of its time. What every network shares is in this module: the conditions (label, augmentation
and omega), dropout masks that rows share, and the two predictions of CALL, theta's and theta_g's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from .dropout import reuse_dropout_masks
from .low_rank import has_expert, theta_g
from .recompute import recomputed

State = tuple[Tensor, ...]
"""What a stage passes to the next one, (B, ..) each: what later stages read, and the activations last."""


class NetworkConfig(Config, ABC):
    """Settings of all networks."""

    name: str
    guidance_embedding: bool = False
    """Whether the network takes omega as an input and returns the guided prediction (objective tcfg)."""

    @abstractmethod
    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> Network:
        """Build the network, with initial weights from PyTorch's global generator.

        Args:
            image_shape: (C, H, W).
            num_classes: labels are in [0, num_classes); negative ones are null.

        Raises:
            ValueError: an image size that the settings do not fit.
        """


class Stage(NamedTuple):
    """One step of a network's forward pass."""

    modules: Sequence[nn.Module]
    """The modules that hold its parameters."""
    run: Callable[[State, Tensor, Tensor | None], State]
    """(state, embedded (B, width), dropout_rows (B,) or None) -> the next state; changes no input."""


class Network(nn.Module, ABC):
    """A network over (B, C, H, W) images, conditioned on a time and a label.

    Subclasses create their layers, and say what `features`, `repeated_blocks` and `stages` are.

    Args:
        config: as the network was built from.
        num_classes: labels are in [0, num_classes); negative ones are null.
        embedding: features of the time (B, features) -> what the blocks are given, (B, width).
        features: numbers of `features`.
        width: of each condition, which `embed` adds.
    """

    layer_groups: Mapping[str, Sequence[str]] = {}
    """Names that `layers:` of low-rank parts may use beside those of modules: group -> modules in it.
    `up.1.qkv` is then layer `qkv` in the second module of group `up`. Every network has the groups
    or modules `embedding`, `down`, `middle` and `up`."""

    recompute = False
    """Whether blocks are computed again in the backward pass, instead of keeping their activations."""

    def __init__(
        self,
        config: NetworkConfig,
        num_classes: int,
        embedding: nn.Module,
        *,
        features: int,
        width: int,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embedding = embedding
        self.labels = nn.Embedding(num_classes, width)
        self.guidance = nn.Linear(features, width) if config.guidance_embedding else None
        self.augmentation: nn.Linear | None = None
        self._condition_width = width

    @abstractmethod
    def features(self, values: Tensor) -> Tensor:
        """Return what `embedding` sees of a time, or of omega, (B,): (B, features) float32."""

    @abstractmethod
    def repeated_blocks(self) -> Sequence[nn.Module]:
        """Return the modules (h, embedded, dropout_rows) -> h that repeat, in their order; see `call`."""

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """Return the steps from the state (x_t,) to the state (output,).

        The first one whose modules have an expert part, and all after it, are computed twice for
        CALL: the finer the stages, the more theta and theta_g share.
        """

    def call(
        self, block: nn.Module, h: Tensor, embedded: Tensor, dropout_rows: Tensor | None
    ) -> Tensor:
        """Return a block's output; stages call each of their blocks by this."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return recomputed(block, h, embedded, dropout_rows)
        output: Tensor = block(h, embedded, dropout_rows)
        return output

    def embed(self, features: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """Return what the blocks are given, (B, width), from the features of the time (B, features).

        Args:
            conditions: the label's, and the augmentation's and omega's where given, (B, width) each.
        """
        embedded: Tensor = self.embedding(features)
        for condition in conditions:
            embedded = embedded + condition
        return embedded

    def add_augmentation_conditioning(self, numbers: int) -> None:
        """Add an input of `numbers` values per image that describe its augmentation; 0 is none.

        Without a bias, so that zeros change nothing and an exported network needs no such input.
        """
        self.augmentation = nn.Linear(numbers, self._condition_width, bias=False)
        self.initialise_augmentation(self.augmentation.weight)

    def initialise_augmentation(self, weight: Tensor) -> None:
        """Set the initial weights (width, numbers) of the augmentation's input."""
        nn.init.xavier_uniform_(weight)

    def forward(
        self,
        x_t: Tensor,
        time: Tensor,
        labels: Tensor,
        dropout_rows: Tensor | None = None,
        augmentation: Tensor | None = None,
        omega: Tensor | None = None,
        num_general: int = 0,
    ) -> Tensor:
        """Predict, (B + num_general, C, H, W) in x_t's dtype, or autocast's.

        Args:
            x_t: (B, C, H, W), scaled as the process has it.
            time: (B,) as the process gives it: 0..T-1, ln(sigma) / 4, or 0..1000.
            labels: (B,) int64; a negative one is null and adds nothing to the embedding.
            dropout_rows: (B,) int64: the row whose dropout masks each row shares, for two copies of
                an image. None: every row has its own.
            augmentation: (B, numbers) float32, after `add_augmentation_conditioning`.
            omega: (B,) float32, with `guidance_embedding`; a negative value, or None, is no input.
            num_general: how many of the first rows theta_g (without the expert parts of
                `low_rank.py`) predicts as well; they come last. What theta and theta_g have in
                common is computed once, and both share the same dropout masks.

        Raises:
            ValueError: num_general, of a network without expert parts.
        """
        inputs = _Inputs(x_t, time, labels, augmentation, omega)
        if num_general:
            return self._predict_twice(inputs, dropout_rows, num_general)
        return _run(self.stages(), (x_t,), self._embedded(inputs), dropout_rows)[0]

    def _predict_twice(
        self, inputs: _Inputs, dropout_rows: Tensor | None, num_general: int
    ) -> Tensor:
        stages = self.stages()
        conditioning = (self.embedding, self.labels, self.guidance, self.augmentation)
        embeddings_differ = any(has_expert(m) for m in conditioning if m is not None)
        with_expert = [i for i, stage in enumerate(stages) if any(map(has_expert, stage.modules))]
        if not embeddings_differ and not with_expert:
            raise ValueError("num_general is given, but no layer has an expert part")
        first = 0 if embeddings_differ else with_expert[0]
        embedded = self._embedded(inputs)
        shared = _run(stages[:first], (inputs.x_t,), embedded, dropout_rows)
        general = tuple(part[:num_general] for part in shared)
        if embeddings_differ:
            with theta_g(self):
                general_embedded = self._embedded(inputs.first(num_general))
        else:
            general_embedded = embedded[:num_general]
        with reuse_dropout_masks(self):
            (output,) = _run(stages[first:], shared, embedded, dropout_rows)
            with theta_g(self):
                (of_theta_g,) = _run(stages[first:], general, general_embedded, None)
        return torch.cat([output, of_theta_g])

    def _embedded(self, inputs: _Inputs) -> Tensor:
        """Return what the blocks are given, (B, width)."""
        x_t, time, labels, augmentation, omega = inputs
        has_label = (labels >= 0).to(x_t.dtype)[:, None]  # (B, 1)
        conditions = [has_label * self.labels(labels.clamp(min=0))]
        if self.augmentation is not None and augmentation is not None:
            conditions.append(self.augmentation(augmentation.to(x_t.dtype)))
        if self.guidance is not None and omega is not None:
            has_omega = (omega >= 0).to(x_t.dtype)[:, None]
            # scaled so that omega in [0, 1] spans the same features as 1,000 timesteps
            waves = self.features(1000 * omega.clamp(min=0))
            conditions.append(has_omega * self.guidance(waves.to(x_t.dtype)))
        return self.embed(self.features(time).to(x_t.dtype), conditions)


class _Inputs(NamedTuple):
    """The inputs of the network, but for dropout's; see `Network.forward`."""

    x_t: Tensor
    time: Tensor
    labels: Tensor
    augmentation: Tensor | None
    omega: Tensor | None

    def first(self, rows: int) -> _Inputs:
        """Return the first rows."""
        return _Inputs(*(None if value is None else value[:rows] for value in self))  # type: ignore[arg-type]


def _run(
    stages: Sequence[Stage], state: State, embedded: Tensor, dropout_rows: Tensor | None
) -> State:
    for stage in stages:
        state = stage.run(state, embedded, dropout_rows)
    return state


def timestep_embedding(t: Tensor, channels: int) -> Tensor:
    """Return the sinusoidal embedding of Vaswani et al. 2017, section 3.5, (B, channels) float32."""
    half = channels // 2
    frequencies = torch.exp(
        torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(10000) / half)
    )
    angles = t.float()[:, None] * frequencies  # (B, half)
    embedded = torch.cat([angles.sin(), angles.cos()], dim=1)
    return F.pad(embedded, (0, channels - 2 * half))
