"""How a step is computed: ZeRO, precision, compilation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator, model_validator

from .config import Config

Compile = Literal["off", "regional", "full", "graphs"]


class EngineConfig(Config):
    """How a step is computed; nothing here changes what is computed, beyond rounding."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """ZeRO: 1 shards optimizer state and EMA, 2 gradients too, 3 weights too."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What a GPU leaves in the host's memory, at stages 1 to 3, for networks that do not fit otherwise:
    `optimizer` has the CPU take Adam's step, on its moments and averages; `all`, at stage 3, keeps the weights
    there too. Each step then moves gradients and weights over the bus and waits for the CPU."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs convolutions and products in bfloat16; weights, gradients, Adam's moments and the
    EMA stay fp32."""
    compile: Compile = "off"
    """torch.compile: `regional` compiles each block of the network by itself, which starts sooner, `full` the
    network as one, and `graphs` has a GPU replay that as CUDA graphs, for networks whose steps are so short that
    the host cannot keep up. `true` and `false` are full and off."""
    activation_checkpointing: bool = False
    """Keep only what goes into each block for the backward pass, and compute the block again in it: larger
    batches and networks fit, a step takes about a third longer."""
    channels_last: bool = True
    """Memory layout of images and activations; the fast one for convolutions. The weights stay
    contiguous, which ZeRO's flat buffers and DeepSpeed's broadcast need."""
    tf32: bool = True
    """Allow TF32 in fp32 matrix products and convolutions on a GPU."""
    communication: Literal["fp32", "bf16"] = "fp32"
    """In which workers send each other their gradients. bf16 sends half the bytes and rounds each sum to 8
    bits, by which results then differ with the number of workers; for slow networks. Weights stay fp32, but
    that stage 3 then sends them as bf16 too where `precision` is bf16."""

    @field_validator("compile", mode="before")
    @classmethod
    def _yes_or_no(cls, value: Any) -> Any:
        """Accept what `compile` was before, and what YAML makes of `off`."""
        return {True: "full", False: "off"}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _supported(self) -> EngineConfig:
        if self.compile != "off" and self.zero_stage == 3:
            raise ValueError("compile does not work with zero_stage 3: choose stage 0, 1 or 2")
        least = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(f"offload {self.offload} needs zero_stage {least} or above")
        if self.compile in ("full", "graphs") and self.activation_checkpointing:
            raise ValueError(
                f"activation_checkpointing does not work with compile {self.compile}: choose regional"
            )
        return self
