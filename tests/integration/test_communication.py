"""What two workers send each other in a step, counted, and when."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.traffic import sent_by_a_step, trained_in_buckets
from support.training import BATCH
from support.workers import Workers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two() -> Iterator[Workers]:
    with Workers(2) as workers:
        yield workers


@pytest.mark.parametrize(
    ("stage", "pieces", "communication", "sent"),
    [
        (0, 4, "fp32", 2.0),
        (0, 1, "bf16", 1.0),
        (1, 4, "fp32", 2.0),
        (1, 1, "bf16", 1.5),  # the updated weights are sent in fp32
        (2, 4, "fp32", 5.0),
    ],
)
def test_a_step_sends_no_more_than_it_must(
    two: Workers, stage: int, pieces: int, communication: str, sent: float
) -> None:
    """All-reduce 2 P at stage 0; each gradient to its owner and weights from it 2 P at 1 and 2."""
    changes = {
        "engine__zero_stage": stage,
        "engine__communication": communication,
        "training__micro_batch": BATCH // 2 // pieces,
    }
    assert two.run(sent_by_a_step, changes) == [pytest.approx(sent, rel=1e-3)] * 2


def test_buckets_are_sent_while_the_backward_pass_goes_on(two: Workers) -> None:
    whole, parts = two.run(trained_in_buckets, 10**9), two.run(trained_in_buckets, 1000)
    assert whole[0][1:] == (1, 0)
    for weights, buckets, before_the_end in parts:
        assert buckets > 3
        assert before_the_end >= buckets - 2
        for found, expected in zip(weights, whole[0][0], strict=True):
            assert torch.equal(found, expected)
