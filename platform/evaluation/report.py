"""What an evaluation found: numbers with their intervals, how they were made, and their draws."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from ..storage import layout
from .arrays import Floats
from .bootstrap import Estimate
from .extractors.base import Value
from .metrics import METRICS, OUTPUTS

COMPARED = {
    "extractor_hash": "features come from another extractor",
    "reference": "they were compared with other real images",
    "n_real": "they were compared with another number of real images",
    "n_generated": "another number of images was generated",
    "sampler": "the images were drawn by another sampler",
    "steps": "the images were drawn in another number of steps",
    "eta": "the images were drawn with another eta",
    "variance": "the images were drawn with another variance",
    "clip_x0": "the images were drawn with and without clipping x_0",
    "weights": "the images were drawn with and without the reserved capacity",
    "groups": "the classes are grouped otherwise",
    **{key: why for metric in METRICS.values() for key, why in metric.compared.items()},
}
"""Provenance in which two reports must agree before their numbers are compared, and why not else."""


@dataclass(frozen=True)
class Row:
    """The numbers of all classes or of one group; what is undefined is absent."""

    name: str
    classes: tuple[int, ...]
    n_generated: int
    n_real: int
    values: Mapping[str, Estimate]


@dataclass(frozen=True)
class ClassRow:
    """The numbers of one class; with few images only those that few images can give."""

    class_id: int
    name: str
    group: str
    train_count: int
    n_generated: int
    n_real: int
    values: Mapping[str, Estimate]


@dataclass(frozen=True)
class Report:
    """One evaluation."""

    rows: tuple[Row, ...]
    """Overall first, then many, medium and few as far as they have classes."""
    per_class: tuple[ClassRow, ...]
    """From the most to the fewest training images."""
    provenance: Mapping[str, Value]
    replicates: Mapping[str, Floats] = field(default_factory=dict)
    """`kid/overall`, `kid/few`, ... -> (1 + B,): the estimate, then its resamples."""

    def metrics(self) -> dict[str, float]:
        """Flat, for tracking: `kid/overall`, `kid/few`, `kid/few_low`, `kid/few_high`, ..."""
        flat = {}
        for row in self.rows:
            for name, found in row.values.items():
                flat[f"{name}/{row.name}"] = found.value
                flat[f"{name}/{row.name}_low"] = found.low
                flat[f"{name}/{row.name}_high"] = found.high
        return flat

    def worst(self, count: int = 10) -> list[ClassRow]:
        """The classes with the highest KID, the highest first."""
        known = [row for row in self.per_class if "kid" in row.values]
        return sorted(known, key=lambda row: -row.values["kid"].value)[:count]

    def save(self, folder: Path) -> None:
        """Write the report, its per-class table (metrics in its metadata) and its draws."""
        content = {
            "rows": [asdict(row) for row in self.rows],
            "per_class": [asdict(row) for row in self.per_class],
            "provenance": dict(self.provenance),
        }
        (folder / layout.EVALUATION_REPORT).write_text(json.dumps(content))
        names = [n for n in OUTPUTS if any(n in row.values for row in self.per_class)]
        about = {"provenance": dict(self.provenance), "metrics": self.metrics()}
        table = pa.Table.from_pylist([_flat(row, names) for row in self.per_class], _schema(names))
        pq.write_table(
            table.replace_schema_metadata({"whipray": json.dumps(about)}),
            folder / layout.PER_CLASS_TABLE,
        )
        replicates: dict[str, Any] = {k: v.astype(np.float32) for k, v in self.replicates.items()}
        np.savez_compressed(folder / layout.REPLICATES, **replicates)

    @classmethod
    def load(cls, folder: Path) -> Report:
        """Read what `save` wrote, for showing it again; the draws stay where they are."""
        content = json.loads((folder / layout.EVALUATION_REPORT).read_text())
        return cls(
            tuple(Row(**_estimated(row)) for row in content["rows"]),
            tuple(ClassRow(**_estimated(row)) for row in content["per_class"]),
            content["provenance"],
        )


def comparable(a: Mapping[str, Value], b: Mapping[str, Value]) -> str | None:
    """The first field of `COMPARED` in which two provenances differ, or None."""
    return next((field for field in COMPARED if a.get(field) != b.get(field)), None)


def _estimated(row: dict[str, Any]) -> dict[str, Any]:
    values = {name: Estimate(**found) for name, found in row["values"].items()}
    lists = {key: tuple(value) for key, value in row.items() if isinstance(value, list)}
    return {**row, **lists, "values": values}


def _schema(names: list[str]) -> pa.Schema:
    about = [("class_id", pa.int64()), ("class_name", pa.string()), ("group", pa.string())]
    counts = [(n, pa.int64()) for n in ("train_count", "n_generated", "n_real")]
    found = [(f"{n}{end}", pa.float64()) for n in names for end in ("", "_low", "_high")]
    return pa.schema([*about, *counts, *found])


def _flat(row: ClassRow, names: list[str]) -> dict[str, Value]:
    flat: dict[str, Value] = {
        "class_id": row.class_id,
        "class_name": row.name,
        "group": row.group,
        "train_count": row.train_count,
        "n_generated": row.n_generated,
        "n_real": row.n_real,
    }
    for name in names:
        e = row.values.get(name)
        ends = (e.value, e.low, e.high) if e else (None, None, None)
        flat.update(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    return flat
