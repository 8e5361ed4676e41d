"""Random numbers belong to rows of the global batch, however these are shared out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from whipray.trainers.randomness import BLOCK, BatchRandom, derive_seed, random_words

CPU = torch.device("cpu")
WEIGHTS = torch.tensor([5.0, 0.0, 1.0, 4.0], dtype=torch.float64)
KINDS = {
    "normal": lambda rng, stream: rng.normal(stream, (2, 3)),
    "integers": lambda rng, stream: rng.integers(stream, 1000),
    "uniform": lambda rng, stream: rng.uniform(stream, 2),
    "categorical": lambda rng, stream: rng.categorical(stream, WEIGHTS, 3),
}


def rows_of(kind: str, first: int, rows: int, stream: str = "a", seed: int = 1, step: int = 9):
    return KINDS[kind](BatchRandom(seed, step, first, rows, CPU), stream)


@pytest.mark.parametrize("kind", KINDS)
def test_a_share_of_the_rows_is_that_share_of_the_whole(kind: str) -> None:
    whole = rows_of(kind, 0, 40)
    assert len(whole) == 40
    for first in range(40):
        for rows in {1, 2, 7, 8, 9, 40 - first}:
            if first + rows <= 40:
                assert torch.equal(rows_of(kind, first, rows), whole[first : first + rows])


@pytest.mark.parametrize("kind", KINDS)
def test_stream_step_seed_and_block_all_matter(kind: str) -> None:
    one = rows_of(kind, 0, 8)
    assert torch.equal(one, rows_of(kind, 0, 8))
    others = [
        rows_of(kind, 0, 8, stream="b"),
        rows_of(kind, 0, 8, step=10),
        rows_of(kind, 0, 8, seed=2),
        rows_of(kind, 8, 8),
    ]
    for other in others:
        assert not torch.equal(one, other)
        assert not set(map(str, one.tolist())) & set(map(str, other.tolist())) or kind in (
            "categorical",
            "integers",
        )


def test_shapes_and_types() -> None:
    rng = BatchRandom(0, 0, 3, 10, CPU)
    expected: list[tuple[Tensor, tuple[int, ...], torch.dtype]] = [
        (rng.normal("s", (3, 4, 4)), (10, 3, 4, 4), torch.float32),
        (rng.integers("s", 5), (10,), torch.int64),
        (rng.uniform("s"), (10, 1), torch.float64),
        (rng.categorical("s", WEIGHTS), (10, 1), torch.int64),
    ]
    for found, shape, dtype in expected:
        assert found.shape == shape
        assert found.dtype == dtype


def test_seeds_keep_their_values() -> None:
    """A run is resumed by later versions too: the seeds must never change."""
    assert derive_seed(0, "eps", 3, 1) == 1767702289982443586
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert derive_seed("a", "b") != derive_seed("b", "a")
    assert all(0 <= derive_seed(i) < 2**63 for i in range(100))


def test_every_bit_of_a_key_matters() -> None:
    key = 0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF
    words = {tuple(random_words(key ^ (1 << bit), 0, 8).tolist()) for bit in range(128)}
    assert len(words | {tuple(random_words(key, 0, 8).tolist())}) == 129


def test_blocks_whose_seeds_agree_in_32_bits_have_noise_of_their_own() -> None:
    """torch's CPU generator reads the lower half of a seed; of these two it made equal noise."""
    seeds = [derive_seed(0, "eps", step, block) for step, block in ((2292, 1), (5145, 7))]
    assert seeds[0] % 2**32 == seeds[1] % 2**32
    assert seeds[0] != seeds[1]
    one, other = (
        BatchRandom(0, step, BLOCK * block, BLOCK, CPU).normal("eps", (3, 4, 4))
        for step, block in ((2292, 1), (5145, 7))
    )
    assert not torch.isclose(one, other).all()


def test_words_are_the_same_from_wherever_they_are_read() -> None:
    whole = random_words(7, 0, 100)
    assert len(np.unique(whole)) == 100
    for first in range(20):
        for count in (1, 3, 4, 9):
            found = random_words(7, first, count)
            assert np.array_equal(found, whole[first : first + count])


# -- numbers for more than one row --------------------------------------------------------------------


def test_one_number_for_the_batch_is_the_same_for_every_worker() -> None:
    found = [
        [BatchRandom(4, step, rank * 6, 6, CPU).for_batch("coin") for rank in range(4)]
        for step in range(200)
    ]
    assert all(len(set(of_step)) == 1 for of_step in found)
    first = [of_step[0] for of_step in found]
    assert stats.kstest(first, "uniform").pvalue > 1e-3
    assert BatchRandom(4, 0, 0, 6, CPU).for_batch("other") != first[0]
    assert BatchRandom(5, 0, 0, 6, CPU).for_batch("coin") != first[0]


def test_numbers_of_a_block_are_the_same_for_any_whole_blocks() -> None:
    whole = BatchRandom(0, 1, 0, 5 * BLOCK, CPU).for_block("s", 2)
    assert whole.shape == (5, 2)
    assert len(whole.unique()) == 10
    for first, blocks in ((0, 1), (1, 2), (4, 1), (2, 3)):
        found = BatchRandom(0, 1, first * BLOCK, blocks * BLOCK, CPU).for_block("s", 2)
        assert torch.equal(found, whole[first : first + blocks])


@pytest.mark.parametrize(("first", "rows"), [(4, 8), (0, 12), (8, 4)])
def test_broken_blocks_are_refused(first: int, rows: int) -> None:
    rng = BatchRandom(0, 0, first, rows, CPU)
    assert not rng.whole_blocks
    with pytest.raises(ValueError, match=f"{rows} rows from row {first} are not whole blocks"):
        rng.for_block("s")


# -- the distributions, over many short generators ----------------------------------------------------

MANY = BatchRandom(11, 0, 0, 4000 * BLOCK, CPU)


def test_distributions() -> None:
    normal = MANY.normal("n", (1,)).flatten().numpy()
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    uniform = MANY.uniform("u").flatten().numpy()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    counts = np.bincount(MANY.integers("i", 10).numpy(), minlength=10)
    assert len(counts) == 10
    assert stats.chisquare(counts).pvalue > 1e-3
    counts = np.bincount(MANY.categorical("c", WEIGHTS, 2).flatten().numpy(), minlength=4)
    assert counts[1] == 0
    picked = [0, 2, 3]
    expected = counts.sum() * (WEIGHTS / WEIGHTS.sum()).numpy()[picked]
    assert stats.chisquare(counts[picked], expected).pvalue > 1e-3


def test_neighbours_are_uncorrelated() -> None:
    """Within a block, between blocks (each freshly seeded) and between streams."""
    a = MANY.normal("a", (1,)).reshape(-1, BLOCK).numpy()
    b = MANY.normal("b", (1,)).reshape(-1, BLOCK).numpy()
    next_block = np.roll(a, 1, axis=0)
    for x, y in ((a[:, :-1], a[:, 1:]), (a, next_block), (a, b)):
        correlation = np.corrcoef(x.ravel(), y.ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(x.size)  # 4 standard errors
