"""What workers say to each other through a store."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented

from whipray.platform.compute.gpus import WorkerGPU, check_distinct
from whipray.platform.compute.peers import StorePeers, run_on_all_or_raise
from whipray.trainers.errors import Problem, UsageProblem

SIZE = 3


@pytest.fixture
def server() -> Iterator[TCPStore]:
    return TCPStore("127.0.0.1", 0, SIZE, is_master=True, wait_for_workers=False)


def peers(server: TCPStore, rank: int, wait_s: float = 60, key: bytes = b"key") -> StorePeers:
    client = TCPStore("127.0.0.1", server.port, SIZE, wait_for_workers=False)
    return StorePeers(client, rank, SIZE, key, wait_s)


def on_all(server: TCPStore, work: object) -> list[object]:
    """What each of three workers returns or raises, by rank."""

    def run(rank: int) -> object:
        try:
            return work(peers(server, rank))  # type: ignore[operator]
        except Exception as error:  # noqa: BLE001
            return error

    with ThreadPoolExecutor(SIZE) as pool:
        return list(pool.map(run, range(SIZE)))


def test_every_worker_has_every_value_by_rank_and_nothing_is_left_in_the_store(
    server: TCPStore,
) -> None:
    def talk(workers: StorePeers) -> list[list[object]]:
        return [workers.all_gather((workers.rank, turn)) for turn in range(4)]

    expected = [[(rank, turn) for rank in range(SIZE)] for turn in range(4)]
    assert on_all(server, talk) == [expected] * SIZE
    assert server.num_keys() == 1  # the last answer


def test_a_problem_of_one_is_raised_by_all(server: TCPStore) -> None:
    def fail(workers: StorePeers) -> None:
        if workers.rank == 2:
            raise Problem("no room", "make some")

    raised = on_all(server, lambda workers: run_on_all_or_raise(workers, lambda: fail(workers)))
    assert [str(problem) for problem in raised] == ["no room — make some"] * SIZE


def test_who_does_not_answer_is_named(server: TCPStore) -> None:
    peers(server, 1)._store.set("1/1", b"")
    with pytest.raises(TimeoutError, match=r"^worker 2 did not answer within 0 s \(scaling\.load"):
        peers(server, 0, wait_s=0.2).all_gather("ready")


def test_what_no_worker_sent_is_not_unpickled(server: TCPStore) -> None:
    for rank in (1, 2):
        stranger = peers(server, rank, key=b"guessed")
        stranger._store.set(f"1/{rank}", stranger._seal(f"1/{rank}", "an order"))
    with pytest.raises(RuntimeError, match="is not of a worker"):
        peers(server, 0).all_gather("ready")


def test_two_workers_on_one_gpu_are_refused_before_nccl_is() -> None:
    first, second = WorkerGPU("a", 0, 2, "GPU-1"), WorkerGPU("a", 1, 2, "GPU-2")
    elsewhere = WorkerGPU("b", 0, 1, "GPU-1")
    check_distinct([first, second, elsewhere])
    with pytest.raises(UsageProblem, match="workers 0 and 2 would share GPU GPU-1 of a, and NCCL"):
        check_distinct([first, second, WorkerGPU("a", 0, 2, "GPU-1")])
    with pytest.raises(UsageProblem, match=r"a has 2 or more workers .* PyTorch finds 1 there"):
        check_distinct([WorkerGPU("a", 0, 1, "GPU-1"), WorkerGPU("a", 1, 1, "")])
