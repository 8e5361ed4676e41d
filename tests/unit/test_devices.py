"""What a GPU would do otherwise, shown on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from support.training import BATCH, config_of, digits_alone
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from whipray.trainers.checkpointing import ResumePoint
from whipray.trainers.data import Splits
from whipray.trainers.loop import Training
from whipray.trainers.networks import UNetConfig
from whipray.trainers.networks.unet import Attention

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture(scope="module")
def data() -> Splits:
    return digits_alone()


Open = Callable[..., Training]


@pytest.fixture
def training_of(data: Splits) -> Iterator[Open]:
    """A training, closed after the test."""
    opened: list[Training] = []

    def make(resume: ResumePoint | None = None, **changes: Any) -> Training:
        opened.append(Training(config_of(**changes), data, CPU, resume))
        return opened[-1]

    yield make
    for training in opened:
        training.close()


def step(training: Training, number: int) -> None:
    training.engine.backward(training._loss(number * BATCH, 0).total)
    training.engine.step(1e-3, {"ema": 0.9})


# -- DeepSpeed's ways with a device ------------------------------------------------------------------


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_bf16_reaches_the_network_where_deepspeed_looks_for_autocast(
    training_of: Open, stage: int
) -> None:
    """DeepSpeed asks only whether CUDA's autocast is on, and if so switches it off inside."""
    asked = torch.is_autocast_enabled

    def as_on_a_gpu(device_type: str = "cpu") -> bool:
        return asked(device_type)

    training = training_of(engine__precision="bf16", engine__zero_stage=stage)
    found: set[tuple[torch.dtype, torch.dtype]] = set()

    def note(module: nn.Conv2d, inputs: Any, output: Tensor) -> None:  # noqa: ARG001
        found.add((output.dtype, module.weight.dtype))

    for module in training.engine.network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    with patch("torch.is_autocast_enabled", as_on_a_gpu):
        loss = training._loss(0, 0)
    assert found == {(torch.bfloat16, torch.float32)}
    assert loss.total.dtype == torch.float32


def test_gradients_stay_fp32_under_bf16(training_of: Open) -> None:
    training = training_of(engine__precision="bf16")
    training.engine.backward(training._loss(0, 0).total)
    assert {p.grad.dtype for p in training.engine.trained.values()} == {torch.float32}


def test_a_step_does_not_wait_for_the_device(training_of: Open) -> None:
    from deepspeed.accelerator import get_accelerator

    training = training_of()
    accelerator = get_accelerator()
    with patch.object(accelerator, "synchronize", wraps=accelerator.synchronize) as waits:
        for number in range(6):  # the throughput timer of DeepSpeed begins at its third step
            step(training, number)
    assert waits.call_count == 0


def test_one_worker_sends_its_gradients_to_nobody(training_of: Open) -> None:
    training = training_of()
    with patch.object(dist, "all_reduce", wraps=dist.all_reduce) as sent:
        step(training, 0)
    assert sent.call_count == 0


# -- the same numbers on every device ----------------------------------------------------------------

SHARES = ((0, 5), (3, 2), (2**40, 3))
"""First row and rows."""
SHAPES = ((3, 5, 5), (2, 4, 4), (1,))
"""Of an odd and an even number of values, and of one."""


@pytest.mark.slow
def test_a_gpus_kernel_makes_the_noise_of_the_cpu() -> None:
    """Triton's interpreter runs it on the CPU, in a process of its own: it decides at the import."""
    script = f"""
import torch
from whipray.trainers import gpu_noise
from whipray.trainers.randomness import BatchRandom
for first, rows in {SHARES}:
    for shape in {SHAPES}:
        for seed in range(3):
            rng = BatchRandom(seed, 7, first, rows, torch.device("cpu"))
            size = torch.Size(shape).numel()
            found = gpu_noise.normal(rng._key("eps"), first, rows, size, rng.device)
            expected = rng.normal("eps", shape).flatten(1)
            assert (found - expected).abs().max() < 5e-6, (first, rows, shape)
"""
    pytest.importorskip("triton")
    subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"TRITON_INTERPRET": "1"}, check=True
    )


# -- kernels that a GPU chooses by the layout of their inputs ------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_attention_can_be_fused(layout: torch.memory_format) -> None:
    """A GPU's GroupNorm gives channels first, and its fused kernels take no strided last dimension."""
    config = UNetConfig(base_channels=8, norm_groups=4, attention_heads=2)
    x = torch.randn(2, 8, 4, 4, device=META).contiguous(memory_format=layout)
    attention = Attention(8, config).to(META)
    seen: list[Tensor] = []

    def note(*inputs: Tensor) -> Tensor:
        seen.extend(inputs)
        return scaled_dot_product_attention(*inputs)

    with patch("torch.nn.functional.scaled_dot_product_attention", note):
        attention(x)
    assert [tuple(tensor.shape) for tensor in seen] == [(2, 2, 16, 4)] * 3
    assert [tensor.stride(-1) for tensor in seen] == [1] * 3
