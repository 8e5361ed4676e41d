"""Accuracy of classifiers among the values of an evaluation: shown, ranked by, and without what it has not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from whipray.platform.config.experiment import load_experiment
from whipray.platform.config.space import Space
from whipray.platform.evaluation.bootstrap import Estimate
from whipray.platform.evaluation.compare import compare, read_evaluation
from whipray.platform.evaluation.config import EvaluationConfig
from whipray.platform.evaluation.evaluate import Classes, evaluate
from whipray.platform.evaluation.extractors.nothing import Nothing
from whipray.platform.evaluation.pages.comparison import render_comparison
from whipray.platform.evaluation.pages.content import Pictures
from whipray.platform.evaluation.pages.report import render_report
from whipray.platform.evaluation.report import Report
from whipray.platform.tuning.sweep import Sweep, plan_sweep
from whipray.platform.tuning.verdict import Verdict
from whipray.trainers.errors import UsageProblem

CONFIG = EvaluationConfig(
    metrics=("classification",), rank_by="accuracy/few", bootstrap_resamples=20
)
FACTS = {
    "balancing": "to 9 of each class, probability 5e-07",
    "classifier": "resnet8, 2 epochs",
    "accuracy_interval": "Student's, over seeds",
}


def report_of(few: float) -> Report:
    """An evaluation of six classes by accuracy alone, of images that no network looks at."""
    labels = np.repeat(np.arange(6), 2)
    images = np.zeros((len(labels), 1, 8, 8), np.uint8)
    extracted = Nothing().extract(images)
    classes = Classes(tuple("abcdef"), (9, 8, 7, 6, 5, 4))
    given = {
        "accuracy/overall": Estimate(0.5, 0.4, 0.6),
        "accuracy/few": Estimate(few, few - 0.1, few + 0.1),
    }
    return evaluate(
        extracted, labels, extracted, labels, classes, Nothing.info, CONFIG, FACTS, given=given
    )


def test_accuracy_is_a_value_like_others() -> None:
    report = report_of(0.25)
    assert report.metrics() == {
        "accuracy/overall": 0.5,
        "accuracy/overall_low": 0.4,
        "accuracy/overall_high": 0.6,
        "accuracy/few": 0.25,
        "accuracy/few_low": 0.15,
        "accuracy/few_high": 0.35,
    }
    assert str(CONFIG.goal) == "accuracy/few"
    assert CONFIG.goal.is_better(0.3, 0.2)
    page = render_report(report, Pictures())
    assert "0.250" in page
    assert "to 9 of each class, probability 5e-07; resnet8, 2 epochs" in page
    assert "There are no features" in page


def test_accuracies_are_compared_without_intervals_of_their_differences(tmp_path: Path) -> None:
    evaluations = []
    for name, few in (("a", 0.25), ("b", 0.75)):
        (tmp_path / name).mkdir()
        report_of(few).save(tmp_path / name)
        evaluations.append(read_evaluation(tmp_path / name))
    found = compare(("a", "b"), evaluations, 0.95)
    rows = {(row.metric, row.group): row for row in found.rows}
    few = rows["accuracy", "few"]
    assert [e and e.value for e in few.estimates] == [0.25, 0.75]
    assert few.differences == (None, None)
    (line,) = (line for line in found.warnings if "differences of Accuracy" in line)
    assert line in render_comparison(found)
    verdict = Verdict(1, "accuracy/few", (0,), (0,), 0.95)
    assert "not known" in verdict.sentence
    assert "paired" not in verdict.sentence


def test_a_rank_by_accuracy_needs_classifiers_and_images_that_they_have_not_seen() -> None:
    with pytest.raises(UsageProblem, match="needs classification among"):
        load_experiment("digits-lt", ["evaluation.rank_by=accuracy/few"])
    ranked = ["evaluation.metrics=[classification]", "evaluation.rank_by=accuracy/few"]
    with pytest.raises(UsageProblem, match="would test classifiers on images that they are"):
        load_experiment("cifar100-lt", ranked)
    load_experiment("cifar100-lt", [*ranked, "data.validation.share=0.2"])


@pytest.mark.parametrize(
    ("sample", "base", "message"),
    [
        ("balancing.to", [], "no classifier is trained"),
        ("classification.generated_weight", [], "no classifier is trained"),
        ("optimizer.lr", [], "no effect on a finished checkpoint"),
    ],
)
def test_what_changes_nothing_on_a_checkpoint_is_no_parameter_of_the_sample_level(
    sample: str, base: list[str], message: str
) -> None:
    space = Space.model_validate(
        {
            "description": "x",
            "train": {"objective.tau": {"type": "float", "low": 1, "high": 2}},
            "sample": {sample: {"type": "categorical", "choices": [1, 2]}},
        }
    )
    experiment = load_experiment("digits-demo", base).value
    with pytest.raises(UsageProblem, match=message):
        Sweep("x", experiment, space).points.check()


def test_the_space_of_diffult_reads_no_test_image_and_ranks_by_the_few(tmp_path: Path) -> None:
    resolved, sweep = plan_sweep("diffult", "digits-demo", [f"storage.uri={tmp_path}"], None)
    assert resolved.value.data.validation is not None
    assert str(resolved.value.evaluation.goal) == "accuracy/few"
    assert {name.partition(".")[0] for name in sweep.space.sample} == {
        "sampling",
        "balancing",
        "classification",
    }
