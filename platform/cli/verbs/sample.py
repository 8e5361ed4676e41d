"""whipray sample: generate images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..consoles import next_commands, print_json, stderr_console
from ..options import Json, Target
from ..stores import StoreOptions, with_store_options


@with_store_options
def sample(
    target: Target,
    store: StoreOptions,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--classes",
            help="Class ids or names, comma-separated or repeated; default: all. "
            "id:3 and name:3 where both can be meant.",
        ),
    ] = None,
    per_class: Annotated[
        int, typer.Option("--per-class", min=1, help="Images of each class.")
    ] = 10,
    omega: Annotated[
        float | None,
        typer.Option("--omega", min=0, help="Guidance strength; default: the model's."),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option("--sampler", help="As sampling.sampler.name; default: the model's."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Sampler steps; default: the model's.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed, the same images.")] = 0,
    to: Annotated[
        Path, typer.Option("--out", help="A .png file for a grid, or a folder for single images.")
    ] = Path("samples.png"),
    check_copies: Annotated[
        bool,
        typer.Option(
            "--check-copies",
            help="Compare each image with all training images; copies.csv has the nearest of each.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Generate images with a registered model or a run."""
    from ....trainers.data.classes import ALL
    from ....trainers.data.report import counted
    from ...analysis.sample_files import sample_files
    from ...api.documents import samples_document
    from ..status_line import StatusLine

    with StatusLine(stderr_console, "sampling") as status:
        samples = sample_files(
            store.open(),
            store.tracking,
            target,
            to,
            classes=classes or [ALL],
            per_class=per_class,
            omega=omega,
            steps=steps,
            seed=seed,
            sampler=sampler,
            check_copies=check_copies,
            on_phase=status.set,
        )
    if as_json:
        print_json(samples_document(target, samples))
        return
    stderr_console.print(f"{to}: {counted(samples.images, 'images')}")
    stderr_console.print(f"classes: {samples.chosen.describe(samples.card.class_names)}")
    if samples.copies is not None:
        stderr_console.print(f"{samples.copies.describe()}: {samples.table}")
    has_omega = "omega" in type(samples.card.sampling.guidance).model_fields
    next_commands(
        [
            "whipray",
            "sample",
            target,
            *(("--omega", "2") if has_omega else ()),
            "--seed",
            "1",
            "--out",
            "other.png",
            *store.words,
        ],
        ["whipray", "evaluate", target, *store.words],
        ["whipray", "models", *store.words],
    )
