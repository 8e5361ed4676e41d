"""The table of a balanced set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from .consoles import plain_table

if TYPE_CHECKING:  # imported on use, so that `--help` is quick
    from ..analysis.balance.counts import Count
    from ..analysis.balance.result import BalanceResult

COLUMNS = ("real", "generated", "kept", "near copies", "to train on")
CLASSES = 20
"""That are shown; the datasheet has all."""


def balance_table(result: BalanceResult) -> tuple[Table, int]:
    """Return one row for each group and class, and the number of classes that are left out.

    Of many classes those are shown that lost the largest share of their generated images, then those with the
    fewest real ones.
    """
    table = plain_table("", "", *COLUMNS)
    for column in table.columns[2:]:
        column.justify = "right"

    def add(row: Count, name: str, group: str) -> None:
        counts = (row.real, row.generated, row.kept, row.kept_copies, row.total)
        table.add_row(name, group, *(f"{count:,}" for count in counts))

    for row in result.counts.groups:
        add(row, row.name, "")
    worst = sorted(result.classes, key=lambda each: (-each.lost, each.real))[:CLASSES]
    for row in sorted(worst, key=lambda each: -each.real):
        add(row, row.name, row.group)
    return table, len(result.classes) - len(worst)
