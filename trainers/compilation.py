"""torch.compile of a network, as a whole or block by block, and where its kernels are kept."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import torch

from .disk import cache_folder
from .engine_config import Compile
from .networks import Network

FOLDER_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def compile_network(network: Network, how: Compile) -> None:
    """Have a network compiled at its first steps."""
    if how != "off":
        share_kernels()
    if how == "full":
        network.compile()
    elif how == "graphs":
        network.compile(mode="reduce-overhead")
    elif how == "regional":
        # PyTorch's own access, while it traces a block whose input has a gradient
        warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf")
        for block in network.repeated_blocks():
            # What `Module.compile` sets, but of a function that is the block's own: PyTorch keeps variants
            # by code, and would look for those of all blocks in each, and give up at eight of them.
            block._compiled_call_impl = torch.compile(_own(block.forward))


def _own(method: Callable[..., Any]) -> MethodType:
    """Return a method with a code object of its own."""
    assert isinstance(method, MethodType)
    function = method.__func__
    assert isinstance(function, FunctionType)
    copied = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    return MethodType(copied, method.__self__)


@contextmanager
def uncompiled(how: Compile) -> Iterator[None]:
    """Inside, networks run as they are written: for the few batches that are no steps."""
    if how == "off":
        yield
    else:
        with torch.compiler.set_stance("force_eager"):
            yield


def share_kernels() -> None:
    """Keep compiled kernels in the cache of this machine, for all its trainings and the trials of a sweep.

    PyTorch finds graphs by their content and compiles none twice. A folder that the environment names stays.
    """
    # PyTorch 2.15 puts its own default there as soon as torchvision is imported, and has no public name
    # for it. Workers inherit it, perhaps with another temporary folder.
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    named = os.environ.get(FOLDER_VARIABLE)
    if named is None or Path(named).name == Path(default_cache_dir()).name:
        os.environ[FOLDER_VARIABLE] = str(cache_folder() / "compiled")
