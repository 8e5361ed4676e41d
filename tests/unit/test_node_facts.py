"""What a node lacks for a training, in one line each, before a GPU is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from whipray.platform.compute.actor_pool import PoolActor
from whipray.platform.compute.node_facts import (
    GIB,
    MIB,
    Needs,
    NodeFacts,
    doubts,
    examine,
    lacks,
    limits_text,
)
from whipray.trainers.errors import DataProblem, UsageProblem

NODE = NodeFacts(
    host="node-3",
    gpus=("H100",) * 8,
    gpus_of_ray=8,
    shared_bytes=16 * GIB,
    open_files=1 << 20,
    locked_bytes=-1,
    has_rdma=True,
    cache="/nvme/cache",
    cache_bytes=100 * GIB,
    scratch="/nvme/tmp",
    scratch_bytes=100 * GIB,
    network_mbps=0,
    problem=None,
)
NEEDS = Needs(uses_gpus=True, several_nodes=True, cache_bytes=2 * GIB, scratch_bytes=10 * GIB)


@pytest.mark.parametrize(
    ("has", "line"),
    [
        ({"gpus": ()}, "node-3: Ray gives workers 8 GPUs, and PyTorch finds none — "),
        (
            {"shared_bytes": 64 * MIB},
            "node-3: /dev/shm has 64 MiB free, and NCCL needs 512 MiB for",
        ),
        (
            {"scratch_bytes": GIB},
            "node-3: TMPDIR (/nvme/tmp) has 1.0 GiB free, and a checkpoint has",
        ),
        (
            {"problem": DataProblem("no image at /data/a.jpg", "mount it")},
            "node-3: no image at /data/a.jpg — mount it",
        ),
    ],
)
def test_what_would_end_a_training_is_refused(has: dict[str, object], line: str) -> None:
    (problem,) = lacks(replace(NODE, **has), NEEDS)  # type: ignore[arg-type]
    assert str(problem).startswith(line)


@pytest.mark.parametrize(
    ("has", "line"),
    [
        ({"open_files": 1024}, "node-3: a process may open 1024 files (`ulimit -n`)"),
        ({"locked_bytes": 64 * 1024}, "node-3: a process may lock 0 MiB of memory (`ulimit -l`)"),
        (
            {"cache_bytes": GIB},
            "node-3: the cache (/nvme/cache) has room for 1.0 GiB, and the images",
        ),
        ({"has_rdma": False, "network_mbps": 1000}, "node-3: its network has 1 Gb/s"),
    ],
)
def test_what_may_be_too_little_is_said(has: dict[str, object], line: str) -> None:
    node = replace(NODE, **has)  # type: ignore[arg-type]
    (doubt,) = doubts(node, NEEDS)
    assert doubt.startswith(line)
    assert [*lacks(node, NEEDS)] == []


def test_a_node_that_suffices_is_passed_over_in_silence() -> None:
    assert [*lacks(NODE, NEEDS), *doubts(NODE, NEEDS)] == []
    cpu = replace(NODE, gpus=(), gpus_of_ray=0, shared_bytes=0, open_files=1024, network_mbps=100)
    assert [*lacks(cpu, Needs(False, False)), *doubts(cpu, Needs(False, False))] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_ray_gives_and_pytorch_does_not_find_is_no_reason_to_use_the_cpu() -> None:
    assert PoolActor(str, 0).apply(3) == "3"
    with pytest.raises(UsageProblem, match="asks for 1 GPU, and PyTorch finds none"):
        PoolActor(str, 0.25).apply(3)


def test_a_node_tells_of_itself(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIPRAY_CACHE", f"{tmp_path}/not/yet")

    def missing() -> None:
        raise DataProblem("no image", "mount it")

    here = examine("127.0.0.1", 0, missing)
    assert (here.cache, str(here.problem)) == (f"{tmp_path}/not/yet", "no image — mount it")
    assert min(here.cache_bytes, here.scratch_bytes, here.shared_bytes, here.open_files) > 0
    assert "in /dev/shm" in limits_text(here)
