"""A lack of memory is told apart from a defect."""

from __future__ import annotations

import pytest
import torch

from whipray.trainers.errors import OutOfMemoryProblem
from whipray.trainers.memory import naming_lack_of_memory


def test_what_pytorch_raises_without_memory_is_named() -> None:
    with (
        pytest.raises(OutOfMemoryProblem, match="allocate memory") as raised,
        naming_lack_of_memory("lower training.micro_batch"),
    ):
        torch.empty(2**55)
    assert raised.value.fix == "lower training.micro_batch"
    assert len(raised.value.what.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_which_errors_say_so(error: Exception, named: bool) -> None:
    expected = OutOfMemoryProblem if named else type(error)
    with pytest.raises(expected), naming_lack_of_memory("f"):
        raise error
