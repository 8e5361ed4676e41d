"""whipray init: look at a person's own pictures and propose a recipe for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..consoles import next_commands, print_json, print_warnings, stderr_console
from ..options import Json
from ..pictures import Minutes, ProposedFor, Size, look_and_propose

Paths = Annotated[
    list[Path],
    typer.Argument(
        help="A folder of class folders, Parquet files, or one or two lists.", metavar="PATH..."
    ),
]


def init(
    paths: Paths,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write; default: the folder's name and .yaml."),
    ] = None,
    size: Size = None,
    minutes: Minutes = None,
    on: ProposedFor = None,
    relative: Annotated[
        bool,
        typer.Option(
            "--relative",
            help="Write paths as they were typed: they are then those of the folder where a command is typed.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Look at your own pictures and write a recipe for them.

    It says what they hold, measures a training step on this machine, and chooses network, length and
    evaluation for the time that there is. The file is never overwritten.
    """
    from ...api.documents import proposal_document
    from ...proposal.recipe_file import recipe_file, write_recipe

    file = recipe_file(paths, out)
    proposal = look_and_propose(
        paths, size=size, minutes=minutes, on=on, relative=relative, quiet=as_json
    )
    write_recipe(file, proposal, paths)
    if as_json:
        print_json(proposal_document(file, proposal))
        return
    print_warnings(proposal.warnings)
    stderr_console.print(f"\n{file}  {proposal.times}")
    where = ["--on", on] if on else []
    next_commands(
        ["whipray", "train", file, *where],
        ["whipray", "train", file, "--dry-run"],
        ["whipray", "sweep", "cbdm", "--recipe", file, *where],
    )
