"""What `whipray diffult` is asked for: a recipe to train, or a trained model and the rest of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ....trainers.errors import UsageProblem, did_you_mean
from ...balancing.arms import ArmName, arms_of
from ...config.errors import DEFAULT
from ...config.experiment import SETTINGS, Experiment, with_values
from ...config.layers import Layer, Resolved, resolve
from ...foundation.names import check_name
from ...storage import layout
from ...storage.checkpoints import CheckpointStore
from ...storage.store import Storage
from ..overrides import parse_overrides
from ..target import find_target

PAPERS_PROBABILITY = 5e-7
"""D_3 of DiffuLT's filter, the best of its table 5."""
ORIGIN = "whipray diffult"
"""Of values that no recipe and no override gives, in a plan."""
NOT_CHOSEN = (
    "engine",
    "evaluation",
    "keep_checkpoints",
    "scaling",
    "storage",
    "tracking",
    "tuning",
)
"""Sections that a recipe says also where a sweep's point is taken."""
CHANGEABLE = ("sampling", "evaluation", "scaling", "balancing", "classification", "data")
"""Sections that may be given for a trained model; images are compared with those that it was trained on."""


@dataclass(frozen=True)
class Order:
    """Everything that decides the result, and who works on it."""

    run: str
    """Target of the run whose images are used."""
    experiment: Experiment
    arms: Sequence[ArmName]
    seeds: int
    """Classifiers of each arm."""
    workers: int | Literal["all"] = 1
    """Processes that generate, score and train classifiers; 1: the calling one, more run on Ray."""
    is_trained: bool = False
    """Whether a trained model was given, so that none is trained."""
    chosen: Mapping[str, Any] | None = None
    """Which point of a sweep it is, as JSON types: `sweep`, `trial`, `rank_by`, `value`, `complete`."""

    def __post_init__(self) -> None:
        for option, value in (("--seeds", self.seeds), ("--workers", self.workers)):
            if value != "all" and value < 1:
                raise UsageProblem(f"{option} is {value}", "give at least 1")

    @cached_property
    def root(self) -> Storage:
        """The store's top."""
        return Storage(self.experiment.storage)

    @cached_property
    def store(self) -> Storage:
        """The run's folder."""
        return self.root.child(layout.run_address(self.run).folder)


def choose_arms(given: str | None, controls: bool, experiment: Experiment) -> list[ArmName]:
    """Return the arms to train, in their order.

    Args:
        given: names with commas; None: all, or without `controls` two of them.

    Raises:
        UsageProblem: no such arm, or one that the filter makes no sense of.
    """
    is_filtered = experiment.balancing.filter.is_set
    possible = arms_of(is_filtered)
    if given is None:
        return list(possible if controls else (possible[0], possible[-1]))
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name in possible:
            continue
        what = f"--arms {name}: no such arm"
        if name in {*arms_of(is_filtered=True), *arms_of(is_filtered=False)}:
            why = "a filter is set" if is_filtered else "no filter is set"
            what = f"--arms {name}: {why} (balancing.filter)"
        hint = did_you_mean(name, possible)
        raise UsageProblem(what, f"{hint}there are {', '.join(possible)}")
    if not names:
        raise UsageProblem("--arms names no arm", f"there are {', '.join(possible)}")
    return [name for name in possible if name in names]


def chosen_layer(origin: str, chosen: Experiment) -> Layer:
    """Return what a sweep's chosen point decides of an order: all but how it is evaluated and where it runs."""
    sections = set(Experiment.model_fields) - {*NOT_CHOSEN, "name"}
    return Layer(origin, chosen.model_dump(mode="json", include=sections))


def repeated_keys(order: Order) -> tuple[str, ...]:
    """Return prefixes of the keys that a job has to be given as overrides again.

    The recipe that it is sent has everything, and a model or a chosen point is laid over it once more.
    """
    if order.is_trained:
        return ("sampling.",)
    if order.chosen is None:
        return ()
    return tuple(
        name if name == "seed" else f"{name}."
        for name in Experiment.model_fields
        if name not in {*NOT_CHOSEN, "name"}
    )


def with_papers_filter(resolved: Resolved[Experiment]) -> Resolved[Experiment]:
    """Return the config with DiffuLT's filter, unless a recipe or an override says anything of filters."""
    origins = resolved.origins
    if any(origins[key] != DEFAULT for key in origins if key.startswith("balancing.filter.")):
        return resolved
    values = {"balancing.filter.probability": PAPERS_PROBABILITY}
    experiment = with_values(resolved.value, values, ORIGIN)
    return Resolved(experiment, origins | dict.fromkeys(values, ORIGIN))


def make_order(
    recipe: Resolved[Experiment],
    default_run: str,
    overrides: Sequence[str],
    *,
    run: str | None = None,
    model: str | None = None,
    arms: str | None = None,
    controls: bool = True,
    seeds: int = 5,
    workers: int | Literal["all"] = 1,
    chosen: Mapping[str, Any] | None = None,
) -> tuple[Order, Resolved[Experiment]]:
    """Return what is to be done, and its config with the origin of each value.

    Args:
        recipe: with the overrides.
        default_run: name of the run where none is given.
        overrides: as they were given.
        run: name of a run that is trained, or gone on with.
        model: a trained model in place of it: a run, SWEEP/TRIAL, or models:/NAME@ALIAS.
        arms, controls: as `choose_arms`.
        chosen: as `Order.chosen`, where the recipe has a layer of it.

    Raises:
        UsageProblem: options that do not fit, no such model, or an override of how it was trained.
    """
    if model is not None and run is not None:
        raise UsageProblem(
            "--run names a run to train, and --model one that is trained", "give one of them"
        )
    if model is not None and chosen is not None:
        raise UsageProblem(
            "--chosen trains the chosen point, and --model is trained", "give one of them"
        )
    recipe = with_papers_filter(recipe)
    target = default_run if run is None else run
    if model is None:
        check_name(target, "a run")
    else:
        target, recipe = of_trained_model(model, recipe, overrides)
    names = choose_arms(arms, controls, recipe.value)
    is_trained = model is not None
    return Order(target, recipe.value, names, seeds, workers, is_trained, chosen), recipe


def of_trained_model(
    reference: str, recipe: Resolved[Experiment], overrides: Sequence[str]
) -> tuple[str, Resolved[Experiment]]:
    """Return the target and the experiment of a trained model that is used as the recipe says.

    Its images are generated as the model was registered or its run says, unless an override of `sampling.*`
    says otherwise; images, filter, classifiers and evaluation are the recipe's.

    Args:
        reference: a run, SWEEP/TRIAL, or models:/NAME@ALIAS.
        recipe: with the overrides.
        overrides: as they were given.

    Raises:
        UsageProblem: no such model, its training has not ended, or an override of how it was trained.
    """
    layers = parse_overrides(overrides, CHANGEABLE, [key for key, _, _ in SETTINGS])
    given = recipe.value
    target = find_target(Storage(given.storage), given.tracking.uri, reference, [])
    trained = target.run.experiment
    seen = CheckpointStore(target.run.store).read_manifest(target.run.checkpoint).images_seen
    if seen < trained.training.images:
        raise UsageProblem(
            f"{target.name} has seen {seen:,} of {trained.training.images:,} images: its training has not ended",
            "wait for it or run its command again, or give another model",
        )
    own = set(Experiment.model_fields) - {*CHANGEABLE, "storage", "tracking", "tuning"}
    values = {
        **given.model_dump(mode="json"),
        **trained.model_dump(mode="json", include=own),
        "sampling": target.experiment.sampling.model_dump(mode="json"),
    }
    sampling = [layer for layer in layers if next(iter(layer.values)).startswith("sampling.")]
    resolved = resolve(Experiment, [Layer(f"model {reference}", values), *sampling])
    of_recipe = {
        key: origin
        for key, origin in recipe.origins.items()
        if key.partition(".")[0] not in {*own, "sampling"}
    }
    return target.name, Resolved(resolved.value, resolved.origins | of_recipe)
