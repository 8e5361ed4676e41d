"""One classifier that several processes train: what is the same as of one process, and as each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from support.classifiers import score_digits, train_digits
from support.workers import Workers

from whipray.trainers.classification.config import ClassificationConfig
from whipray.trainers.classification.losses import DRWConfig
from whipray.trainers.errors import DivergenceProblem

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two() -> Iterator[Workers]:
    with Workers(2) as workers:
        yield workers


def test_two_processes_take_the_steps_of_one(two: Workers) -> None:
    """70 images in batches of 23: shared as 11 and 12, and the last one has a single image."""
    config = ClassificationConfig(
        network="resnet8",
        epochs=5,
        batch_size=23,
        lr=0.02,
        loss=DRWConfig(beta=0.9),
        generated_weight=0.3,
    )
    expected = train_digits(config)
    first, second = two.run(train_digits, config)
    assert first["losses"] == second["losses"] == pytest.approx(expected["losses"], rel=1e-3)
    for name, value in expected["state"].items():
        np.testing.assert_array_equal(first["state"][name], second["state"][name], err_msg=name)
        # of the single image both had a copy, and an unbiased variance depends on the number of pixels
        far = 0.1 if name.endswith("running_var") else 1e-3
        np.testing.assert_allclose(first["state"][name], value, far, 1e-3, err_msg=name)


def test_each_process_tests_its_part(two: Workers) -> None:
    config = ClassificationConfig(network="resnet8", epochs=2, batch_size=16, lr=0.02)
    one, other = two.run(score_digits, config)
    assert one == other
    assert one.scores == score_digits(config).scores


def test_processes_diverge_together(two: Workers) -> None:
    absurd = ClassificationConfig(network="resnet8", epochs=1, batch_size=8, lr=1e30)
    for problem in two.run(score_digits, absurd):
        assert isinstance(problem, DivergenceProblem)
