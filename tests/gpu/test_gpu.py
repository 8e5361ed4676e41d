"""A GPU computes what the CPU computes, to rounding, and no step waits for it.

`make gpu-bench` measures; this only looks whether it is right. `support.devices` says what is compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: PyTorch sees none here", allow_module_level=True)

from support import devices

PRECISIONS = ("fp32", "bf16")


@pytest.fixture(scope="module")
def reference() -> dict[str, list[float]]:
    """The CPU's losses in fp32, eager."""
    found: dict[str, list[float]] = devices.on_the_cpu("all_losses")
    return found


@pytest.mark.parametrize("compiled", ["off", "regional", "full", "graphs"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("objective", devices.OBJECTIVES)
def test_losses_are_the_cpus(
    reference: dict[str, list[float]], objective: str, precision: str, compiled: str
) -> None:
    found = devices.losses(objective, {"precision": precision, "compile": compiled})
    assert found == pytest.approx(reference[objective], rel=devices.TOLERANCES[precision])


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_losses_at_every_stage_of_zero(reference: dict[str, list[float]], stage: int) -> None:
    found = devices.losses("cbdm", {"zero_stage": stage})
    assert found == pytest.approx(reference["cbdm"], rel=devices.TOLERANCES["fp32"])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_moves_to_the_gpu_and_back(tmp_path: Path, precision: str) -> None:
    folder = str(tmp_path)
    devices.on_the_cpu("go_on", folder=folder, steps=2, engine={})
    there = devices.go_on(folder, 4, {"precision": precision})
    back = devices.on_the_cpu("go_on", folder=folder, steps=6, engine={})
    for losses in (there, back):
        tolerance = devices.TOLERANCES[precision]
        assert losses["reproduced"] == pytest.approx(losses["saved"], rel=tolerance)


def test_images_are_the_cpus() -> None:
    expected, found = devices.on_the_cpu("sampled"), devices.sampled()
    assert found == pytest.approx(expected, abs=devices.IMAGE_TOLERANCE)


@pytest.mark.parametrize("engine", [{}, {"precision": "bf16"}, {"compile": "regional"}], ids=str)
@pytest.mark.parametrize("objective", devices.OBJECTIVES)
def test_no_step_waits_for_the_gpu(objective: str, engine: dict[str, Any]) -> None:
    torch.compiler.reset()
    config = devices.config_of(objective, engine)
    with devices.opened(config, devices.choose_device()) as training:
        assert devices.waits_of(training) == []
