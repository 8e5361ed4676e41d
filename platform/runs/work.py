"""How a run's work is divided between training and evaluation, for the time left.

Work is counted in passes of one image through the network, which the config tells before anything is
measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...trainers.previews import TRAINING_PASSES
from ..config.experiment import Experiment
from ..config.space import Space

BESIDES_SAMPLING = 0.15
"""Of an evaluation's time, in which no image is generated. Measured on digits-demo, where metrics took 0.1 to 0.2
of it; with larger networks it is less, so that the time left is then rather too long."""


def training_share(
    experiment: Experiment, class_counts: Sequence[int], space: Space | None = None
) -> float:
    """Return the training's share in (0, 1) of the work of a run.

    Args:
        class_counts: training images of each class.
        space: its `sample:` level is evaluated on the checkpoint.
    """
    training = TRAINING_PASSES * experiment.training.images
    return training / (
        training + points_of(experiment, space) * passes_of_evaluation(experiment, class_counts)
    )


def points_of(experiment: Experiment, space: Space | None) -> int:
    """Return how many evaluations a run has: of settings, and of the best one with other noise."""
    if space is None or not space.sample:
        return 1
    size, most = space.size("sample"), experiment.tuning.sample_points
    points = most if size is None else min(size, most)
    return points if points == 1 else points + 1


def passes_of_image(experiment: Experiment, class_counts: Sequence[int]) -> int:
    """Return the passes that generating one image takes."""
    guided = bool(experiment.effective_sampling.guidance.strengths(class_counts).any())
    return experiment.sampling.sampler.calls(experiment.process) * (2 if guided else 1)


def passes_of_evaluation(experiment: Experiment, class_counts: Sequence[int]) -> float:
    """Return the passes of one setting's images, and what takes as long as the rest of its evaluation.

    The training of classifiers is not counted.
    """
    images = experiment.evaluation.images_per_class * len(class_counts)
    if experiment.evaluation.trains_classifiers:
        to = experiment.balancing.target(class_counts)
        images += sum(max(0, to - count) for count in class_counts)
    return images * passes_of_image(experiment, class_counts) / (1 - BESIDES_SAMPLING)
