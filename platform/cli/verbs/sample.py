"""whipray sample: draw images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Endpoint, Json, StorageUri, TrackingUri
from ..output import next_commands, print_json, stderr_console


def sample(
    target: Annotated[
        str, typer.Argument(help="models:/NAME@ALIAS, a run, or SWEEP/TRIAL.", metavar="TARGET")
    ],
    classes: Annotated[
        str, typer.Option("--classes", help="Class ids or names, comma-separated, or all.")
    ] = "all",
    per_class: Annotated[int, typer.Option("--per-class", min=1, help="Images a class.")] = 10,
    omega: Annotated[
        float | None, typer.Option("--omega", min=0, help="Guidance; default: the model's.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Sampler steps; default: the model's.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same images.")] = 0,
    to: Annotated[
        Path, typer.Option("--out", help="A .png grid, or a folder for one PNG an image.")
    ] = Path("samples.png"),
    storage: StorageUri = None,
    endpoint: Endpoint = None,
    tracking: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Draw images of chosen classes from a registered model or a run."""
    from ...analysis.sample import draw, open_source, parse_classes, save
    from ..status_line import StatusLine
    from ..stores import open_storage

    with StatusLine(stderr_console, lambda: "sampling"):
        model = open_source(open_storage(storage, endpoint), tracking, target)
        ids = parse_classes(classes, model.card.class_names)
        images, labels = draw(model, ids, per_class, omega, steps, seed)
        files = save(images, labels, model.card, to, per_class)
    if as_json:
        print_json({"target": target, "classes": ids, "images": len(images), "files": files})
        return
    stderr_console.print(f"{len(images)} images of {len(ids)} classes: {to}", markup=False)
    next_commands(
        f"whipray sample {target} --omega 2 --seed 1 --out other.png",
        f"whipray evaluate {target}",
        "whipray models",
    )
