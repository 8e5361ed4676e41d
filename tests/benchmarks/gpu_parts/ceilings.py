"""What this card can do at most: matrix products, copies, and the network's own convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .setting import Setting, parse
from .timing import timed

SETS = 3
"""Inputs taken in turn, so that what is timed does not come out of the cache."""


@contextmanager
def fp32_products(tf32: bool) -> Iterator[None]:
    """Inside, fp32 products and convolutions use TF32 or do not."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def product_flops(setting: Setting, dtype: torch.dtype, tf32: bool = False) -> float:
    """FLOP/s of a large square matrix product on random data."""
    side = 256 if setting.toy else 8192
    pairs = [
        [torch.randn(side, side, device=setting.device).to(dtype) for _ in range(2)]
        for _ in range(SETS)
    ]
    out = torch.empty(side, side, device=setting.device, dtype=dtype)
    turn = iter(range(10**9))

    def call() -> None:
        a, b = pairs[next(turn) % SETS]
        torch.mm(a, b, out=out)

    with fp32_products(tf32):
        return 2 * side**3 / timed(setting, call).seconds


def copy_bytes(setting: Setting) -> float:
    """Bytes/s of a copy within the device's memory, read and written."""
    numbers = 2**20 if setting.toy else 2**29
    source = [torch.randn(numbers, device=setting.device) for _ in range(2)]
    target = torch.empty_like(source[0])
    turn = iter(range(10**9))
    call = timed(setting, lambda: target.copy_(source[next(turn) % 2]))
    return 2 * target.numel() * target.element_size() / call.seconds


def convolution_flops(setting: Setting, channels_last: bool) -> float:
    """FLOP/s of the forward pass of the 32x32 network's commonest convolution, bf16, batch 512."""
    rows, channels, side = (4, 16, 8) if setting.toy else (512, 256, 16)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def random(*shape: int) -> Tensor:
        made = torch.randn(shape, device=setting.device).to(torch.bfloat16)
        return made.contiguous(memory_format=layout)

    images = [random(rows, channels, side, side) for _ in range(SETS)]
    kernel = random(channels, channels, 3, 3)
    turn = iter(range(10**9))
    call = timed(setting, lambda: torch.conv2d(images[next(turn) % SETS], kernel, None, 1, 1))
    return 2 * rows * side**2 * channels**2 * 9 / call.seconds


def main(setting: Setting) -> None:
    with torch.no_grad():
        for what, dtype, tf32 in (
            ("bf16", torch.bfloat16, False),
            ("fp32 in TF32", torch.float32, True),
            ("fp32", torch.float32, False),
        ):
            flops = product_flops(setting, dtype, tf32)
            setting.say(f"matrix product, {what}", {"TFLOP/s": flops / 1e12})
        setting.say("device copy, read + written", {"GB/s": copy_bytes(setting) / 1e9})
        for what, channels_last in (("channels last", True), ("channels first", False)):
            flops = convolution_flops(setting, channels_last)
            setting.say(f"3x3 convolution of 256, bf16, {what}", {"TFLOP/s": flops / 1e12})


if __name__ == "__main__":
    main(parse("ceilings"))
