"""Which source a command names: a recipe's, a data section in a file, or images themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...trainers.data import DataConfig
from ...trainers.data.locations import as_written, in_bucket
from ...trainers.data.tar_shards import BRACES
from ...trainers.errors import UsageProblem
from ..config.experiment import Experiment, load_experiment
from ..config.layers import Layer, parse_override, resolve
from ..config.paths import with_absolute_paths
from ..config.recipes import recipe_layers
from .source import source_of

RECIPES = (".yaml", ".yml")
SECTION = ".json"
"""Suffix of a file with a data section alone."""
ANY_RECIPE = "digits-lt"
"""Whose other sections fill an experiment of which only `data` is used."""


def data_of(
    sources: Sequence[str], root: str | None = None, overrides: Sequence[str] = ()
) -> DataConfig:
    """Return the data section that a command names, with absolute paths.

    Args:
        sources: a recipe, or what `source_of` takes.
        root: folder or address that the paths in lists start from.
        overrides: dotted, such as data.image_size=32.

    Raises:
        UsageProblem: no such recipe, source or key.
        DataProblem: a file that cannot be read.
    """
    first = as_written(Path(sources[0]))
    suffix = Path(sources[0]).suffix.lower()
    if len(sources) == 1 and not in_bucket(first) and root is None:
        is_name = "/" not in sources[0] and not BRACES.search(sources[0])
        if suffix in RECIPES or (is_name and not Path(sources[0]).expanduser().exists()):
            return load_experiment(sources[0], list(overrides)).value.data
        if suffix == SECTION:
            return _resolved(json.loads(Path(sources[0]).read_text()), overrides)
    data = with_absolute_paths(source_of(sources, root))
    return _resolved(data.model_dump(mode="json", exclude_unset=True), overrides, data.source)


def _resolved(
    section: dict[str, Any], overrides: Sequence[str], source: str | None = None
) -> DataConfig:
    for override in overrides:
        if not override.startswith("data."):
            raise UsageProblem(
                f"{override.partition('=')[0]} is no setting of the images",
                "give data.KEY=VALUE, such as data.image_size=32",
            )
    named = {**section, **({"source": source} if source else {})}
    layers = [
        *recipe_layers(ANY_RECIPE),
        Layer("SOURCE", {"data": named}),
        *map(parse_override, overrides),
    ]
    data: DataConfig = resolve(Experiment, layers).value.data
    return data
