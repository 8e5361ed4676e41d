"""The rest of the matrix of `speed`, and what that did not reach, for as long as there is time."""

from __future__ import annotations

from .cells import first_cells, other_cells
from .setting import Setting, parse
from .speed import measure_cells


def main(setting: Setting) -> None:
    if setting.toy:  # two kinds of cells that `speed` does not have
        others = other_cells(setting.batches)
        measure_cells(setting, [others[1], others[5]])
        return
    done = setting.rows_before("speed")
    cells = first_cells(setting.batches) + other_cells(setting.batches)
    measure_cells(setting, [cell for cell in cells if str(cell) not in done])


if __name__ == "__main__":
    main(parse("speed_rest"))
