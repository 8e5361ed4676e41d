"""Something that is expensive to open, opened when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lazy(Generic[T]):
    """Calls `make` once a process; pickles as `make`, so that another process opens its own.

    Args:
        make: opens it; has to pickle where this does.
        made: what this process has open already.
    """

    def __init__(self, make: Callable[[], T], *made: T) -> None:
        self._make = make
        self._made = list(made)

    def __call__(self) -> T:
        if not self._made:
            self._made.append(self._make())
        return self._made[0]

    def __reduce__(self) -> tuple[type[Lazy[T]], tuple[Callable[[], T]]]:
        return Lazy, (self._make,)
