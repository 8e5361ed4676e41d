"""Low-rank parts of a network's matrices: the capacity that CALL reserves, and LoRA's adapters.

A layer's matrix is W plus the product B A of each of its parts, B (d, r) and A (r, k):

    theta   = W + B^g A^g + B^e A^e        theta_g = W + B^g A^g

`general` parts (B^g A^g) are LoRA's and belong to both; `expert` parts (B^e A^e) are CALL's reserved
capacity (its section 4.2, where they are written B A and there is no general part from scratch). A
convolution's kernel counts as the matrix (C_out, C_in kh kw), which the paper leaves open; q, k and
v, which share one layer `qkv`, count as three matrices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, Literal, cast

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from ..config import Config
from ..errors import UsageProblem

Part = Literal["general", "expert"]


class LowRankConfig(Config):
    """Which matrices get a low-rank part, and of what rank."""

    layers: tuple[str, ...] = Field(("up",), min_length=1)
    """Names of layers or of modules that contain them, or patterns: `up` is everything in the up path,
    `conv_out` the last convolution, `up.*.attention.*` only its attention, `*` every Linear and Conv. A list,
    or one string with commas. Every network has `embedding`, `down`, `middle` and `up`; in one without
    paths these are its first, middle and last blocks."""
    rank: int | float = 0.1
    """r: a whole number for all layers, or a share below 1 of each layer's min(d, k), rounded down
    but at least 1 (CALL's 1/10; its rounding is not stated)."""

    @field_validator("layers", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        """Accept one string too, `up,middle`: a search space chooses among scalars."""
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("rank")
    @classmethod
    def _whole_or_share(cls, value: float) -> float:
        if value <= 0 or (isinstance(value, float) and value >= 1):
            raise ValueError("must be a whole number from 1, or a share between 0 and 1")
        return value

    def rank_of(self, d: int, k: int) -> int:
        """Return r for a matrix (d, k)."""
        if isinstance(self.rank, int):
            return self.rank
        return max(1, int(self.rank * min(d, k) + 1e-9))  # 0.29 of 100 is 29, not 28


class LowRankPart(nn.Module):
    """B A, computed in each pass; B starts at 0, and so does the product.

    Args:
        matrices: how many (d, k) matrices the layer's weight consists of.
    """

    def __init__(self, matrices: int, d: int, k: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(matrices, rank, k))
        self.b = nn.Parameter(torch.zeros(matrices, d, rank))
        nn.init.uniform_(self.a, -(k**-0.5), k**-0.5)  # as LoRA: Kaiming's bound with a = sqrt 5

    def forward(self) -> Tensor:
        """Return the product, (matrices d, k)."""
        product: Tensor = self.b @ self.a
        return product.flatten(0, 1)


class Parts(nn.ModuleDict):
    """The parts of one layer, `general` and `expert`."""

    set_for_a_pass = ("general_only",)
    """Attributes that `recompute.py` sets again for a second pass."""
    general_only = False

    def add_to(self, weight: Tensor) -> Tensor:
        """Return a layer's weight plus its parts, or plus those of theta_g alone."""
        for name, part in self.items():
            if name == "general" or not self.general_only:
                product: Tensor = part()
                weight = weight + product.view_as(weight)
        return weight


class LowRankConv2d(nn.Conv2d):
    """A convolution with low-rank parts."""

    parts: Parts

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the weight plus its parts."""
        weight = self.parts.add_to(self.weight)
        output: Tensor = self._conv_forward(x, weight, self.bias)
        return output


class LowRankLinear(nn.Linear):
    """A linear layer with low-rank parts."""

    parts: Parts

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the weight plus its parts."""
        return nn.functional.linear(x, self.parts.add_to(self.weight), self.bias)


def add_parts(network: nn.Module, part: Part, config: LowRankConfig, where: str) -> list[str]:
    """Add a part to the chosen layers; their weights stay as they are, and so does the output.

    Args:
        where: the config's dotted key, for error messages.

    Returns:
        the names of the layers.

    Raises:
        UsageProblem: a pattern that matches no layer, a rank that a layer cannot have, or an expert
            part that is not of lower rank than the layer's general one.
    """
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    layer_of = _layers_by_name(network, layers)
    chosen: set[str] = set()
    for pattern in config.layers:
        either = pattern, f"{pattern}.*"  # a layer, or a module that contains it
        matched = {
            layer for name, layer in layer_of.items() if any(fnmatchcase(name, p) for p in either)
        }
        if not matched:
            parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in layer_of))
            raise UsageProblem(
                f"{where}.layers: {pattern} matches no layer of the network",
                f"give one of {parts}, or a pattern such as up.*.attention.*",
            )
        chosen |= matched
    for name in sorted(chosen):
        layer = layers[name]
        matrices = 3 if name.endswith(".qkv") else 1
        d, k = layer.weight.shape[0] // matrices, layer.weight[0].numel()
        rank = config.rank_of(d, k)
        if rank > min(d, k):
            raise UsageProblem(
                f"{where}.rank {rank} is above min(d, k) = {min(d, k)} of layer {name}",
                "lower it, give a share such as 0.1, or choose other layers",
            )
        wrapped = layer if isinstance(layer, LowRankConv2d | LowRankLinear) else _wrap(layer)
        if part == "expert" and "general" in wrapped.parts:
            general = cast(LowRankPart, wrapped.parts["general"]).a.shape[1]
            if rank >= general:
                raise UsageProblem(
                    f"{where}.rank {rank} is not below LoRA's {general} at layer {name}",
                    f"choose a rank under {general}, or raise pretrained.lora.rank",
                )
        wrapped.parts[part] = LowRankPart(matrices, d, k, rank)
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, wrapped)
    return sorted(chosen)


def _layers_by_name(network: nn.Module, layers: Iterable[str]) -> dict[str, str]:
    """Return the names that patterns are matched with -> layer: its own, and those in its groups."""
    found = {layer: layer for layer in layers}
    groups: Mapping[str, Sequence[str]] = getattr(network, "layer_groups", {})
    for group, modules in groups.items():
        for position, module in enumerate(modules):
            for layer in layers:
                if layer == module or layer.startswith(f"{module}."):
                    found[f"{group}.{position}{layer[len(module) :]}"] = layer
    return found


def has_expert(module: nn.Module) -> bool:
    """Return whether a layer within has an expert part."""
    return any(isinstance(m, Parts) and "expert" in m for m in module.modules())


@contextmanager
def theta_g(network: nn.Module) -> Iterator[None]:
    """Compute as theta_g within this context: layers leave their expert parts out."""
    of_layers = [module for module in network.modules() if isinstance(module, Parts)]
    for parts in of_layers:
        parts.general_only = True
    try:
        yield
    finally:
        for parts in of_layers:
            parts.general_only = False


def merge(tensors: Mapping[str, Tensor], *, general_only: bool = False) -> dict[str, Tensor]:
    """Add all parts to their weights; return the tensors of a network without low-rank parts.

    The products are computed from the tensors as given. With averages (EMA) these are the averages of
    W, A and B: the average of the product would need another state, and neither paper says which is
    meant.

    Args:
        tensors: parameter -> tensor, fp32.
        general_only: leave the expert parts out, for theta_g alone (CALL table 4).
    """
    merged = {name: tensor for name, tensor in tensors.items() if ".parts." not in name}
    for name, b in tensors.items():
        layer, _, rest = name.partition(".parts.")
        if not rest.endswith(".b") or (general_only and rest.startswith("expert")):
            continue
        a = tensors[name.removesuffix("b") + "a"]
        weight = merged[f"{layer}.weight"]
        # the layer's own operations in their order, so that the outputs stay what they were
        merged[f"{layer}.weight"] = weight + (b @ a).flatten(0, 1).view_as(weight)
    return merged


def _wrap(layer: nn.Conv2d | nn.Linear) -> LowRankConv2d | LowRankLinear:
    wrapped: LowRankConv2d | LowRankLinear
    if isinstance(layer, nn.Conv2d):
        wrapped = LowRankConv2d(
            layer.in_channels,
            layer.out_channels,
            cast(tuple[int, int], layer.kernel_size),
            cast(tuple[int, int], layer.stride),
            cast(tuple[int, int], layer.padding),
            bias=layer.bias is not None,
            device="meta",
        )
    else:
        wrapped = LowRankLinear(
            layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
        )
    wrapped.weight, wrapped.bias = layer.weight, layer.bias
    wrapped.parts = Parts()
    return wrapped
