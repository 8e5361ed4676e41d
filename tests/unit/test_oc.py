"""OC on every process against its definition, read in float64 with loops, and what follows from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from support.objectives import COUNTS, CPU, PROCESS, SHAPE, images_and_labels
from support.processes import PROCESSES, times_of
from support.processes import read_again as read_process
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from whipray.trainers.guidance import NULL_LABEL
from whipray.trainers.objectives import Batch, Loss, OCConfig
from whipray.trainers.objectives.base import Noised
from whipray.trainers.processes import EDMConfig, FlowConfig, Process, ProcessConfig, VPConfig
from whipray.trainers.randomness import BatchRandom

Array = NDArray[np.float64]
X0 = VPConfig(prediction="x0").build()  # its targets are images: one sees which


class Silent:
    """A network that says 0, so that the gradient at its output is -2 target / numel."""

    def __init__(self) -> None:
        self.labels: list[list[int]] = []

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        assert len(x_t) == len(t) == len(labels)
        self.labels.append(labels.tolist())
        self.said = torch.zeros_like(x_t).requires_grad_()
        return self.said


def target_of(
    config: OCConfig,
    batch: Batch,
    rng: BatchRandom,
    process: Process = PROCESS,
    counts: list[int] = COUNTS,
) -> tuple[Tensor, Loss, list[int]]:
    """What the network is asked to say, bit for bit where numel is a power of two."""
    network = Silent()
    loss = config.build(counts)(network, batch, process, rng, 0)
    loss.total.backward()
    assert len(network.labels) == 1  # no second forward pass
    assert network.said.grad is not None
    return network.said.grad * (-network.said.numel() / 2), loss, network.labels[0]


def share_of(whole: Batch, first: int, rows: int) -> Batch:
    """What one worker has of a global batch."""
    some = slice(first, first + rows)
    return Batch(whole.images[some], whole.labels[some], load_whole=lambda: whole)


def noised_at(batch: Batch, t: list[Any], process: Process = PROCESS) -> Noised:
    """The batch at times of our choice."""
    eps = torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(9))
    times = torch.tensor(t) if isinstance(t[0], int) else torch.tensor(t, dtype=torch.float64)
    return Noised(
        x_t=process.perturb(batch.images, times, eps),
        t=times,
        t_host=times,
        target=process.target(batch.images, times, eps),
        labels=batch.labels,
        kept=torch.ones(len(t), dtype=torch.bool),
        eps=eps,
        extra={},
    )


# -- the definition, read again ---------------------------------------------------------------------------


def weights(
    x_0: Array, eps: Array, sigma: float, images: Array, labels: list[int], tr_tau: float = 0.0
) -> Array:
    """w_i. of one row: p(x_0 = x_0^j | x_t) over the batch, by direct differences."""
    c = x_0 + sigma * eps
    distance = np.array([((c - x) ** 2).sum() for x in images])
    mass = np.exp(-(distance - distance.min()) / (2 * sigma**2))
    mass *= np.array([(COUNTS[y] / sum(COUNTS)) ** tr_tau for y in labels])
    return mass / mass.sum()


def read_again(
    whole: Batch, rng: BatchRandom, config: OCConfig, process: ProcessConfig
) -> tuple[Array, float]:
    """The target of each row, one after the other, and the share that points elsewhere."""
    images, labels = whole.images.double().numpy(), whole.labels.tolist()
    eps_all = rng.normal("eps", SHAPE).double().numpy()
    u_all = rng.uniform("transfer")[:, 0].tolist()
    targets, elsewhere = [], []
    for row, (t, eps, u) in enumerate(zip(times_of(process, rng), eps_all, u_all, strict=True)):
        i = rng.first_row + row
        at = read_process(process, t)
        x_t = at.x_t(images[i], eps)
        w = weights(images[i], eps, at.sigma / at.alpha, images, labels, config.tr_tau)
        within = config.cutoff is None or at.progress < config.cutoff

        def pointed_at(j: int, i: int = i, within: bool = within) -> int:
            passes = {
                "t2h": COUNTS[labels[j]] >= COUNTS[labels[i]],
                "h2t": COUNTS[labels[j]] <= COUNTS[labels[i]],
                "full": True,
            }[config.mode]
            return j if passes and within else i

        def target(k: int, at: Any = at, x_t: Array = x_t) -> Array:
            eps_k = (x_t - at.alpha * images[k]) / at.sigma
            found: Array = at.target(images[k], eps_k)
            return found

        if config.estimator == "sample":
            j = next(j for j, below in enumerate(np.cumsum(w)) if u < below)
            targets.append(target(pointed_at(j)))
            elsewhere.append(float(pointed_at(j) != i))
        else:
            targets.append(sum(w[j] * target(pointed_at(j)) for j in range(len(w))))
            elsewhere.append(sum(w[j] for j in range(len(w)) if pointed_at(j) != i))
    return np.stack(targets), float(np.mean(elsewhere))


def assert_targets(config: OCConfig, process: ProcessConfig) -> None:
    """On whole batches and on parts of them."""
    moved = 0.0
    for step, (first, rows) in enumerate([(0, 32), (4, 12), (16, 16), (31, 1)]):
        whole = images_and_labels(32)
        rng = BatchRandom(5, step, first, rows, CPU)
        batch = whole if rows == 32 else share_of(whole, first, rows)
        found, loss, shown = target_of(config, batch, rng, process.build())
        expected, elsewhere = read_again(whole, rng, config, process)
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=4e-6)
        assert loss.metrics["transferred"].item() == pytest.approx(elsewhere, abs=1e-6)
        assert loss.total.item() == pytest.approx((expected**2).mean(), rel=1e-5)  # no regulariser
        assert loss.terms == {"denoising": loss.total}
        if config.label_drop == 1:
            assert shown == [NULL_LABEL] * rows
        moved += elsewhere
    assert (moved == 0) == (config.cutoff == 0)  # there was something to see


@pytest.mark.parametrize("estimator", ["sample", "expected"])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "h2t"},
        {"mode": "full"},
        {"mode": "full", "tr_tau": 1.0},
        {"mode": "full", "tr_tau": -0.7},
        {"cutoff": 0.7},
        {"mode": "full", "cutoff": 0},
        {"label_drop": 0.5, "label_drop_per": "batch"},
        {"label_drop": 1.0},  # the true labels gate all the same
    ],
    ids=str,
)
def test_the_target_is_the_definitions(
    options: dict[str, Any], prediction: str, estimator: str
) -> None:
    assert_targets(OCConfig(estimator=estimator, **options), VPConfig(prediction=prediction))


@pytest.mark.parametrize("estimator", ["sample", "expected"])
@pytest.mark.parametrize("options", [{}, {"mode": "full", "tr_tau": 1.0}, {"cutoff": 0.8}], ids=str)
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_the_target_is_the_definitions_on_every_process(
    process: ProcessConfig, options: dict[str, Any], estimator: str
) -> None:
    if isinstance(
        process, EDMConfig
    ):  # at its usual noise, images as different as these are told apart
        process = process.model_copy(update={"p_mean": 1.5})
    assert_targets(OCConfig(estimator=estimator, **options), process)


# -- little noise, and much -------------------------------------------------------------------------------


def large_images() -> Batch:
    """16 images of norm 50 in twins of different classes: 8 apart by one grey level, 8 equal."""
    generator = torch.Generator().manual_seed(4)
    pattern = torch.where(torch.rand(8, 3, 32, 32, generator=generator) < 0.5, 0.9, -0.9)
    images = pattern.repeat_interleave(2, 0)
    images[1:8:2, 0, 5, 5] += 2 / 255
    return Batch(images, torch.arange(16) % len(COUNTS))


@pytest.mark.parametrize("estimator", ["sample", "expected"])
@pytest.mark.parametrize("mode", ["t2h", "h2t", "full"])
@pytest.mark.parametrize(
    ("config", "t"),
    [
        *((VPConfig(prediction=prediction), 0) for prediction in ("eps", "x0", "v")),
        (EDMConfig(), 0.01),
        (EDMConfig(), 1.6e-5),  # the least that a random number can give
        (FlowConfig(), 0.01),
        (FlowConfig(), 1e-5),
    ],
    ids=str,
)
def test_where_sigma_is_small_the_target_is_the_images_own(
    config: ProcessConfig, t: float, mode: str, estimator: str
) -> None:
    process = config.build()
    whole = large_images()
    some = [1, 2, 8, 9, 13]  # no near twins among them; 8 and 9 are equal
    batch = Batch(whole.images[some], whole.labels[some])
    n = noised_at(batch, [t] * 5, process)
    objective = OCConfig(mode=mode, estimator=estimator).build(COUNTS)
    for step in range(8):
        target, _ = objective.transfer(n, batch, process, BatchRandom(0, step, 0, 5, CPU))
        if estimator == "sample":
            assert torch.equal(target, n.target)
        else:
            torch.testing.assert_close(target, n.target, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tr_tau", [0.0, 1.0])
@pytest.mark.parametrize("t", [0, 1, 30, 500, 998, 999])
def test_the_posterior_keeps_its_digits(t: int, tr_tau: float) -> None:
    batch = large_images()
    n = noised_at(batch, [t] * 16)
    flat = batch.images.flatten(1).double()
    objective = OCConfig(mode="full", tr_tau=tr_tau).build(COUNTS)
    w = objective.posterior(n, flat, flat, batch.labels, PROCESS)
    assert w.dtype == torch.float64
    torch.testing.assert_close(w.sum(1), torch.ones(16, dtype=torch.float64), rtol=0, atol=1e-12)
    sigma = float((1 / PROCESS.alphas_bar[t] - 1) ** 0.5)
    eps = n.eps.flatten(1).double().numpy()
    for i in range(16):
        expected = weights(
            flat[i].numpy(), eps[i], sigma, flat.numpy(), batch.labels.tolist(), tr_tau
        )
        np.testing.assert_allclose(w[i].numpy(), expected, rtol=1e-6, atol=1e-12)
    if t == 0 and not tr_tau:  # one grey level is less than sigma: the twins hardly differ
        assert 0.2 < w[0, 1] < 0.8
        assert w[8, 9].item() == pytest.approx(0.5, abs=1e-6)


# -- the gate --------------------------------------------------------------------------------------------


def pointed_at(config: OCConfig, batch: Batch, rng: BatchRandom, counts: list[int]) -> Tensor:
    """k of each row, (B,): the image that the target is."""
    target, _, _ = target_of(config, batch, rng, X0, counts)
    distance = torch.cdist(target.flatten(1), batch.images.flatten(1))
    assert distance.min(1).values.max() < 1e-3
    return distance.argmin(1)


def test_the_gate_opens_one_way() -> None:
    batch, counts = images_and_labels(24), torch.tensor(COUNTS)
    rows, ways = torch.arange(24), {}
    for mode in ("t2h", "h2t", "full"):
        steps = [
            pointed_at(OCConfig(mode=mode), batch, BatchRandom(1, s, 0, 24, CPU), COUNTS)
            for s in range(40)
        ]
        gain = torch.stack([counts[batch.labels[k]] - counts[batch.labels] for k in steps])
        among_equals = (torch.stack(steps) != rows) & (gain == 0)
        ways[mode] = [bool(x.any()) for x in (gain > 0, gain < 0, among_equals)]
    assert ways == {
        "t2h": [True, False, True],
        "h2t": [False, True, True],
        "full": [True, True, True],
    }


def test_the_cutoff_is_the_first_time_without_transfer() -> None:
    batch = images_and_labels(8)
    t = [697, 698, 699, 700, 701, 702, 703, 999]
    n = noised_at(batch, t, X0)
    objective = OCConfig(mode="full", cutoff=0.7).build(COUNTS)
    away = torch.zeros(8, dtype=torch.bool)
    for step in range(40):
        target, _ = objective.transfer(n, batch, X0, BatchRandom(0, step, 0, 8, CPU))
        away |= (target - batch.images).abs().amax((1, 2, 3)) > 1e-3
    assert away.tolist() == [True] * 3 + [False] * 5


@pytest.mark.parametrize("estimator", ["sample", "expected"])
def test_with_equal_classes_the_modes_are_one(estimator: str) -> None:
    batch, rng = images_and_labels(32), BatchRandom(0, 0, 0, 32, CPU)
    targets = [
        target_of(OCConfig(mode=mode, estimator=estimator), batch, rng, counts=[7, 7, 7, 7])[0]
        for mode in ("t2h", "h2t", "full")
    ]
    assert torch.equal(targets[0], targets[1])
    assert torch.equal(targets[0], targets[2])
    assert not torch.equal(targets[0], rng.normal("eps", SHAPE))


def test_tr_tau_goes_without_a_gate() -> None:
    with pytest.raises(ValidationError, match="tr_tau needs mode=full"):
        OCConfig(tr_tau=1.0)


# -- the two estimators -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["t2h", "h2t", "full"])
def test_the_mean_of_many_draws_is_the_expected_target(mode: str) -> None:
    batch, count = images_and_labels(16), 2000
    n = noised_at(batch, np.linspace(400, 999, 16).astype(int).tolist(), X0)
    sampling = OCConfig(mode=mode).build(COUNTS)
    sampled, moved = zip(
        *(
            sampling.transfer(n, batch, X0, BatchRandom(2, step, 0, 16, CPU))
            for step in range(count)
        ),
        strict=True,
    )
    closed = OCConfig(mode=mode, estimator="expected").build(COUNTS)
    expected, share = closed.transfer(n, batch, X0, BatchRandom(2, 0, 0, 16, CPU))
    targets = torch.stack(sampled).double()
    error = targets.std(0) / count**0.5
    assert error.max() > 0.01  # the samples did vary
    unseen = 10 / count  # what images too rare to be sampled may add
    assert ((targets.mean(0) - expected).abs() <= 5 * error + unseen).all()
    shares = torch.stack(moved).double()
    error = shares.std() / count**0.5
    assert (shares.mean() - share).abs() <= 5 * error


@pytest.mark.parametrize("estimator", ["sample", "expected"])
def test_what_the_gate_holds_back_stays_with_the_row(estimator: str) -> None:
    images = images_and_labels(8).images
    labels = torch.tensor([0, 1, 1, 1, 3, 3, 3, 3])  # row 0 is alone in the most frequent class
    batch = Batch(images, labels)
    n = noised_at(batch, [900] * 8)
    objective = OCConfig(estimator=estimator).build(COUNTS)
    target, moved = objective.transfer(n, batch, PROCESS, BatchRandom(0, 0, 0, 8, CPU))
    torch.testing.assert_close(target[0], n.eps[0], rtol=0, atol=1e-6)
    assert moved > 0.3


# -- workers and memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["sample", "expected"])
@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_has_the_same_targets(workers: int, estimator: str) -> None:
    whole, rows = images_and_labels(32), 32 // workers
    config = OCConfig(estimator=estimator)
    alone, loss, _ = target_of(config, whole, BatchRandom(3, 1, 0, 32, CPU))
    assert loss.metrics["transferred"] > 0.1
    shares = [
        target_of(config, share_of(whole, first, rows), BatchRandom(3, 1, first, rows, CPU))[0]
        for first in range(0, 32, rows)
    ]
    if estimator == "sample":
        assert torch.equal(torch.cat(shares), alone)
    else:
        torch.testing.assert_close(torch.cat(shares), alone, rtol=0, atol=1e-6)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


@pytest.mark.parametrize("estimator", ["sample", "expected"])
def test_no_tensor_is_larger_than_the_images_of_the_global_batch(estimator: str) -> None:
    whole = images_and_labels(64)
    batch = share_of(whole, 0, 32)
    with Largest() as seen:
        target_of(OCConfig(estimator=estimator), batch, BatchRandom(0, 0, 0, 32, CPU))
    assert seen.numel == whole.images.numel()  # and not 32 times that
