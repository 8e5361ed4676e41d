"""What is said of an evaluation of a thousand classes before it is begun."""

from __future__ import annotations

import pytest
from support.training import tiny

from whipray.platform.config.experiment import Experiment, with_values
from whipray.platform.runs.evaluation_outlook import metric_seconds, outlook

TRAIN = [1280 // (1 + c // 50) for c in range(1000)]
ALL = ("kid", "fid", "precision_recall", "prd")


def imagenet_lt(**values: object) -> Experiment:
    evaluation = {
        "images_per_class": 50,
        "metrics": list(ALL),
        "features": {"extractor": "inception"},
    }
    return with_values(tiny(), {"evaluation": {**evaluation, **values}}, "test")


def test_prd_of_too_few_images_a_class_is_said_to_be_undefined() -> None:
    lines = outlook(imagenet_lt(), TRAIN, [50] * 1000)
    assert "no F_8 or F_1/8 of overall (50,000 images, not 100,000)" in lines[-1]
    assert lines[-1].endswith("they need 100 images of each class, generated and real")
    assert "F_8" not in " ".join(outlook(imagenet_lt(images_per_class=100), TRAIN, [100] * 1000))


def test_the_work_of_a_setting_is_told() -> None:
    experiment = imagenet_lt()
    (line, *_) = outlook(experiment, TRAIN, [50] * 1000)
    assert line.startswith("evaluating a setting generates 50,000 images")
    whole, half = (metric_seconds(experiment, classes, 50 * classes) for classes in (1000, 500))
    # Products of all pairs are four times as many; those of covariances are less.
    assert 3 < whole / half < 4
    with_prd = metric_seconds(imagenet_lt(prd={"clusters_per_class": 10}), 1000, 50_000)
    assert 1000 < with_prd - whole < 5000  # 45 s a round of 50 on one core
    assert 1000 < whole < 3000  # measured at 2,000 and 4,000 images: about half an hour


@pytest.mark.parametrize(
    ("features", "metrics", "said"),
    [
        ({"extractor": "classifier"}, ["kid"], "set evaluation.features.extractor=inception"),
        (
            {"extractor": "inception"},
            ["kid", "agreement"],
            "label agreement comes from a classifier",
        ),
        ({"extractor": "inception"}, ["kid"], ""),
    ],
)
def test_networks_that_must_learn_a_thousand_classes(
    features: dict[str, str], metrics: list[str], said: str
) -> None:
    lines = outlook(imagenet_lt(features=features, metrics=metrics), TRAIN, [20] * 1000)
    assert len(lines) == (2 if said else 1)
    assert said in lines[-1]


def test_few_classes_are_not_talked_about() -> None:
    assert outlook(imagenet_lt(), TRAIN[:10], [5] * 10) == []
