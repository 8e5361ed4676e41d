"""Images that are drawn and kept as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from whipray.platform.analysis.sample import save
from whipray.trainers.export import ModelCard


def test_a_class_name_leads_nowhere_else(tmp_path: Path) -> None:
    names = ["../../up", "/top", "sea ray", "..\\back"]
    card = ModelCard.model_construct(class_names=names, class_counts=[1] * 4)
    images = np.zeros((4, 3, 8, 8), np.uint8)
    written = save(images, np.arange(4), card, tmp_path / "out", per_class=1)
    inside = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert inside == ["000-.._.._up", "001-_top", "002-sea_ray", "003-.._back"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert all(Path(file).is_file() for file in written)
