"""Checkpoints that several workers copy and write together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.state_copies import Copied, copied
from support.workers import Workers

pytestmark = pytest.mark.slow

NUMBERS = 353 * 347 + 347 + 347 + 1


@pytest.fixture(scope="module")
def groups() -> Iterator[dict[int, Workers]]:
    with Workers(1) as one, Workers(2) as two, Workers(3) as three:
        yield {1: one, 2: two, 3: three}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_copy_is_what_deepspeed_assembles_in_few_collectives(
    groups: dict[int, Workers], size: int, stage: int
) -> None:
    copies: list[Copied] = groups[size].run(copied, stage)
    for copy in copies:
        if isinstance(copy, Exception):
            raise copy
        # once who has what, then one exchange for all tensors of all kinds: they fit into one round
        exchanged = {"all_gather_object": 1, "all_to_all_single": 1} if size > 1 and stage else {}
        assert copy.collectives == exchanged
    full = copies[0].full
    assert {name.partition("/")[2] for name in full} == {
        *("wide.weight", "wide.bias", "narrow.weight", "scale")
    }
    written = [name for copy in copies for name in copy.tensors]
    assert sorted(written) == sorted(full)  # each by one worker
    for copy in copies:
        for name, tensor in copy.tensors.items():
            assert torch.equal(tensor.flatten(), full[name].flatten()), name
        assert min(copy.share.files).startswith("averages-")  # of each, to be found
    squares = sum(sum(copy.share.squares.values()) for copy in copies)
    assert squares == pytest.approx(sum(float(t.double().square().sum()) for t in full.values()))
    assert sum(tensor.numel() for copy in copies for tensor in copy.tensors.values()) == 5 * NUMBERS
