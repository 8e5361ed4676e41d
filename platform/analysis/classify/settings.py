"""The settings of a classification: the run's own with overrides."""

from __future__ import annotations

from collections.abc import Sequence

from ....trainers.classification.config import ClassificationConfig
from ....trainers.config import Config
from ....trainers.sampling import SamplingConfig
from ...config.experiment import Experiment
from ...config.layers import Layer, resolve
from ...config.scaling import ScalingConfig
from ...evaluation.config import EvaluationConfig
from ..overrides import parse_overrides

CHANGEABLE = ("classification", "sampling", "evaluation.groups", "scaling")


class Settings(Config):
    """The sections that may be overridden."""

    classification: ClassificationConfig = ClassificationConfig()
    sampling: SamplingConfig
    evaluation: EvaluationConfig
    scaling: ScalingConfig


def resolve_settings(experiment: Experiment, overrides: Sequence[str]) -> Settings:
    """Return the run's settings with overrides.

    Raises:
        UsageProblem: an unknown key, an invalid value, or a key of another section.
    """
    layers = parse_overrides(overrides, CHANGEABLE)
    sections = {"sampling", "evaluation", "scaling"}
    run = experiment.model_dump(mode="json", include=sections)
    # how many workers trained the diffusion model says nothing of a classifier, which is far smaller
    run["scaling"] |= {"workers": 1, "min_workers": None}
    own = experiment.effective_classification.model_dump(mode="json")
    base = Layer("the run", {**run, "classification": own})
    return resolve(Settings, [base, *layers]).value
