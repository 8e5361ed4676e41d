"""Which worker writes which tensors of a checkpoint, and in which rounds it receives them."""

from __future__ import annotations

from collections.abc import Mapping

NUMBERS_A_ROUND = 1 << 26
"""Received in a round by all workers together: 256 MiB of float32."""
LEAST_NUMBERS = 1 << 22
"""Received in a round by one worker, of many: 16 MiB. What a worker sends in a round is at most its own
part of the state, and that is small where the workers are many."""


def share_evenly(numbers: Mapping[str, int], workers: int) -> dict[str, int]:
    """Return the worker that writes each tensor, so that all write about as much.

    The largest tensor first, each to the worker with the least so far. The same for the same tensors,
    whatever their order.

    Args:
        numbers: tensor -> how many numbers it has.
    """
    load = [0] * workers
    writer = {}
    for name in sorted(numbers, key=lambda name: (-numbers[name], name)):
        least = load.index(min(load))
        writer[name] = least
        load[least] += numbers[name]
    return writer


def in_rounds(
    numbers: Mapping[str, int], writer: Mapping[str, int], workers: int
) -> list[list[list[str]]]:
    """Return the tensors of each round, by the worker that receives and writes them.

    Args:
        numbers: tensor -> how many numbers it has; in this order they are received.
        writer: as `share_evenly` returns it.
    """
    limit = max(LEAST_NUMBERS, NUMBERS_A_ROUND // workers)
    of_worker: list[list[list[str]]] = [[] for _ in range(workers)]
    room = [0] * workers
    for name, size in numbers.items():
        worker = writer[name]
        if size > room[worker]:
            of_worker[worker].append([])
            room[worker] = limit
        of_worker[worker][-1].append(name)
        room[worker] -= size
    return [
        [mine[number] if number < len(mine) else [] for mine in of_worker]
        for number in range(max(map(len, of_worker)))
    ]
