"""whipray data: what images hold, before anything is trained on them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ..consoles import next_commands, print_error, print_json, stderr_console, stdout_console
from ..exit_codes import FAILURE
from ..options import DryRun, Json, On
from ..stores import Endpoint, StoreOptions

Root = Annotated[
    str | None,
    typer.Option("--root", help="Folder or s3:// address that the paths in lists start from."),
]
OVERRIDE = re.compile(r"[a-z_][\w.]*=")
"""How an argument begins that is no path."""

app = typer.Typer(help="Look at images, and pack them for a cluster.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Look at images, and pack them for a cluster."""


@app.command()
def check(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="A folder of class folders, Parquet files, or one or two lists; also s3:// addresses.",
            metavar="FOLDER | FILE.parquet... | LIST...",
        ),
    ],
    root: Root = None,
    endpoint: Endpoint = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Decode all images, also of a large data set.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what images hold, and what is wrong with them.

    Classes, sizes, kinds of pixels and formats; files that are left out or broken; copies within and
    across classes and splits; names and labels that mislead. The exit code is 1 where nothing can be trained
    before something is mended.
    """
    from ...api.documents import inspection_document
    from ...datasets.endpoint import use_endpoint
    from ...inspection.inspect import inspect
    from ...inspection.screen import screen
    from ...inspection.source import source_of
    from ..status_line import StatusLine

    use_endpoint(StoreOptions(endpoint=endpoint).config())
    config = source_of(paths, root)
    with StatusLine(stderr_console, "listing images") as line:
        inspection = inspect(config, line.set, thorough=thorough)
    errors = inspection.errors()
    if as_json:
        print_json(inspection_document(inspection))
    else:
        for text in screen(inspection):
            stdout_console.print(text)
    if errors:
        kinds = ", ".join(error.kind for error in errors)
        what = f"nothing can be trained on these images yet: {kinds}"
        print_error(what, "mend what is marked `error`, and check again", FAILURE, as_json=False)
        raise typer.Exit(FAILURE)


@app.command()
def pack(
    arguments: Annotated[
        list[str],
        typer.Argument(
            help="A recipe, whose `data:` counts, or a folder of class folders, Parquet files, or lists; then the "
            "folder or s3:// address of the packed set.",
            metavar="SOURCE... DEST [KEY=VALUE]...",
        ),
    ],
    root: Root = None,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", min=1, help="Side of the images, in pixels.", metavar="PX"),
    ] = None,
    endpoint: Endpoint = None,
    on: On = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Decode images once, into a packed set that every machine of a cluster fetches.

    After an interruption, give the same command again: what is finished is kept. With --on, all nodes of
    the cluster decode.
    """
    from ....trainers.data.locations import in_bucket, open_files
    from ....trainers.disk import cache_folder
    from ....trainers.errors import UsageProblem
    from ...datasets.endpoint import use_endpoint
    from ...datasets.packing import OnPacking
    from ...datasets.packing import pack as pack_set
    from ...datasets.packing_facts import describe, outlook_of
    from ...inspection.data_of import data_of
    from ...inspection.source import location_of
    from ..plan import print_facts
    from ..status_line import StatusLine

    overrides = [word for word in arguments if OVERRIDE.match(word)]
    if image_size is not None:
        overrides.append(f"data.image_size={image_size}")
    *sources, dest = [word for word in arguments if word not in overrides] or [""]
    if not sources:
        raise UsageProblem("no SOURCE or no DEST is given", "whipray data pack SOURCE DEST")
    storage = StoreOptions(endpoint=endpoint).config()
    use_endpoint(storage)
    data = data_of(sources, root, overrides)
    to = open_files(location_of(dest) if in_bucket(dest) else Path(dest).expanduser().absolute())
    if on and not dry_run:
        from ...launching.tasks import pack_task
        from ..remote import send

        send(on, pack_task(data, dest, storage), {"data": data.source, "to": dest}, as_json)
    with StatusLine(stderr_console, "listing images") as line:
        if dry_run:
            facts: dict[str, Any] = outlook_of(data, to, storage, line.set)
        else:
            on_packing = OnPacking(line.set, line.report)
            packed = pack_set(data, to, cache_folder(), storage, on_packing)
            facts = describe(packed, to.uri)
    if as_json:
        print_json(facts)
        return
    print_facts({name: value for name, value in facts.items() if name not in ("made", "found")})
    if dry_run:
        return
    if not packed.made and not packed.found:
        stderr_console.print("nothing to do: this set is whole, and its source is as it was")
    stderr_console.print(
        f"\nin a recipe:\n  data:\n    source: packed\n    path: {to.uri}", highlight=False
    )
    next_commands(["whipray", "train", "RECIPE", "data.source=packed", f"data.path={to.uri}"])
