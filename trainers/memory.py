"""Too little memory, of a GPU or of the machine, which PyTorch reports in many ways."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import OutOfMemoryProblem, Problem

PHRASES = (
    "out of memory",
    "alloc_failed",  # cuBLAS and cuDNN
    "can't allocate memory",
    "could not create a primitive",  # oneDNN, under `ulimit -v` for example
    "could not create a memory object",
)
"""In the texts of PyTorch 2's errors, which have no type of their own but on a GPU."""


@contextmanager
def naming_lack_of_memory(fix: str) -> Iterator[None]:
    """Raise `OutOfMemoryProblem` with this fix where the block runs out of memory."""
    try:
        yield
    except Exception as error:
        if problem := memory_problem(error, fix):
            raise problem from error
        raise


def memory_problem(error: Exception, fix: str) -> OutOfMemoryProblem | None:
    """Return the problem with this fix if an error says that memory is lacking."""
    if isinstance(error, Problem) or not _is_lack_of_memory(error):
        return None
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return OutOfMemoryProblem(f"the memory did not suffice: {first}", fix)


def _is_lack_of_memory(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):
        return says_lack_of_memory(str(error))
    return isinstance(error, MemoryError)


def says_lack_of_memory(text: str) -> bool:
    """Return whether the text of an error says so."""
    return any(phrase in text.lower() for phrase in PHRASES)
