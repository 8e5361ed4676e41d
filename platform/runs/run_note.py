"""What a run is, in Markdown, for people who meet it in MLflow; and the images that it logs as inputs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ...trainers.data import Splits
from ..config.experiment import WHERE_DATA_LIE, Experiment
from ..config.layers import flatten
from ..evaluation.metrics import OUTPUTS
from ..storage import layout
from ..storage.store import Storage
from ..tracking.mlflow_runs import ImagesInput, Run

HEADLINE = ("kid", "fid", "recall", "agreement", "copies", "accuracy")
GROUPS = ("overall", "few")
SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>|#"})
"""What Markdown would read as more than text."""


def describe_images(data: Splits) -> dict[str, Any]:
    """Return the classes of a training, their images, and fingerprints of both sides, as JSON types."""
    return {
        "classes": list(data.train.class_names),
        "train": data.train.class_counts.tolist(),
        "reference": data.reference.class_counts.tolist(),
        "train_fingerprint": data.train.fingerprint(),
        "reference_fingerprint": data.reference.fingerprint(),
    }


def log_datasets(run: Run, experiment: Experiment, dataset: Mapping[str, Any]) -> None:
    """Log the images of a training as its inputs: those that it learns from, and those to compare with.

    Args:
        run: of the training.
        experiment: what it trains.
        dataset: as `describe_images`.
    """
    source = describe_source(experiment)
    inputs = []
    for context, key in (("training", "train"), ("reference", "reference")):
        counts = dict(zip(dataset["classes"], dataset[key], strict=True))
        profile = {"images": sum(dataset[key]), "classes": counts}
        name, digest = f"{experiment.data.source}, {context}", dataset[f"{key}_fingerprint"]
        inputs.append(ImagesInput(name, digest, source, profile, context))
    run.log_images(*inputs)


def describe_source(experiment: Experiment) -> dict[str, Any]:
    """Return where the images are from, by JSON types; of paths the last part, since they are private."""
    data = {f"data.{key}": value for key, value in flatten(experiment.data).items()}
    return {
        key.removeprefix("data."): PurePath(value).name
        if key in WHERE_DATA_LIE and isinstance(value, str)
        else value
        for key, value in data.items()
        if value is not None
    }


def note_of_run(
    run: Run,
    store: Storage,
    experiment: Experiment,
    dataset: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
) -> str:
    """Return the note of a training.

    Args:
        run: its MLflow run.
        store: its folder in the store.
        experiment: what it trains.
        dataset: as `describe_images`; of a run that is rebuilt, without the images to compare with.
        metrics: of its evaluation, by `fid/overall`, `fid/overall_low`, ...; None before there is one.
    """
    name = layout.run_target(store.base) or store.base
    lines = _headline(_title(name), experiment, dataset)
    if metrics is None:
        return "\n".join([*lines, "", "Not evaluated yet."])
    report = f"{layout.Artifact.EVALUATION}/{layout.EVALUATION_PAGE}"
    lines += ["", *_table(metrics), "", f"[Report]({run.address_of(report)})", ""]
    words = [*_sampling(name), "--per-class", "8", "--out", "samples.png"]
    return "\n".join([*lines, *_command(words, store)])


def renamed(note: str, name: str, new: str) -> str:
    """Return the note of a run that has another name now."""
    for of in (_title, lambda each: f"{shlex.join(_sampling(each))} "):
        note = note.replace(of(name), of(new), 1)
    return note


def note_of_sweep(
    run: Run,
    store: Storage,
    experiment: Experiment,
    dataset: Mapping[str, Any],
    searched: Sequence[str],
    outcome: str,
    metrics: Mapping[str, float],
) -> str:
    """Return the note of a sweep, which is the parent of its trials.

    Args:
        run: its MLflow run.
        store: its folder in the store.
        experiment: the base of its trials.
        dataset: as `describe_images`.
        searched: the keys that are searched.
        outcome: what it came to, in a sentence.
        metrics: of the best trial; none before there is one.
    """
    name = store.base.partition("/")[2]
    keys = ", ".join(f"`{key}`" for key in searched)
    lines = _headline(_title(name, "Sweep"), experiment, dataset)
    lines += ["", f"Searched: {keys}; {experiment.tuning.trials} trials.", "", outcome]
    if metrics:
        lines += ["", *_table(metrics)]
    lines += ["", f"[Trials]({run.address_of(layout.Artifact.SWEEP)})", ""]
    words = ["whipray", "sample", f"models:/{experiment.name}@champion", "--out", "samples.png"]
    return "\n".join([*lines, *_command(words, store)])


def _title(name: str, kind: str = "Run") -> str:
    return f"**{kind} {name.translate(SPECIAL)}**"


def _sampling(name: str) -> list[str]:
    return ["whipray", "sample", name]


def _headline(title: str, experiment: Experiment, dataset: Mapping[str, Any]) -> list[str]:
    """Return what it is, on which images, and the settings that decide the most."""
    train, reference = dataset["train"], sum(dataset.get("reference", ()))
    training, sampling = experiment.training, experiment.sampling
    objective = flatten(experiment.objective)
    settings = ", ".join(f"{key}={value}" for key, value in objective.items() if key != "name")
    started = f"; starts from {experiment.pretrained.model}" if experiment.pretrained else ""
    facts = {
        "Data": f"{experiment.data.source}: {len(train)} classes, {sum(train):,} training images "
        f"({max(train):,} to {min(train):,} of a class)"
        + (f", {reference:,} to compare with" if reference else ""),
        "Objective": f"{experiment.objective.name}{f' ({settings})' if settings else ''}",
        "Process, network": f"{experiment.process.name}, {experiment.model.name}{started}",
        "Training": f"{training.images:,} images, batch {training.batch_size}, "
        f"learning rate {experiment.optimizer.lr:g}, seed {experiment.seed}",
        "Sampling": sampling.label,
    }
    rows = [f"| {key} | {text.translate(SPECIAL)} |" for key, text in facts.items()]
    return [title, "", "| | |", "|---|---|", *rows]


def _table(metrics: Mapping[str, float]) -> list[str]:
    """Return the main values, of all classes and of the few, with their intervals."""
    lines = ["| | " + " | ".join(GROUPS) + " |", "|---" * (len(GROUPS) + 1) + "|"]
    for name in HEADLINE:
        if f"{name}/overall" in metrics:
            cells = [_cell(metrics, f"{name}/{group}", OUTPUTS[name].decimals) for group in GROUPS]
            title = f"{OUTPUTS[name].title} ({OUTPUTS[name].better} is better)"
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _cell(metrics: Mapping[str, float], key: str, decimals: int) -> str:
    if key not in metrics:
        return "undefined"
    value, low, high = (f"{metrics[f'{key}{end}']:.{decimals}f}" for end in ("", "_low", "_high"))
    return f"{value} ({low} to {high})"


def _command(words: Sequence[str], store: Storage) -> list[str]:
    """Return the command as Markdown's code, with the store it reads."""
    return ["```", shlex.join([*words, "--storage", store.config.uri]), "```"]
