"""What the workers of a training say to each other beside its tensors: objects, and problems that all raise.

A collective of the training's process group has to begin on all workers within `scaling.timeout_s`. Whatever
may take longer on one of them, such as decoding images or a download, is agreed on through a store instead.
"""

from __future__ import annotations

import hashlib
import hmac
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

DIGEST = hashlib.sha256
DIGEST_BYTES = DIGEST().digest_size
MARGIN_S = 60.0
"""By how much the others wait longer than worker 0, which knows whom all of them wait for."""


class Peers(Protocol):
    """The workers of a training, of which this process is one."""

    rank: int
    size: int

    def all_gather(self, value: T) -> list[T]:
        """Return every worker's value, by rank; each of them calls it, in the same order."""

    def begin_group(self) -> None:
        """Begin the process group of the training, for its tensors; each worker calls it once."""


class GroupPeers:
    """The workers of the process group that this process has joined; it alone if there is none."""

    def __init__(self) -> None:
        """Join a group of this process alone, unless there is one."""
        import torch.distributed as dist

        from ...trainers.devices import choose_device, join_workers

        join_workers(choose_device())
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def all_gather(self, value: T) -> list[T]:
        """See `Peers`."""
        import torch.distributed as dist

        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def begin_group(self) -> None:
        """Do nothing: it has begun."""


class StorePeers:
    """Workers that share a key-value store before they have a process group, and beside it.

    Args:
        store: a `torch.distributed` store, of which this process uses this client alone.
        rank: of this worker.
        size: number of workers.
        key: shared by the workers and nobody else: a store takes what anybody sends, and objects are
            pickled.
        wait_s: how long one of them may be waited for.
        begin_group: see `Peers`.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        key: bytes,
        wait_s: float,
        begin_group: Callable[[], None] = lambda: None,
    ) -> None:
        self.rank, self.size = rank, size
        self._store, self._key, self._wait_s = store, key, wait_s
        self._begin_group = begin_group
        self._round = 0

    def begin_group(self) -> None:
        """See `Peers`."""
        self._begin_group()

    def all_gather(self, value: T) -> list[T]:
        """See `Peers`. Worker 0 collects, so that each worker makes a few requests, not one a worker.

        Raises:
            TimeoutError: a worker was not ready in time.
        """
        self._round += 1
        everybody = f"{self._round}/all"
        own = [f"{self._round}/{rank}" for rank in range(self.size)]
        if self.rank != 0:
            self._store.set(own[self.rank], self._seal(own[self.rank], value))
            self._wait([everybody], self._wait_s + MARGIN_S, lambda: "worker 0 did not answer")
            gathered: list[T] = self._open(everybody, self._store.get(everybody))
            return gathered
        self._wait(own[1:], self._wait_s, lambda: self._missing(own))
        others = zip(own[1:], self._store.multi_get(own[1:]) if self.size > 1 else [], strict=True)
        values = [value, *(self._open(name, sealed) for name, sealed in others)]
        for name in own[1:]:
            self._store.delete_key(name)
        # All have read what was collected before, or they would not have sent this.
        self._store.delete_key(f"{self._round - 1}/all")
        if self.size > 1:
            self._store.set(everybody, self._seal(everybody, values))
        return values

    def _wait(self, names: list[str], wait_s: float, what: Callable[[], str]) -> None:
        from torch.distributed import DistStoreError

        try:
            if names:
                self._store.wait(names, timedelta(seconds=wait_s))
        except DistStoreError as error:
            raise TimeoutError(
                f"{what()} within {wait_s:.0f} s (scaling.load_timeout_s), while data, models or checkpoints "
                "were loaded or saved"
            ) from error

    def _missing(self, names: list[str]) -> str:
        missing = [
            str(rank) for rank in range(1, self.size) if not self._store.check([names[rank]])
        ]
        return f"worker{'s' if len(missing) > 1 else ''} {', '.join(missing)} did not answer"

    def _seal(self, name: str, value: Any) -> bytes:
        payload = pickle.dumps(value)
        return self._digest(name, payload) + payload

    def _open(self, name: str, sealed: bytes) -> Any:
        digest, payload = sealed[:DIGEST_BYTES], sealed[DIGEST_BYTES:]
        if not hmac.compare_digest(digest, self._digest(name, payload)):
            raise RuntimeError(f"what the store of the workers holds as {name} is not of a worker")
        return pickle.loads(payload)

    def _digest(self, name: str, payload: bytes) -> bytes:
        return hmac.digest(self._key, name.encode() + b"\0" + payload, DIGEST)


def run_on_all_or_raise(peers: Peers, action: Callable[[], T]) -> T:
    """Run an action on every worker; if one has a problem, all of them raise it.

    A worker that failed alone would leave the others waiting in the next collective.
    """
    from ...trainers.errors import Problem

    problem: Problem | None = None
    result: T | None = None
    try:
        result = action()
    except Problem as error:
        problem = error
    for problem_of_any in peers.all_gather(problem):
        if problem_of_any is not None:
            raise problem_of_any
    return result  # type: ignore[return-value]  # only None where the action returns None
