"""What can be known before a training is checked before it, and a refused command changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.training import tiny, train

from whipray.platform.compute.gpus import check_gpus
from whipray.trainers.errors import UsageProblem

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@no_gpu
def test_a_gpu_that_is_asked_for_and_absent_is_an_error(tmp_path: Path) -> None:
    check_gpus(0)
    with pytest.raises(UsageProblem, match="asks for 2 GPUs, and PyTorch finds none"):
        check_gpus(1, workers=2)
    with pytest.raises(UsageProblem, match="asks for 1 GPU"):
        train(tiny(scaling__gpus_per_worker=1), tmp_path)
    assert not list(tmp_path.iterdir())
