"""whipray recipes: the packaged recipes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ....trainers.errors import UsageProblem
from ..consoles import next_commands, plain_table, print_json, stdout_console
from ..options import Json


def recipes(
    pattern: Annotated[
        str | None,
        typer.Argument(help="Part of a name, or a pattern: cifar100-*.", metavar="PATTERN"),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the packaged recipes: data, method, and what each is."""
    from ...config.recipes import describe_recipe, matching_names

    names = matching_names(pattern)
    if not names:
        raise UsageProblem(f"no recipe is named like {pattern}", "`whipray recipes` lists all")
    described = [describe_recipe(name) for name in names]
    if as_json:
        print_json({"recipes": [asdict(each) for each in described]})
        return
    table = plain_table("recipe", "data", "method", "what it is")
    for each in described:
        table.add_row(each.name, each.data, each.method, each.text)
    stdout_console.print(table)
    next_commands(["whipray", "config", "show", names[0]])
