"""How a step is computed: ZeRO, precision, compilation."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from .config import Config


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
    communication: Literal["fp32", "bf16"] = "fp32"
    """In which workers send each other their gradients. bf16 sends half the bytes and rounds each sum to 8
    bits, by which results then differ with the number of workers; for slow networks. Weights stay fp32."""

    @model_validator(mode="after")
    def _supported(self) -> EngineConfig:
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile does not work with zero_stage 3: choose stage 0, 1 or 2")
        return self
