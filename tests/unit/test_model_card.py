"""The model card: what it says of data, scores and use, and that it stays a card for odd or many classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.exported import export_small

from whipray.platform.config.experiment import TrackingConfig, load_experiment
from whipray.platform.evaluation.bootstrap import Estimate
from whipray.platform.evaluation.report import Report, Row
from whipray.platform.runs.model_card import Described, render_model_card
from whipray.platform.storage.config import StorageConfig
from whipray.platform.storage.store import Storage
from whipray.platform.tracking.registry import DESCRIPTION_CHARACTERS, get, set_description
from whipray.platform.tracking.tracker import open_tracker
from whipray.trainers.export import ModelCard

EXPERIMENT = load_experiment("digits-lt", ["objective.tau=1.5"]).value
COPIES = Estimate(0.25, 0.125, 0.5)


def report(warnings: tuple[str, ...] = ()) -> Report:
    values = {"kid": Estimate(0.0123456, 0.011, 0.014), "copies": COPIES}
    rows = (
        Row("overall", (0, 1, 2), 300, 60, values),
        Row("many", (0,), 100, 20, values),
        Row("few", (1, 2), 200, 40, {"kid": Estimate(0.5, 0.4, 0.6)}),
    )
    about = {
        "extractor": "whipray-resnet-64",
        "extractor_hash": "0123456789abcdef",
        "confidence": 0.9,
        "reference_source": "digits, reference",
        "reference_per_class": "20 to 20",
    }
    return Report(rows, (), about, warnings)


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def rows_of(text: str) -> list[list[str]]:
    """The cells of a Markdown table's rows, without titles."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def described(tmp_path: Path, **changes: Any) -> Described:
    card = export_small(tmp_path, changes.pop("names", ("cat", "dog", "owl")), **changes)
    return Described("pets", card, EXPERIMENT, report(), "mine", "Sweep s: not told apart from 3.")


def test_it_says_what_the_model_is_and_how_good(tmp_path: Path) -> None:
    text = render_model_card(described(tmp_path))
    assert text.startswith("# pets\n")
    assert "colour images of 8 x 8 pixels, of 3 classes" in text
    assert "13 images, 9 to 1 of a class. Sweep s: not told apart from 3." in text
    assert rows_of(section(text, "Data")) == [
        ["cat", "9", "many"],
        ["dog", "3", "few"],
        ["owl", "1", "few"],
    ]
    method = section(text, "Method")
    assert "`cbdm`, network `unet`, noise process `vp`. Run: `mine`." in method
    assert "`objective.tau=1.5`" in method
    assert "ddim 2 steps, omega 0.5" in method
    scores = section(text, "Scores")
    assert rows_of(scores)[0] == [
        "overall",
        "300",
        "60",
        "0.0123 [0.011, 0.014]",
        "0.25 [0.125, 0.5]",
    ]
    assert rows_of(scores)[2] == ["few", "200", "40", "0.5 [0.4, 0.6]", ""]
    assert "90% intervals" in scores
    assert "`whipray-resnet-64`" in scores
    assert "digits, reference, 20 to 20 of a class" in scores
    assert "Near copies of training images, as a share of the generated ones: copies 0.25" in scores
    assert "owl has 1." in section(text, "Limits")
    assert section(text, "Licence").count("to be stated") == 2


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    of = described(tmp_path)
    assert "not evaluated" in section(
        render_model_card(Described("pets", of.card, EXPERIMENT)), "Scores"
    )
    lines = tuple(f"warning {number}" for number in range(9))
    text = render_model_card(Described("pets", of.card, EXPERIMENT, report(lines)))
    assert "- warning 5\n- and 3 more" in text
    assert "warning 6" not in text


def test_names_cannot_break_it(tmp_path: Path) -> None:
    text = render_model_card(described(tmp_path, names=("a|b", 'say "x"', "two\nlines")))
    data = section(text, "Data")
    assert "| a\\|b | 9 | many |" in data
    assert "| two\\nlines | 1 | few |" in data
    example = section(text, "Use").partition("```python\n")[2].partition("```")[0]
    compile(example, "card", "exec")
    quoted = render_model_card(described(tmp_path, names=('say "x"', "b", "c")))
    compile(section(quoted, "Use").partition("```python\n")[2].partition("```")[0], "card", "exec")


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_a_thousand_classes_are_cut_to_what_mlflow_keeps(tmp_path: Path) -> None:
    card = export_small(tmp_path).model_dump()
    many = ModelCard.model_validate(
        card
        | {
            "class_names": [f"class {c} " + "x" * 200 for c in range(1000)],
            "class_counts": list(range(1000, 0, -1)),
        }
    )
    text = render_model_card(Described("pets", many, EXPERIMENT))
    listed = rows_of(section(text, "Data"))
    assert len(listed) == 21
    assert listed[10][0] == "... 980 more"
    assert listed[-1][1] == "1"

    tracker = open_tracker(TrackingConfig(), Storage(StorageConfig(uri=str(tmp_path / "store"))))
    tracker.client.create_registered_model("pets")
    made = tracker.client.create_model_version("pets", str(tmp_path))
    set_description(tracker, get(tracker, "pets", str(made.version)), text)
    kept = tracker.client.get_model_version("pets", str(made.version)).description
    assert 4000 < len(kept) <= DESCRIPTION_CHARACTERS < len(text)
    assert text.startswith(kept.partition("\n\n...")[0])
    assert kept.endswith("README.md in the model's files)")
