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
    from ....trainers.data.classes import ALL, choose_classes
    from ....trainers.data.report import counted
    from ...analysis.sample import check_free, generate_images, load_target, save
    from ...analysis.sampled_copies import CopySearch, images_in, table_beside
    from ...api.documents import samples_document
    from ..status_line import StatusLine

    copies, table = None, table_beside(to)
    with StatusLine(stderr_console, "sampling") as status:
        check_free(to)
        search = CopySearch(store.open(), store.tracking, target) if check_copies else None
        model = load_target(store.open(), store.tracking, target)
        names = model.card.class_names
        chosen = choose_classes(classes or [ALL], names)
        images, labels = generate_images(
            model, chosen.ids, per_class, omega, steps, seed, sampler, status.set
        )
        files = save(images, labels, model.card, to, per_class)
        if search is not None:
            status.set("comparing with the training images")
            copies = search.find(images, labels)
            copies.save(table, images_in(to, files, len(images), per_class))
    if as_json:
        document = samples_document(target, model.card, chosen.ids, files, len(images))
        if copies is not None:
            document["copies"] = {**copies.summary(), "table": str(table)}
        print_json(document)
        return
    stderr_console.print(f"{to}: {counted(len(images), 'images')}")
    stderr_console.print(f"classes: {chosen.describe(names)}")
    if copies is not None:
        stderr_console.print(f"{copies.describe()}: {table}")
    has_omega = "omega" in type(model.card.sampling.guidance).model_fields
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
