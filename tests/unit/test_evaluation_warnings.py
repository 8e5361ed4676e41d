"""What a report says about values with little behind them: one list for page, terminal and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from whipray.platform.evaluation.config import EvaluationConfig
from whipray.platform.evaluation.evaluate import Classes, evaluate
from whipray.platform.evaluation.extractors.base import Extracted, ExtractorInfo, Value
from whipray.platform.evaluation.pages.content import Pictures
from whipray.platform.evaluation.pages.report import render_report
from whipray.platform.evaluation.report import Report
from whipray.platform.evaluation.warnings import at_chance

NAMES = ("head", "tail")
CONFIG = EvaluationConfig(
    bootstrap_resamples=20, metrics=("kid", "fid", "precision_recall", "inception_score")
)


def report(generated: int, real: int, accuracy: float = 0.9, tails: float | None = None) -> Report:
    """Of two classes with so many images each; normal features, or Student's with `tails` degrees."""
    rng = np.random.default_rng(0)

    def side(each: int) -> tuple[Extracted, np.ndarray]:
        size = (2 * each, 16)
        features = rng.standard_t(tails, size) if tails else rng.normal(size=size)
        logits = rng.normal(size=(2 * each, 2)).astype(np.float32)
        return Extracted(features.astype(np.float32), logits), np.arange(2 * each) % 2

    facts: Mapping[str, Value] = {"held_out_accuracy": accuracy, "images_held_out": 40}
    info = ExtractorInfo("net", "0123456789abcdef", 16, "none", NAMES, facts)
    classes = Classes(NAMES, (100, 10))
    return evaluate(*side(generated), *side(real), classes, info, CONFIG, {})


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    assert report(150, 150).warnings == ()


@pytest.mark.parametrize(
    ("accuracy", "images", "said"), [(0.125, 8, True), (0.3, 10, True), (0.97, 149, False)]
)
def test_a_feature_network_at_chance_is_named(accuracy: float, images: int, said: bool) -> None:
    about: Mapping[str, Value] = {
        "extractor_held_out_accuracy": accuracy,
        "extractor_images_held_out": images,
    }
    line = at_chance(about, 8)
    assert (line is not None) == said
    if line is not None:
        assert f"{accuracy:.1%} of {images} held-out images, and chance is 12.5%" in line


def test_the_network_of_label_agreement_is_judged_by_itself() -> None:
    about: Mapping[str, Value] = {
        "agreement_held_out_accuracy": 0.12,
        "agreement_images_held_out": 40,
    }
    assert at_chance(about, 8) is None
    line = at_chance(about, 8, "agreement")
    assert line is not None
    assert "label agreement cannot distinguish models" in line


def test_few_real_images_and_what_they_leave_undefined_are_named() -> None:
    few = report(150, 4)
    real, bias, undefined = few.warnings
    assert "8 images and 16 features" in bias
    assert real.startswith("2 of 2 classes have fewer than 10 real images (4 the smallest)")
    assert undefined.startswith("no Precision or Recall of overall (8 images, not 50), ")
    assert undefined.endswith(": give more generated and real images")
    assert not any("recall" in row.values for row in few.rows)
    score = report(20, 150).warnings
    assert any("no Inception Score of overall (40 images, not 100)" in line for line in score)
    assert all("more generated images" in line for line in score if "Inception" in line)


def test_fid_of_fewer_images_than_features_is_named() -> None:
    assert any(
        "mostly bias with 14 images and 16 features" in line for line in report(7, 150).warnings
    )
    assert not any("bias" in line for line in report(8, 150).warnings)


def test_heavy_tails_are_named() -> None:
    heavy = report(150, 150, tails=1.5).warnings
    assert len(heavy) == 2
    assert all("have heavy tails: intervals of FID and KID are too narrow" in h for h in heavy)


def test_the_page_and_the_files_have_the_same_list(tmp_path: Path) -> None:
    one = report(150, 4, accuracy=0.5)
    assert len(one.warnings) == 4
    one.save(tmp_path)
    assert Report.load(tmp_path).warnings == one.warnings
    page = render_report(one, Pictures())
    assert all(f"<li>{line}</li>" in page for line in one.warnings)
    assert "Before you believe" not in render_report(replace(one, warnings=()), Pictures())
    assert "&lt;b&gt;" in render_report(replace(one, warnings=("<b>",)), Pictures())
