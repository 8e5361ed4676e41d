"""The rest of the matrix of `speed`, for as long as there is time."""

from __future__ import annotations

from .cells import other_cells
from .setting import Setting, parse
from .speed import measure_cells


def main(setting: Setting) -> None:
    cells = other_cells(setting.batches)
    # in a toy run the kinds of cells that `speed` has not shown
    measure_cells(setting, cells[:2] + cells[5:6] if setting.toy else cells)


if __name__ == "__main__":
    main(parse("speed_rest"))
