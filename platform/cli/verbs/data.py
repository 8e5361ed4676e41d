"""whipray data: what images hold, before anything is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..consoles import print_error, print_json, stderr_console, stdout_console
from ..exit_codes import FAILURE
from ..options import Json

app = typer.Typer(help="Look at images before they are trained on.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Look at images before they are trained on."""


@app.command()
def check(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="A folder of class folders, Parquet files, or one or two lists.",
            metavar="FOLDER | FILE.parquet... | LIST...",
        ),
    ],
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder that the paths in lists start from.")
    ] = None,
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
    from ...inspection.inspect import inspect
    from ...inspection.screen import screen
    from ...inspection.source import source_of
    from ..status_line import StatusLine

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
