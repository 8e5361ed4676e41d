"""What a GPU would do otherwise, shown on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from support.folder_hooks import FolderHooks
from support.training import BATCH, TINY
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from whipray.platform.config.layers import Layer, resolve
from whipray.trainers.augmentations import ADAConfig, AugmentationConfig, DiffAugConfig
from whipray.trainers.checkpoint import verify
from whipray.trainers.checkpointing import ResumePoint
from whipray.trainers.data import Splits
from whipray.trainers.devices import join_workers
from whipray.trainers.loop import Training
from whipray.trainers.networks import UNet, UNetConfig
from whipray.trainers.networks.unet import Attention
from whipray.trainers.objectives import (
    Batch,
    CALLConfig,
    CBDMConfig,
    DDPMConfig,
    FocalConfig,
    OCConfig,
    TCFGConfig,
)
from whipray.trainers.processes import VPConfig
from whipray.trainers.randomness import BatchRandom
from whipray.trainers.trainer_config import TrainerConfig

CPU, META = torch.device("cpu"), torch.device("meta")


def config_of(**changes: Any) -> TrainerConfig:
    values = {key.replace("__", "."): value for key, value in changes.items()}
    base = {key: value for key, value in TINY.items() if key in TrainerConfig.model_fields}
    return resolve(TrainerConfig, [Layer("tiny", base), Layer("test", values)]).value


@pytest.fixture(scope="module")
def data() -> Splits:
    join_workers(CPU)
    torch.set_num_threads(1)
    return config_of().data.load(Path())


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
        training.engine.close()


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


def other_noise(rng: BatchRandom, stream: str, shape: Sequence[int]) -> Tensor:
    """Sample other noise, as a device with its own generator does, unless it is portable."""
    return NORMAL(rng if rng.portable else replace(rng, seed=rng.seed + 1), stream, shape)


NORMAL = BatchRandom.normal


def test_a_run_goes_on_where_the_generator_samples_other_noise(
    training_of: Open, tmp_path: Path
) -> None:
    """As on a GPU after a CPU: the next loss and the validation loss are those of the CPU."""
    first = training_of()
    first.run(FolderHooks(tmp_path), first.config.model_dump(mode="json"))
    folder = max(tmp_path.iterdir())
    resume = ResumePoint(folder, verify(folder))
    on_cpu = first._loss(0, 0).total.item()
    with patch.object(BatchRandom, "normal", other_noise):
        second = training_of(resume)
        assert second._next_loss() == pytest.approx(resume.manifest.next_loss, rel=1e-6)
        assert second._validation_loss() == pytest.approx(first._validation_loss(), rel=1e-6)
        assert second._loss(0, 0).total.item() != pytest.approx(on_cpu, rel=1e-3)


def test_portable_noise_is_the_cpus_on_every_device() -> None:
    cpu = BatchRandom(1, 2, 3, 10, CPU)
    assert torch.equal(replace(cpu, portable=True).normal("s", (2,)), cpu.normal("s", (2,)))
    elsewhere = BatchRandom(1, 2, 3, 10, META, portable=True).normal("s", (2,))
    assert elsewhere.device.type == "meta"
    assert elsewhere.shape == (10, 2)


# -- every tensor on the device where it is used -----------------------------------------------------

COUNTS, ROWS = [60, 25, 12, 3], 16
OBJECTIVES = [
    DDPMConfig(),
    CBDMConfig(),
    CBDMConfig(gamma=0.0),
    CBDMConfig(thin=0.5, dropout_masks="shared"),
    OCConfig(),
    OCConfig(mode="full", tr_tau=1.0, estimator="expected"),
    CALLConfig(base=CBDMConfig(), margin=1.0),
    CALLConfig(),
    FocalConfig(),
    TCFGConfig(),
]


def batch_elsewhere(extra: dict[str, Tensor] | None = None) -> Batch:
    labels = torch.zeros(ROWS, dtype=torch.int64, device=META)
    return Batch(torch.zeros(ROWS, 3, 8, 8, device=META), labels, extra or {})


@pytest.mark.parametrize("config", OBJECTIVES, ids=lambda c: c.name)
def test_an_objective_keeps_to_the_device(config: Any) -> None:
    """Tensors of the device `meta` refuse to be mixed with the CPU's, as a GPU's do."""
    sizes = {"base_channels": 8, "norm_groups": 4, "channel_mult": (1, 2)}
    sizes |= {"blocks_per_level": 1, "attention_resolutions": (4,)}
    model = UNetConfig(**sizes, guidance_embedding=config.name == "tcfg")
    with META:
        network = UNet(model, (3, 8, 8), len(COUNTS))
        config.prepare(network)
    network.to(META)
    process = VPConfig().build(META)
    rng = BatchRandom(0, 0, 0, ROWS, META, portable=True)
    loss = config.build(COUNTS)(network, batch_elsewhere(), process, rng, 0)
    assert {value.device.type for value in (loss.total, *loss.terms.values())} == {"meta"}
    loss.total.backward()


@pytest.mark.parametrize("config", [ADAConfig(probability=1.0), DiffAugConfig()])
def test_an_augmentation_keeps_to_the_device(config: AugmentationConfig) -> None:
    images, numbers = config(batch_elsewhere().images, BatchRandom(0, 0, 0, ROWS, META))
    assert images.device.type == "meta"
    assert numbers is None or numbers.device.type == "meta"


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
