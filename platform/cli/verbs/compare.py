"""whipray compare: compare runs, with paired intervals."""

from __future__ import annotations

from typing import Annotated

import typer

from ..consoles import next_commands, print_json, print_warnings, stderr_console, stdout_console
from ..options import Json, OpenPage
from ..stores import StoreOptions, with_store_options


@with_store_options
def compare(
    targets: Annotated[
        list[str],
        typer.Argument(
            help="Two or more runs, each compared with the first; then overrides.",
            metavar="RUN RUN... [KEY=VALUE]...",
        ),
    ],
    store: StoreOptions,
    open_page: OpenPage = False,
    as_json: Json = False,
) -> None:
    """Compare runs, with paired intervals of the differences.

    Each run is evaluated as by `whipray evaluate`; what is known already is reused.
    """
    from ...analysis.compare import compare_runs
    from ...api.documents import comparison_document
    from ..page import show_page
    from ..status_line import StatusLine
    from ..tables import comparison_table

    root = store.open()
    names = [target for target in targets if "=" not in target]
    overrides = [target for target in targets if "=" in target]
    with StatusLine(stderr_console, "loading the checkpoints") as line:
        result = compare_runs(root, store.tracking, names, overrides, line.set)
    page = root.uri_of(result.page)
    print_warnings(result.comparison.warnings)
    if as_json:
        print_json(comparison_document(root, result))
    else:
        stdout_console.print(comparison_table(result.comparison))
        for name, reason in result.comparison.refused.items():
            stderr_console.print(f"\n{name} is left out: {reason}")
        stderr_console.print(
            f"\n[interval] of the difference to {names[0]}; ~ within noise. Of this many intervals, "
            f"{result.comparison.by_chance:.1f} exclude 0 by chance."
        )
        stderr_console.print(f"page  {page}")
        next_commands(
            ["whipray", "evaluate", names[-1], "--open", *store.words],
            ["whipray", "guidance", names[-1], *store.words],
        )
    if open_page:
        show_page(root, result.page)
