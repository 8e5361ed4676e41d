"""whipray compare: runs side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import Endpoint, Json, OpenPage, StorageUri, TrackingUri
from ..output import (
    comparison_table,
    next_commands,
    print_json,
    show_page,
    stderr_console,
    stdout_console,
)


def compare(
    targets: Annotated[
        list[str],
        typer.Argument(
            help="Two runs or more, the first is what the others are compared with; then overrides.",
            metavar="RUN RUN... [KEY=VALUE]...",
        ),
    ],
    open_page: OpenPage = False,
    storage: StorageUri = None,
    endpoint: Endpoint = None,
    tracking: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Differences between runs, with paired intervals; each is evaluated as `whipray evaluate` does.

    What is known already is not computed again.
    """
    from ...analysis.compare import compare_runs
    from ..status_line import StatusLine
    from ..stores import open_storage

    root = open_storage(storage, endpoint)
    names = [target for target in targets if "=" not in target]
    overrides = [target for target in targets if "=" in target]
    state = {"line": "loading the checkpoints"}
    with StatusLine(stderr_console, lambda: state["line"]):
        found = compare_runs(root, tracking, names, overrides, lambda x: state.update(line=x))
    if as_json:
        print_json({**found.document(), "page": root.uri_of(found.page)})
    else:
        stdout_console.print(comparison_table(found.comparison))
        for name, reason in found.comparison.refused.items():
            stderr_console.print(f"\n{name} is left out: {reason}", markup=False)
        stderr_console.print(
            f"\n[interval] of the difference to {names[0]}; ~ within noise. Of so many differences "
            f"{found.comparison.by_chance:.1f} would leave 0 out by chance.",
            markup=False,
        )
        stderr_console.print(f"page  {root.uri_of(found.page)}", markup=False)
        next_commands(f"whipray evaluate {names[-1]} --open", f"whipray guidance {names[-1]}")
    if open_page:
        show_page(root, found.page)
