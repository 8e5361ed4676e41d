"""whipray init: look at a person's own pictures and propose a recipe for them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ....trainers.errors import UsageProblem
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

    It says what was found, measures a training step on this machine, and chooses network, length and
    evaluation for the time that there is. The file is never overwritten.
    """
    from ...proposal.propose import model_name, name_of
    from ...proposal.recipe_text import recipe_text

    file = out or Path(f"{model_name(name_of(paths))}.yaml")
    if file.exists():
        raise UsageProblem(
            f"{file} exists, and is not overwritten",
            f"`whipray train {file}` uses it; give another --out, or remove it",
        )
    proposal = look_and_propose(
        paths, size=size, minutes=minutes, on=on, relative=relative, quiet=as_json
    )
    command = shlex.join(["whipray", "init", *map(str, paths)])
    text = recipe_text(proposal, command)
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as error:
        raise UsageProblem(
            f"{file} cannot be written: {error.strerror}", "give another --out"
        ) from error
    if as_json:
        print_json(
            {
                "file": str(file),
                "recipe": proposal.values,
                "warnings": list(proposal.warnings),
                "times": proposal.times,
                "inspection": proposal.inspection.as_json(),
            }
        )
        return
    print_warnings(proposal.warnings)
    stderr_console.print(f"\n{file}  {proposal.times}")
    where = ["--on", on] if on else []
    next_commands(
        ["whipray", "train", file, *where],
        ["whipray", "train", file, "--dry-run"],
        ["whipray", "sweep", "cbdm", "--recipe", file, *where],
    )
