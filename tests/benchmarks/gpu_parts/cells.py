"""The trainings whose speed is measured, in the order of what is most worth knowing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

Mode = Literal["eager", "recomputed", "regional", "full", "graphs"]
Precision = Literal["bf16", "tf32", "fp32"]

CBDM = {"name": "cbdm"}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "DDPM": {"name": "ddpm"},
    "CBDM": CBDM,
    "CBDM, thin 1/2": {**CBDM, "thin": 0.5},
    "CBDM, gamma 0": {**CBDM, "gamma": 0.0},
    "OC": {"name": "oc"},
    "CALL over OC": {"name": "call", "base": {"name": "oc", "label_drop": 0.0}},
    # how many rows have a regulariser differs from step to step: a shape that does not stand still
    "CBDM, 10 % dropped": {**CBDM, "label_drop": 0.1},
}
MAIN = "DDPM", "CBDM"
ENGINES: dict[Precision, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "tf32": {"precision": "fp32", "tf32": True},
    "fp32": {"precision": "fp32", "tf32": False},
}
MODES: dict[Mode, dict[str, Any]] = {
    "eager": {},
    "recomputed": {"activation_checkpointing": True},
    "regional": {"compile": "regional"},
    "full": {"compile": "full"},
    "graphs": {"compile": "graphs"},
}


@dataclass(frozen=True)
class Cell:
    """One training to measure."""

    objective: str
    batch: int
    precision: Precision = "bf16"
    mode: Mode = "eager"

    def __str__(self) -> str:
        return f"{self.objective}, {self.batch}, {self.precision}, {self.mode}"


def first_cells(batches: tuple[int, int, int]) -> list[Cell]:
    """What the targets ask for: bf16 at the main batch, eager, then compiled."""
    main, small, large = batches
    cells = [Cell("DDPM", main), Cell("DDPM", main, mode="regional"), Cell("CBDM", main)]
    cells += [Cell("DDPM", main, mode="graphs"), Cell("CBDM", main, mode="regional")]
    cells += [Cell(name, main) for name in OBJECTIVES if name not in MAIN]
    cells += [Cell("DDPM", large, mode="recomputed"), Cell("CBDM", main, mode="graphs")]
    cells += [Cell(name, batch) for batch, name in product((large, small), MAIN)]
    cells += [Cell(name, main, precision) for precision, name in product(("tf32", "fp32"), MAIN)]
    cells += [Cell(name, main, mode="full") for name in MAIN]
    return cells


def other_cells(batches: tuple[int, int, int]) -> list[Cell]:
    """The rest of the matrix."""
    main, small, large = batches
    others = [name for name in OBJECTIVES if name not in MAIN]
    cells = [
        Cell("CBDM, 10 % dropped", main, mode="regional"),
        Cell("DDPM", large, mode="regional"),
        Cell("DDPM", small, mode="graphs"),
        Cell("CBDM", large, mode="regional"),
    ]
    cells += [Cell(name, batch) for batch, name in product((large, small), others)]
    cells += [Cell(name, main, "tf32") for name in others]
    cells += [Cell(name, main, mode="regional") for name in others]
    cells += [Cell(name, batch, "tf32") for batch, name in product((large, small), OBJECTIVES)]
    cells += [Cell(name, main, "tf32", "regional") for name in MAIN]
    modes: tuple[Mode, ...] = ("regional", "graphs")
    cells += [Cell(name, small, mode=mode) for mode, name in product(modes, OBJECTIVES)]
    return list(dict.fromkeys(cells))
