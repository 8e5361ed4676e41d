"""Images that are drawn and kept as files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from whipray.platform.analysis.sample import check_free, save
from whipray.trainers.errors import UsageProblem
from whipray.trainers.export import ModelCard
from whipray.trainers.guidance import ClassifierFree
from whipray.trainers.model import changed_sampling
from whipray.trainers.processes import EDMConfig
from whipray.trainers.samplers import DDIMSampler
from whipray.trainers.samplers.heun import HeunSampler
from whipray.trainers.sampling import SamplingConfig

OF_OTHERS = [
    "../../up",
    "/top",
    "..\\back",
    "..",
    "\x1b]0;title\x07",
    "two\nlines",
    "\u202egnp.exe",
    "\ud800",
    "\u732b" * 200,
    "",
    "a:b",
]
"""Class names come with the model, from whoever registered it."""


def written(names: list[str], to: Path) -> list[str]:
    """Return the folders of an image of each class."""
    card = ModelCard.model_construct(class_names=names, class_counts=[1] * len(names))
    images = np.zeros((len(names), 3, 8, 8), np.uint8)
    files = save(images, np.arange(len(names)), card, to, per_class=1)
    assert all(Path(file).is_file() for file in files)
    return [Path(file).relative_to(to).parts[0] for file in files]


def test_a_class_name_leads_nowhere_else_and_controls_no_terminal(tmp_path: Path) -> None:
    folders = written(OF_OTHERS, tmp_path / "out")
    assert folders[:4] == ["000-_.._up", "001-_top", "002-_back", "003-_"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == folders
    assert all(name.isprintable() and len(name.encode()) <= 255 for name in folders)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folders_are_named_as_the_classes_where_they_can_be(tmp_path: Path) -> None:
    species = ["Apis mellifera", "Araneus (diadematus)", "crêpe"]
    assert written(species, tmp_path / "species") == species
    assert written(["cat", "Cat"], tmp_path / "cats") == ["000-cat", "001-Cat"]
    assert written([".hidden", "b"], tmp_path / "dots") == ["000-hidden", "001-b"]


def test_images_are_not_mixed_with_what_a_folder_holds(tmp_path: Path) -> None:
    written(["cat"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.png").mkdir()
    for free in ("empty", "new/folder", "new.png", "out/grid.png"):
        check_free(tmp_path / free)
    for taken, said in (
        ("out", "already holds files"),
        ("folder.png", "is a folder"),
        ("out/cat/000000.png/x", "cannot be written"),
        ("x" * 300, "cannot be written"),
    ):
        with pytest.raises(UsageProblem, match=said):
            check_free(tmp_path / taken)


def test_a_model_may_be_sampled_by_another_sampler() -> None:
    card: Any = SimpleNamespace(sampling=SamplingConfig(sampler=DDIMSampler(steps=7)))
    card.process = EDMConfig()
    model: Any = SimpleNamespace(card=card)
    assert changed_sampling(model, None, None) == card.sampling
    assert changed_sampling(model, None, None, "heun").sampler == HeunSampler()
    assert changed_sampling(model, 1.5, 5, "heun") == SamplingConfig(
        sampler=HeunSampler(steps=5), guidance=ClassifierFree(omega=1.5)
    )
    with pytest.raises(UsageProblem, match="sampler ddpm takes the T steps of process vp"):
        changed_sampling(model, None, None, "ddpm")
    with pytest.raises(UsageProblem, match=r"'hoin' is not one of its choices"):
        changed_sampling(model, None, None, "hoin")
