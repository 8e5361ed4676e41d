"""Paths in a config: made absolute where the command is typed.

Ray's workers and trials run in folders of their own, where a relative path would name something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from ...trainers.trainer_config import PretrainedConfig
from ..evaluation.extractors.config import Dinov2Config
from ..storage import layout

M = TypeVar("M", bound=BaseModel)


def names_folder(model: str) -> bool:
    """Return whether `pretrained.model` is the path of a folder, not a run or a registered model."""
    if model.startswith("models:/"):
        return False
    is_path = "/" in model and not layout.belongs_to_sweep(model)
    return is_path or model.startswith((".", "/", "~"))


def with_absolute_paths(config: M) -> M:
    """Return the config with every path absolute, seen from the present folder.

    `storage.uri` is not among them: `Storage` resolves it where it is opened.
    """
    changed = {key: absolute for key, absolute in _absolute_fields(config) if absolute is not None}
    return config.model_copy(update=changed) if changed else config


def relative_paths(config: BaseModel, section: str = "") -> list[tuple[str, str]]:
    """Return the dotted key and the value of every path that depends on the present folder."""
    return [
        (f"{section}{key}", str(path))
        for key, path in _paths(config)
        if not path.expanduser().is_absolute()
    ]


def _paths(config: BaseModel) -> Iterator[tuple[str, Path]]:
    """Yield every path below a config, by its dotted key."""
    for key, value in config:
        if isinstance(value, BaseModel):
            yield from ((f"{key}.{below}", path) for below, path in _paths(value))
        elif isinstance(value, tuple):
            yield from ((key, path) for path in value if isinstance(path, Path))
        elif (path := _as_path(config, key, value)) is not None:
            yield key, path


def _absolute_fields(config: BaseModel) -> Iterator[tuple[str, Any]]:
    """Yield each field that holds paths with its new value; None where it stays as it is."""
    for key, value in config:
        if isinstance(value, BaseModel):
            changed = with_absolute_paths(value)
            yield key, None if changed is value else changed
        elif isinstance(value, tuple) and any(isinstance(path, Path) for path in value):
            yield key, tuple(path.expanduser().absolute() for path in value)
        elif (path := _as_path(config, key, value)) is not None:
            yield key, type(value)(path.expanduser().absolute())


def _as_path(config: BaseModel, key: str, value: Any) -> Path | None:
    if isinstance(value, Path):
        return value
    if isinstance(config, PretrainedConfig) and key == "model" and names_folder(config.model):
        return Path(config.model)
    if isinstance(config, Dinov2Config) and key == "model":
        return config.folder
    return None
