"""Evaluate a run that is there already, with other sampling or evaluation settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..trainers.engine import choose_device
from ..trainers.errors import UsageProblem
from ..trainers.export import Exported, load_exported
from .evaluation.features import FeatureNet
from .experiment import Experiment, cache_folder
from .layers import Layer, parse_override, resolve
from .lineage import export_run
from .storage import Storage
from .tuning.guidance import Evaluated, GuidanceSearch

if TYPE_CHECKING:
    from .places import RunPlace


def evaluate_again(
    place: RunPlace, overrides: list[str], phase: Callable[[str], None]
) -> tuple[Evaluated, int]:
    """Measure the run's last checkpoint.

    Args:
        overrides: of `sampling.*` and `evaluation.*`.

    Returns:
        what was found, and how many images had to be generated for it.

    Raises:
        UsageProblem: an override of anything else.
    """
    layers = [parse_override(text) for text in overrides]
    for layer in layers:
        for key in layer.values:
            if not key.startswith(("sampling.", "evaluation.")):
                raise UsageProblem(
                    f"{key} cannot be changed after the training",
                    "override sampling.* or evaluation.*, or train another run",
                )
    base = Layer("checkpoint", place.experiment.model_dump(mode="json"))
    experiment = resolve(Experiment, [base, *layers]).value
    device = choose_device()
    data = experiment.data.load(cache_folder())
    phase("preparing the feature network")
    features = FeatureNet.fit_or_load(
        data.reference, cache_folder(), experiment.evaluation.features, device, phase
    )
    with TemporaryDirectory(prefix="whipray-") as scratch:
        model = open_model(place.store, place.checkpoint, experiment, Path(scratch))
        search = GuidanceSearch(experiment, model, data, features, place.store, phase)
        return search.evaluate({}), search.generated


def open_model(store: Storage, checkpoint: str, experiment: Experiment, scratch: Path) -> Exported:
    """A checkpoint's EMA model, ready to sample from."""
    export_run(store, checkpoint, experiment.sampling, scratch)
    return load_exported(scratch / "model", choose_device())
