"""The tasks that a cluster can be given: the command line of a job, and the files that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...trainers.data import DataConfig
from ...trainers.data.locations import in_bucket
from ...trainers.errors import UsageProblem
from ..config.experiment import Experiment
from ..config.layers import Layer, flatten, parse_override, resolve
from ..config.paths import relative_paths
from ..config.recipes import recipe_layers
from ..config.space import Space
from ..config.tracking import TrackingConfig
from ..config.yaml12 import dump_scalar
from ..evaluation.config import EvaluationConfig
from ..evaluation.metrics import OF_IMAGES
from ..storage.config import StorageConfig
from .forecast import Work, of_sweep, of_training
from .shared_config import check_paths, for_cluster, shared_store, shared_tracking

RECIPE, SPACE, SECTION = "recipe.yaml", "space.yaml", "data.json"


@dataclass(frozen=True)
class Task:
    """A verb to run as a job on a cluster."""

    verb: str
    name: str
    """Name of the run or sweep; a cluster runs one job of a verb and name at a time."""
    arguments: Sequence[str]
    """Arguments of the command line on the cluster, after the verb."""
    storage: StorageConfig
    texts: Mapping[str, str]
    """Contents of the files that the arguments name, by file name."""
    work: Work | None = None
    """The trainings that the job does, for the forecast."""
    price_per_hour: float = 0
    """Price of one worker, in any currency; with it, the launch needs a confirmation."""


def train_task(name: str, experiment: Experiment) -> Task:
    """Return the task of `whipray train`.

    Raises:
        UsageProblem: as `for_cluster`.
    """
    experiment = for_cluster(experiment)
    arguments = [RECIPE, "--run", name]
    texts = {RECIPE: experiment.model_dump_json(indent=1)}
    work, price = of_training(experiment), experiment.scaling.price_per_hour
    return Task("train", name, arguments, experiment.storage, texts, work, price)


def sweep_task(name: str, experiment: Experiment, space: Space, resume: bool) -> Task:
    """Return the task of `whipray sweep`.

    Raises:
        UsageProblem: as `for_cluster`.
    """
    experiment = for_cluster(experiment)
    # The job lays the space's base over the recipe again; overrides restore the values that were
    # resolved on top of the base.
    base_keys = tuple(flatten(space.base))
    overrides = [
        f"{key}={dump_scalar(value)}"
        for key, value in flatten(experiment).items()
        if any(f"{key}.".startswith(f"{base}.") for base in base_keys)
    ]
    arguments = [SPACE, "--recipe", RECIPE, "--name", name, *(["--resume"] if resume else [])]
    texts = {
        RECIPE: experiment.model_dump_json(indent=1),
        SPACE: space.model_dump_json(indent=1),
    }
    work, price = of_sweep(experiment, space), experiment.scaling.price_per_hour
    return Task("sweep", name, [*arguments, *overrides], experiment.storage, texts, work, price)


def diffult_task(
    name: str,
    experiment: Experiment,
    options: Sequence[str],
    images: int | None,
    repeated: tuple[str, ...] = (),
) -> Task:
    """Return the task of `whipray diffult`.

    Args:
        name: of the run.
        options: of the command line on the cluster.
        images: training images of the diffusion model that take as long as all steps; None: not known.
        repeated: prefixes of keys that the options change, so that the job needs to be given them again.

    Raises:
        UsageProblem: as `for_cluster`.
    """
    experiment = for_cluster(experiment)
    texts = {RECIPE: experiment.model_dump_json(indent=1)}
    overrides = [
        f"{key}={dump_scalar(value)}"
        for key, value in flatten(experiment).items()
        if key.startswith(repeated)
    ]
    work = of_training(experiment)
    if images is None:
        besides = "evaluation, generated images and classifiers come on top"
        work = replace(work, besides=besides)
    else:
        besides = "classifiers may be slower: their networks are others"
        work = replace(work, images=images, what="work", besides=besides)
    price = experiment.scaling.price_per_hour
    arguments = [RECIPE, *overrides, *options]
    return Task("diffult", name, arguments, experiment.storage, texts, work, price)


def evaluate_task(
    target: str, overrides: Sequence[str], storage: StorageConfig, tracking: str | None
) -> Task:
    """Return the task of `whipray evaluate`, on the whole cluster unless the overrides limit it.

    Raises:
        UsageProblem: as `check_paths`, `shared_store` and `shared_tracking`.
    """
    check_paths(relative_paths(_evaluation(overrides), "evaluation."))
    store = shared_store(storage)
    arguments = [target, *overrides, *_store_arguments(store, tracking)]
    if not any(override.startswith("evaluation.workers=") for override in overrides):
        arguments.append("evaluation.workers=all")
    price = _price_in(overrides)
    return Task("evaluate", target, arguments, store, {}, price_per_hour=price)


def balance_task(
    target: str,
    options: Sequence[str],
    overrides: Sequence[str],
    storage: StorageConfig,
    tracking: str | None,
) -> Task:
    """Return the task of `whipray balance`, on the whole cluster unless the options limit it.

    Args:
        options: of the command line, `--out` among them: a folder that the node of the job sees.

    Raises:
        UsageProblem: a relative `--out`, or as `shared_store` and `shared_tracking`.
    """
    words = list(options)
    if "--out" in words and not (out := words[words.index("--out") + 1]).startswith("/"):
        raise UsageProblem(
            f"--out {out} is relative, and no node of the cluster has the folder of this command",
            "give an absolute folder that all nodes share; without --out the job generates and scores, and "
            "the same command without --on then writes the set here",
        )
    store = shared_store(storage)
    arguments = [target, *overrides, *words, *_store_arguments(store, tracking)]
    if "--workers" not in words:
        arguments += ["--workers", "all"]
    price = _price_in(overrides)
    return Task("balance", target, arguments, store, {}, price_per_hour=price)


def _evaluation(overrides: Sequence[str]) -> EvaluationConfig:
    """Return the evaluation that overrides of it make, whatever the run is.

    Raises:
        UsageProblem: a key or value that no evaluation has.
    """
    layers = [parse_override(text) for text in overrides if text.startswith("evaluation.")]
    every = Layer("whipray evaluate", {"evaluation.metrics": list(OF_IMAGES)})
    return resolve(Experiment, [*recipe_layers("digits-lt"), every, *layers]).value.evaluation


def doctor_task(storage: StorageConfig, tracking: str | None) -> Task:
    """Return the task of `whipray doctor --ray`.

    Raises:
        UsageProblem: as `shared_store` and `shared_tracking`.
    """
    store = shared_store(storage)
    return Task("doctor", "cluster", ["--ray", *_store_arguments(store, tracking)], store, {})


def pack_task(data: DataConfig, to: str, storage: StorageConfig) -> Task:
    """Return the task of `whipray data pack`, over all nodes of the cluster.

    Args:
        to: address of the packed set.
        storage: whose endpoint and region hold for buckets.

    Raises:
        UsageProblem: a relative path, which other machines do not have.
    """
    check_paths([*relative_paths(data, "data."), *([] if in_bucket(to) else _relative(to))])
    store = shared_store(storage.model_copy(update={"uri": to}))
    arguments = ["pack", SECTION, to]
    if store.endpoint_url:
        arguments += ["--endpoint", store.endpoint_url]
    texts = {SECTION: data.model_dump_json(indent=1)}
    return Task("data", to, arguments, store, texts)


def _relative(to: str) -> list[tuple[str, str]]:
    return [] if Path(to).expanduser().is_absolute() else [("DEST", to)]


def _price_in(overrides: Sequence[str]) -> float:
    """Return the price that the overrides give, 0 without one."""
    prices = [text for text in overrides if text.startswith("scaling.price_per_hour=")]
    layers = [*recipe_layers("digits-lt"), *map(parse_override, prices)]
    return resolve(Experiment, layers).value.scaling.price_per_hour


def _store_arguments(store: StorageConfig, tracking: str | None) -> list[str]:
    """Return the options that name the store and MLflow."""
    server = shared_tracking(TrackingConfig(uri=tracking), store).uri
    options = {"--storage": store.uri, "--endpoint": store.endpoint_url, "--tracking": server}
    return [word for name, value in options.items() if value for word in (name, value)]
