"""How many workers may train, on which settings, and how many failures they survive."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError
from ray.train import FailureConfig, WorkerGroupError
from ray.train import ScalingConfig as Workers
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from support.training import tiny

from whipray.platform.compute.process_group import LOOPBACK, _network
from whipray.platform.compute.ray_policies import FailuresSinceProgress, SteppedScaling
from whipray.trainers.errors import Problem, UsageProblem


def test_only_whole_nodes_need_to_divide_the_batch() -> None:
    nodes = {"scaling__workers": 32, "scaling__min_workers": 24, "training__batch_size": 192}
    assert [*tiny(**nodes, scaling__elastic_step=8).scaling.sizes] == [24, 32]
    with pytest.raises(UsageProblem, match="each of 24 to 32 workers: give a multiple of 17670744"):
        tiny(**nodes)
    with pytest.raises(UsageProblem, match="each of 24, 32 workers: give a multiple of 96, or"):
        tiny(**{**nodes, "training__batch_size": 100}, scaling__elastic_step=8)
    with pytest.raises(UsageProblem, match="workers=32 is not min_workers=24 and steps of elastic"):
        tiny(**nodes, scaling__elastic_step=5)
    with pytest.raises(UsageProblem, match="elastic_step without min_workers"):
        tiny(scaling__workers=2, scaling__elastic_step=2)


@pytest.mark.parametrize(
    ("free", "workers"),
    [([8, 8, 8, 8], 32), ([8, 8, 8, 7], 24), ([8, 8, 7], 23), ([8, 8, 8, 8, 8], 32), ([6] * 5, 24)],
)
def test_a_training_grows_and_shrinks_by_nodes(free: list[int], workers: int) -> None:
    """23 is fewer than it may have: it waits."""
    each = {"CPU": 2, "GPU": 1}
    policy = SteppedScaling(
        Workers(num_workers=(24, 32), use_gpu=True, resources_per_worker=each), 8
    )
    nodes = {f"node-{i}": {"CPU": 100.0, "GPU": float(gpus)} for i, gpus in enumerate(free)}
    assert policy._count_possible_workers(nodes) == workers


def test_failures_are_counted_since_the_last_checkpoint() -> None:
    reached: list[str | Exception] = ["images-1"]

    def latest() -> str:
        if isinstance(reached[-1], Exception):
            raise reached[-1]
        return reached[-1]

    policy = FailuresSinceProgress(FailureConfig(max_failures=2), latest)
    lost = WorkerGroupError("lost", {0: ActorDiedError()})
    on = FailureDecision.RETRY
    assert [policy.make_decision(lost) for _ in range(2)] == [on, on]
    reached.append("images-2")
    assert [policy.make_decision(lost) for _ in range(2)] == [on, on]
    reached.append(Problem("no answer", "wait"))  # says nothing about progress
    assert policy.make_decision(lost) == FailureDecision.RAISE


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("HF_TOKEN", "x", "may hold a secret"),
        ("AWS_PROFILE", "x", "may hold a secret"),
        ("NCCL_CONF", "http://me:word@host", "NCCL_CONF holds a login"),
        ("CUDA_VISIBLE_DEVICES", "0", "is set by Whipray or Ray"),
        ("A=B", "0", "no name of an environment variable"),
    ],
)
def test_variables_that_workers_are_not_given(name: str, value: str, problem: str) -> None:
    with pytest.raises(UsageProblem, match=problem) as error:
        tiny(scaling__environment={name: value})
    assert "word" not in str(error.value)


def test_nccl_takes_the_network_through_which_the_workers_met_where_there_is_one() -> None:
    one, several = _network(LOOPBACK, True), _network(LOOPBACK, False)
    assert several == {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "=lo"}
    assert one == {"GLOO_SOCKET_IFNAME": "lo"}
    assert _network("192.0.2.1", False) == {}  # of no interface here
    assert tiny(scaling__environment={"NCCL_IB_PKEY": 1}).scaling.environment == {
        "NCCL_IB_PKEY": "1"
    }
