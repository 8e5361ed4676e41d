"""whipray config: a recipe as it resolves, and what a key means."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from .. import completion
from ..consoles import plain_table, print_json, stdout_console
from ..options import Json, Overrides, Recipe
from ..stores import StoreOptions, with_store_options

app = typer.Typer(help="Show a recipe's config, or what a key means.", no_args_is_help=True)


@app.callback()
def _config() -> None:
    """Show a recipe's config, or what a key means."""


@app.command()
@with_store_options
def show(
    recipe: Recipe, store: StoreOptions, overrides: Overrides = None, as_json: Json = False
) -> None:
    """Print every value of a recipe's config with its origin, as YAML that is a recipe itself."""
    from ...config.experiment import load_experiment
    from ..plan import config_document, print_config

    resolved = load_experiment(recipe, store.overrides(overrides or []))
    if as_json:
        print_json(config_document(resolved))
        return
    print_config(resolved)


@app.command()
def explain(
    key: Annotated[
        str,
        typer.Argument(
            help="A key, or a section for all of its keys.",
            metavar="KEY",
            autocompletion=completion.keys,
        ),
    ],
    as_json: Json = False,
) -> None:
    """Say what a key means: type, default, choices, range."""
    from ...config.key_facts import explain as facts_of

    facts = facts_of(key)
    if as_json:
        print_json({"keys": [asdict(fact) for fact in facts]})
        return
    if any(fact.key != key for fact in facts):
        table = plain_table("key", "default", "meaning")
        for fact in facts:
            name = f"{fact.key} ({fact.variant})" if fact.variant else fact.key
            table.add_row(name, fact.default, fact.text)
        stdout_console.print(table)
        return
    for fact in facts:
        of = f" (with {fact.variant})" if fact.variant else ""
        stdout_console.print(f"{fact.key}{of}")
        stdout_console.print(f"  {fact.text}")
        lines = {
            "type": f"{fact.type} {fact.range}".strip(),
            "choices": ", ".join(fact.choices),
            "default": fact.default,
        }
        for name, value in lines.items():
            if value:
                stdout_console.print(f"  {name:<9}{value}")
