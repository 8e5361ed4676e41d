"""Standard normal noise on a GPU in one launch: the numbers that `BatchRandom.normal` has on the CPU.

A kernel of Philox 4x64-10 (Salmon et al. 2011) that counts as NumPy's does, and Box & Muller's transform in
float64, since a GPU's fast float32 logarithm has few right digits near 1. What differs from the CPU is rounding.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

PAIRS = 256
"""Pairs of numbers that a program makes."""
TURN: tl.constexpr = tl.constexpr(2 * math.pi * 2.0**-32)
"""The angle of one step of 32 random bits."""


def normal(key: int, first_row: int, rows: int, size: int, device: torch.device) -> Tensor:
    """Return standard normal noise, (rows, size) float32 on the device.

    Args:
        key: of the stream, in [0, 2^128).
        first_row: which row of the stream is the first one.
        size: numbers of a row.
    """
    noise = torch.empty(rows, size, device=device)
    pairs = -(-size // 2)
    if rows:
        programs = (triton.cdiv(rows * pairs, PAIRS),)
        with torch.cuda.device_of(noise):
            _normal[programs](
                noise,
                key % 2**64,
                key >> 64,
                first_row,
                rows,
                size,
                pairs,
                PAIRS,
                enable_fp_fusion=True,  # Triton 3.9 warns where it is not said
            )
    return noise


@triton.jit(do_not_specialize=["low", "high", "first_row"])  # they change: compiled once for all
def _normal(
    noise,
    low: tl.uint64,
    high: tl.uint64,
    first_row: tl.int64,
    rows,
    size,
    pairs,
    PAIRS: tl.constexpr,
):
    """Make some pairs: a pair's radius and angle come from the two halves of its row's random bits."""
    i = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS)
    row, pair = i // pairs, i % pairs
    first_word = (first_row + row) * pairs
    u = (_bits(low, high, first_word, pair) + 1).to(tl.float64) * 2.0**-32  # in (0, 1]
    radius = tl.sqrt(-2 * tl.log(u))
    angle = _bits(low, high, first_word, pairs + pair).to(tl.float64) * TURN
    out = noise + row * size + pair
    inside = row < rows
    tl.store(out, (radius * tl.cos(angle)).to(tl.float32), inside)
    tl.store(out + pairs, (radius * tl.sin(angle)).to(tl.float32), inside & (pairs + pair < size))


@triton.jit
def _bits(low, high, first_word, half):
    """Return the `half`-th 32 bits of the stream, counted from a word of it, as float32."""
    word = first_word + half // 2
    counter = (word // 4 + 1).to(tl.uint64)  # NumPy counts up before it computes
    nothing = counter * 0
    k_0, k_1 = nothing + low.to(tl.uint64), nothing + high.to(tl.uint64)
    w_0, w_1, w_2, w_3 = tl.philox_impl(counter, nothing, nothing, nothing, k_0, k_1)
    which = word % 4
    bits = tl.where(which < 2, tl.where(which == 0, w_0, w_1), tl.where(which == 2, w_2, w_3))
    return tl.where(half % 2 == 0, bits & 0xFFFFFFFF, bits >> 32).to(tl.uint32).to(tl.float32)
