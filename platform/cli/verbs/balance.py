"""whipray balance: a balanced data set of real images and a model's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ....trainers.errors import UsageProblem
from ..consoles import next_commands, print_json, print_warnings, stderr_console, stdout_console
from ..options import Json, On, OpenPage, Overrides, Target, Workers, Yes, workers_of
from ..stores import StoreOptions, with_store_options

if TYPE_CHECKING:  # imported on use, so that `--help` is quick
    from ...analysis.balance.result import BalanceResult
    from ...config.experiment import Experiment


@with_store_options
def balance(
    target: Target,
    store: StoreOptions,
    overrides: Overrides = None,
    to: Annotated[
        int | None,
        typer.Option(
            "--to",
            min=1,
            help="Fill each class up to this many images; default: balancing.to, else the largest class.",
        ),
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            help="Keep images that pass, repeated: 'probability>=5e-7', 'pixel_distance<=3500', "
            "'feature_distance<=9', no_copies; default: balancing.filter.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", help="Folder of the set; default: counts, distances and the page alone."
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--as",
            help="folder: named after classes; torchvision: folders in the order of the class ids; "
            "parquet: files as Hugging Face writes them.",
            metavar="folder|parquet|torchvision",
        ),
    ] = "folder",
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            help="A certain one of the run, as images-000000012800; default: its last.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, help="Of the images' noise; default: the run's."),
    ] = None,
    workers: Workers = "",
    open_page: OpenPage = False,
    on: On = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Fill classes up with a model's images, leave out what harms, and write the set.

    Images and scores are kept: with another --filter, the same command answers in seconds. A command that was
    stopped goes on where it was. Overrides may change sampling.*, balancing.*, classification.*, scaling.*,
    evaluation.groups.* and evaluation.memorisation.*.
    """
    options: dict[str, Any] = {
        "checkpoint": checkpoint,
        "to": to,
        "filters": filters,
        "seed": seed,
        "form": _form(form),
    }
    if on:
        from ...launching.tasks import balance_task
        from ..remote import send

        words = [*_words(to, filters, form, checkpoint, seed), *(["--out", out] if out else [])]
        count = ["--workers", workers] if workers else []
        task = balance_task(
            target, [*words, *count], overrides or [], store.config(), store.tracking
        )
        facts = {"model": target, "storage": task.storage.uri}
        if out:
            facts["out"] = (
                f"{out}, as the node that runs the job sees it: a folder that nodes share"
            )
        send(on, task, facts, as_json, yes)

    from ...analysis.balance.balance import balance_set
    from ...api.documents import balance_document
    from ..page import show_page
    from ..status_line import StatusLine

    if out == "":
        raise UsageProblem("--out is empty", "give a folder, or leave it out")
    with StatusLine(stderr_console, "looking for the model") as line:
        result = balance_set(
            store.open(),
            store.tracking,
            target,
            overrides or [],
            out=Path(out) if out else None,
            workers=workers_of(workers),
            on_phase=line.set,
            **options,
        )
    print_warnings(result.warnings)
    if as_json:
        print_json(balance_document(result))
    else:
        _print_result(result)
        words = _words(to, filters, form, checkpoint, seed)
        next_commands(*_next(result, target, words, overrides or [], store.words))
    if open_page:
        show_page(result.subject.run.store, result.page)


def _form(text: str) -> str:
    if text not in (known := ("folder", "parquet", "torchvision")):
        raise UsageProblem(f"--as {text}: no such form", f"there are {', '.join(known)}")
    return text


def _words(
    to: int | None, filters: list[str] | None, form: str, checkpoint: str | None, seed: int | None
) -> list[str]:
    """Return the options that decide the set as they were given."""
    given = {"--to": to, "--checkpoint": checkpoint, "--seed": seed}
    words = [word for name, value in given.items() if value is not None for word in (name, value)]
    words += [word for each in filters or () for word in ("--filter", each)]
    return [str(word) for word in (*words, *(() if form == "folder" else ("--as", form)))]


def _print_result(result: BalanceResult) -> None:
    from ..balance_table import balance_table

    table, left_out = balance_table(result)
    stdout_console.print(table)
    if left_out:
        stderr_console.print(f"{left_out:,} more classes are in the datasheet")
    stderr_console.print()
    known = "" if result.images_generated else " (known already)"
    total = result.counts.overall
    sampling = result.subject.experiment.sampling.label
    made = f"{total.generated:,} generated{known}, {total.kept:,} kept ({result.filter.label})"
    lines = [f"{result.subject.name}, {sampling}, up to {result.to:,} of a class: {made}"]
    for name, values in result.distances.items():
        low, high, middle = (_number(values[key]) for key in ("min", "max", "median"))
        lines.append(f"{name.replace('_', ' ')}  {low} to {high}, median {middle}")
    if written := result.written:
        done = f"{written.written:,} images written" if written.written else "written already"
        lines.append(f"set  {written.folder} ({written.form}, {written.images:,} images, {done})")
    lines.append(f"page  {result.subject.run.store.uri_of(result.page)}")
    for line in [*lines, *([result.note] if result.note else [])]:
        stderr_console.print(line)


def _number(value: float) -> str:
    """Return a number with three digits, or all before its point."""
    return f"{value:,.0f}" if 1000 <= value < 1e9 else f"{value:.3g}"


def _next(
    result: BalanceResult, target: str, words: list[str], overrides: list[str], store: list[str]
) -> list[list[str]]:
    """Return what to run next: write the set, or train on it; measure what it is worth."""
    from ...config.recipes import recipe_names
    from ...config.yaml12 import dump_scalar

    experiment = result.subject.experiment
    recipe = experiment.name if experiment.name in recipe_names() else "RECIPE"
    # `whipray diffult` has a filter of its own where none is given.
    kept = result.filter.model_dump(exclude_defaults=True) or {"probability": None}
    section = {"to": result.to, **{f"filter.{key}": value for key, value in kept.items()}}
    values = {f"balancing.{key}": value for key, value in section.items()}
    if recipe != "RECIPE":
        values = _data_unlike(recipe, experiment) | values
    others = [each for each in overrides if not each.startswith(("balancing.", "data."))]
    words_ = [f"{key}={dump_scalar(value)}" for key, value in values.items()]
    worth = ["whipray", "diffult", recipe, "--model", target, *words_, *others, *store]
    if result.written is None:
        return [
            ["whipray", "balance", target, *words, "--out", "balanced", *overrides, *store],
            worth,
        ]
    channels, size, _ = result.image_shape
    data = [
        "data.source=balanced",
        f"data.path={result.written.folder}",
        f"data.image_size={size}",
        f"data.channels={channels}",
    ]
    return [["whipray", "train", recipe, *data, "--run", "on-balanced", *store], worth]


def _data_unlike(recipe: str, experiment: Experiment) -> dict[str, Any]:
    """Return the settings of the data that a packaged recipe has otherwise, by key."""
    from ...config.experiment import load_experiment
    from ...config.layers import flatten
    from ...config.paths import with_absolute_paths

    data, own = experiment.data, with_absolute_paths(load_experiment(recipe, []).value).data
    fields = type(data).model_fields
    if data.source == own.source:
        changed = {name for name in fields if getattr(data, name) != getattr(own, name)}
    else:  # nothing of the recipe's data is inherited then
        changed = {name for name, field in fields.items() if getattr(data, name) != field.default}
        changed.add("source")
    values = flatten(data.model_dump(mode="json", include=changed))
    return {f"data.{key}": value for key, value in values.items()}
