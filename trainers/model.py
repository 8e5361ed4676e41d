"""An exported model, ready to generate images; needs PyTorch, safetensors, pydantic and NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from .data.batches import to_uint8
from .errors import UsageProblem, did_you_mean
from .export import CARD, WEIGHTS, Exported, load_exported
from .samplers import AnySampler
from .sampling import SamplingConfig

Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]


class Model:
    """A trained model: class names, and images of any class."""

    def __init__(self, exported: Exported) -> None:
        self.exported = exported
        card = exported.card
        self.class_names: tuple[str, ...] = tuple(card.class_names)
        self.class_counts: tuple[int, ...] = tuple(card.class_counts)
        """Training images of each class."""
        self.image_shape: tuple[int, int, int] = card.image_shape
        """(C, H, W)."""

    def sample(
        self,
        classes: Sequence[int | str] | None = None,
        n: int = 1,
        *,
        omega: float | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> Pixels:
        """Return `n` images of each of `classes`, (N, C, H, W) uint8; their ids are `labels(classes, n)`.

        The k-th image of a class is the same in every call with the same seed and settings.

        Args:
            classes: ids or names; None: every class. A class that is named twice has 2 n images.
            n: images of each, at least 0; those of a class follow each other.
            omega: guidance strength; None: the model's.
            sampler: as `sampling.sampler.name`; None: the model's.
            steps: of the sampler; None: the model's, or those of the other sampler.
            seed: of the noise.

        Raises:
            UsageProblem: no such class, or a setting out of range.
        """
        labels = self.labels(classes, n)
        return self.generate(labels, changed_sampling(self.exported, omega, steps, sampler), seed)

    def labels(self, classes: Sequence[int | str] | None = None, n: int = 1) -> Ints:
        """Return the class ids of what `sample(classes, n)` returns, (N,).

        Raises:
            UsageProblem: no such class, or a negative number of images.
        """
        if isinstance(classes, str):
            raise UsageProblem(f"classes is the text {classes!r}", f"give a list: [{classes!r}]")
        if n < 0:
            raise UsageProblem(f"n={n} images of each class", "give 0 or more")
        chosen = range(len(self.class_names)) if classes is None else classes
        return np.repeat(np.array([self.class_id(c) for c in chosen], np.int64), n)

    def class_id(self, chosen: int | str) -> int:
        """Return the id of a class, which is given by its id or its name.

        Raises:
            UsageProblem: no such class.
        """
        names = self.class_names
        if isinstance(chosen, str):
            if chosen in names:
                return names.index(chosen)
        elif isinstance(chosen, int | np.integer) and 0 <= chosen < len(names):
            return int(chosen)
        raise UsageProblem(
            f"the model has no class {chosen!r}",
            f"{did_you_mean(str(chosen), names)}give ids 0 to {len(names) - 1} or names",
        )

    def generate(
        self, labels: Ints, sampling: SamplingConfig, seed: int, indices: Ints | None = None
    ) -> Pixels:
        """Return an image for each label, (N, C, H, W).

        Args:
            labels: (N,) class ids.
            sampling: how they are generated.
            seed: of the noise.
            indices: (N,), which image of its class each is; None: counted from 0.
        """
        which = None if indices is None else torch.from_numpy(indices)
        images = self.exported.sample(torch.from_numpy(labels), sampling, seed, indices=which)
        pixels: Pixels = to_uint8(images).numpy()
        return pixels


def open_model(folder: Path | str, device: torch.device | str | None = None) -> Model:
    """Return the model that was exported to a folder.

    Args:
        folder: with the weights and the card, or with a folder `model` that has them.
        device: None: the GPU where there is one.

    Raises:
        CheckpointProblem: the files are missing, or not what was written.
    """
    folder = Path(folder)
    if not is_exported(folder) and is_exported(folder / "model"):
        folder = folder / "model"
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Model(load_exported(folder, device))


def is_exported(folder: Path) -> bool:
    """Return whether a folder holds an exported model, by its files' names."""
    return (folder / CARD).is_file() and (folder / WEIGHTS).is_file()


def changed_sampling(
    model: Exported, omega: float | None, steps: int | None, sampler: str | None = None
) -> SamplingConfig:
    """Return the model's sampling with another strength, sampler or steps, where they are given.

    Raises:
        UsageProblem: a value out of range, a sampler or guidance that has no such setting, or a sampler
            that the model's noise process cannot take.
    """
    own = model.card.sampling
    if sampler is not None and sampler != own.sampler.name:
        known = sampler_names()
        if sampler not in known:
            raise UsageProblem(
                f"sampling.sampler.name: {sampler!r} is not one of its choices",
                f"{did_you_mean(sampler, known)}the choices are {', '.join(known)}",
            )
        own = _with(own, {"sampler": {"name": sampler}})
        try:
            own.check(model.card.process)
        except ValueError as reason:
            raise UsageProblem(str(reason), "choose another sampler") from reason
    for section, key, value in (("guidance", "omega", omega), ("sampler", "steps", steps)):
        chosen = getattr(own, section)
        if value is None:
            continue
        if key not in type(chosen).model_fields:
            raise UsageProblem(
                f"the model's {section} {chosen.name} has no {key}",
                f"leave {key} out: its images are those of {own.label}",
            )
        own = _with(own, {section: {**chosen.model_dump(mode="json"), key: value}})
    return own


def sampler_names() -> list[str]:
    """Return the names of all samplers."""
    union, *_ = get_args(AnySampler)
    return [kind.model_fields["name"].default for kind in get_args(union)]


def _with(own: SamplingConfig, sections: Mapping[str, Mapping[str, Any]]) -> SamplingConfig:
    try:
        return SamplingConfig.model_validate({**own.model_dump(mode="json"), **sections})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageProblem(
            f"sampling.{key}: {first['msg']}, {first['input']!r} given", "give another value"
        ) from error
