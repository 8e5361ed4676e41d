"""The report: its rows, its refusals and its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from sklearn.datasets import load_digits

from whipray.platform.evaluation.bootstrap import Ints
from whipray.platform.evaluation.compare import read_evaluation
from whipray.platform.evaluation.config import EvaluationConfig
from whipray.platform.evaluation.evaluate import Classes, check_groups, evaluate
from whipray.platform.evaluation.extractors.base import Extracted, ExtractorInfo
from whipray.platform.evaluation.metrics.fid import frechet_distance
from whipray.platform.evaluation.pages.content import Pictures
from whipray.platform.evaluation.pages.report import render_report
from whipray.platform.evaluation.report import Report, comparable
from whipray.platform.generation.grid import class_grid
from whipray.trainers.errors import DataProblem, UsageProblem

NAMES = ("zero", "one", "two", "three", "<four>")
CLASSES = Classes(NAMES, (3, 100, 30, 10, 1))  # head first: 1, 2, 3, 0, 4
CONFIG = EvaluationConfig(bootstrap_resamples=40, min_real=1000, precision_recall={"k": 2})
INFO = ExtractorInfo("pixels", "0123456789abcdef", 64, "none", NAMES, {"trained_on": "nothing"})
ABOUT = {"reference": "ab12", "sampler": "ddim", "steps": 50, "omega": 1.5}


def digits(first: int, last: int, noise: bool = False) -> tuple[Extracted, Ints]:
    """Pixels as features and the nearest class mean as classifier; half of class 4 can be noise."""
    found = load_digits()
    labels = np.repeat(np.arange(5), last - first)
    rows = np.concatenate([np.flatnonzero(found.target == c)[first:last] for c in range(5)])
    features = found.data[rows].astype(np.float32) / 16
    if noise:
        fours = np.flatnonzero(labels == 4)[::2]
        features[fours] = np.random.default_rng(0).uniform(0, 1, (len(fours), 64))
    means = np.stack([found.data[found.target == c].mean(0) / 16 for c in range(5)])
    logits = -((features[:, None] - means) ** 2).sum(2)
    return Extracted(features, logits.astype(np.float32)), labels.astype(np.int64)


REAL = digits(0, 40)


def report_of(fake: tuple[Extracted, Ints], config: EvaluationConfig = CONFIG) -> Report:
    return evaluate(*fake, *REAL, CLASSES, INFO, config, ABOUT)


@pytest.fixture(scope="module")
def report() -> Report:
    """Other real digits as samples; half of class 4's are noise."""
    return report_of(digits(40, 60, noise=True))


def test_the_time_of_each_metric_is_kept_and_shown(report: Report, tmp_path: Path) -> None:
    assert report.seconds.keys() == set(CONFIG.metrics)
    assert all(seconds > 0 for seconds in report.seconds.values())
    report.save(tmp_path)
    read = Report.load(tmp_path)
    assert read.seconds == report.seconds
    page = render_report(replace(read, seconds={"fid": 12.34, "prd": 3700.0}), Pictures())
    assert all(words in page for words in ("<dd>12.3 s</dd>", "<dd>1:01:40</dd>"))


def test_it_says_which_value_of_how_many_it_computes() -> None:
    seen: list[tuple[str, int, int]] = []
    config = CONFIG.model_copy(update={"metrics": ("kid", "fid"), "rank_by": "kid/overall"})
    evaluate(
        *digits(40, 60), *REAL, CLASSES, INFO, config, ABOUT, on_metric=lambda *at: seen.append(at)
    )
    assert [words for words, *_ in seen[:2]] == ["kid of overall", "fid of overall"]
    # 4 rows with both metrics; the classes have few images, and KID alone
    assert [words for words, *_ in seen[8:]] == [f"kid of {NAMES[c]}" for c in (1, 2, 3, 0, 4)]
    assert [at for _, *at in seen] == [[done, 13] for done in range(13)]


def metrics(seen: Extracted, labels: Ints) -> dict[str, float]:
    return report_of((seen, labels)).metrics()


class TestReport:
    def test_rows_are_the_metrics_of_their_images(self, report: Report) -> None:
        assert [(row.name, row.classes) for row in report.rows] == [
            ("overall", (0, 1, 2, 3, 4)),
            ("many", (1,)),
            ("medium", (2,)),
            ("few", (3, 0, 4)),
        ]
        fake, labels = digits(40, 60, noise=True)
        few, real = np.isin(labels, [3, 0, 4]), np.isin(REAL[1], [3, 0, 4])
        fid = frechet_distance(fake.features[few], REAL[0].features[real])[0]
        row = report.rows[3]
        assert (row.n_generated, row.n_real) == (60, 120)
        assert row.values["fid"].value == pytest.approx(fid)
        assert report.replicates["fid/few"].shape == (41,)

    def test_noise_in_the_tail_shows_there_alone(self, report: Report) -> None:
        noisy, clean = report.metrics(), metrics(*digits(40, 60))
        for metric in ("kid", "fid"):
            assert noisy[f"{metric}/few"] > clean[f"{metric}/few_high"]
            assert noisy[f"{metric}/many"] == clean[f"{metric}/many"]
        for metric in ("precision", "agreement"):
            assert noisy[f"{metric}/few"] < clean[f"{metric}/few"] - 0.05
            assert noisy[f"{metric}/medium"] == clean[f"{metric}/medium"]
        last = report.per_class[-1]
        assert (last.class_id, last.group, last.train_count) == (4, "few", 1)
        assert last.values["kid"].low > 0
        assert report.worst(2)[0].class_id == 4

    def test_classes_reconcile_with_the_whole(self, report: Report) -> None:
        assert [row.class_id for row in report.per_class] == [1, 2, 3, 0, 4]
        overall = report.rows[0]
        assert sum(row.n_generated for row in report.per_class) == overall.n_generated == 100
        mean = np.mean([row.values["agreement"].value for row in report.per_class])
        assert overall.values["agreement"].value == pytest.approx(mean)

    def test_a_class_with_few_images_has_no_biased_number(self, report: Report) -> None:
        assert {name for row in report.per_class for name in row.values} == {"kid", "agreement"}
        found = report_of(digits(40, 60), CONFIG.model_copy(update={"min_real": 20}))
        assert {"fid", "recall"} < set(found.per_class[0].values)

    def test_a_seed_fixes_it(self) -> None:
        configs = (CONFIG, CONFIG, CONFIG.model_copy(update={"seed": 1}))
        a, b, c = (report_of(digits(40, 60), config).metrics() for config in configs)
        assert a == b
        assert a["kid/few"] == c["kid/few"]
        assert a["kid/few_low"] != c["kid/few_low"]

    def test_two_evaluations_are_resampled_alike(self, report: Report) -> None:
        other = report_of(digits(60, 80))
        same = report_of(digits(40, 60))  # the same images in all classes but 4
        assert (same.replicates["kid/many"] == report.replicates["kid/many"]).all()
        apart = {
            k: (other.replicates[k] - report.replicates[k])[1:].std()
            for k in ("kid/many", "fid/many")
        }
        for key, spread in apart.items():
            alone = np.hypot(*(r.replicates[key][1:].std() for r in (other, report)))
            assert spread < alone  # the real images are one set

    def test_features_that_are_not_finite_are_refused(self) -> None:
        fake, labels = digits(40, 60)
        broken = Extracted(fake.features.copy(), fake.logits)
        broken.features[3, 2] = np.nan
        with pytest.raises(DataProblem, match="features or logits of generated images are not fin"):
            report_of((broken, labels))

    def test_one_image_of_a_group_has_no_distance(self) -> None:
        fake, labels = digits(40, 60)
        keep = np.concatenate([np.flatnonzero(labels != 1), np.flatnonzero(labels == 1)[:1]])
        some = Extracted(fake.features[keep], fake.logits[keep])
        many = report_of((some, labels[keep])).rows[1]
        assert many.n_generated == 1
        assert set(many.values) == {"agreement"}

    def test_all_or_nothing_still_has_an_interval(self) -> None:
        fake, labels = digits(40, 60)
        far = Extracted(fake.features + 100, fake.logits)
        row = report_of((far, labels)).rows[0]
        assert row.values["precision"].value == row.values["recall"].value == 0
        assert 0 < row.values["precision"].high < 0.05  # Wilson's of 0 in 100

    def test_near_copies_are_a_share(self) -> None:
        fake, labels = digits(40, 60)
        config = CONFIG.model_copy(update={"metrics": (*CONFIG.metrics, "memorisation")})
        ratios = np.where(labels == 4, 0.1, 1.0)
        copied = np.where(np.arange(len(labels)) % 2, labels, 0)
        found = evaluate(
            fake, labels, *REAL, CLASSES, INFO, config, ABOUT, ratios, copied
        ).metrics()
        assert (found["copies/overall"], found["copies/few"], found["copies/many"]) == (
            0.2,
            1 / 3,
            0,
        )
        assert 0 < found["copies/many_high"] < 0.2
        assert found["copies_across/few"] == found["copies/few"] / 2

    def test_another_network_knows_no_labels(self) -> None:
        info = replace(INFO, class_names=None)
        found = evaluate(*digits(40, 60), *REAL, CLASSES, info, CONFIG, ABOUT).metrics()
        assert "kid/few" in found
        assert "agreement/few" not in found


def test_agreement_comes_from_the_logits_of_the_own_classes(report: Report) -> None:
    """Two networks: the first one's logits are of other classes, and have the wrong ones highest."""
    fake, labels = digits(40, 60, noise=True)
    other = np.tile(np.arange(7, dtype=np.float32), (len(labels), 1))
    own = replace(INFO, hash="f0f0", facts={"held_out_accuracy": 0.9, "images_held_out": 40})
    info = replace(INFO, class_names=None, own=own)
    real = Extracted(REAL[0].features, np.zeros((len(REAL[1]), 7), np.float32), REAL[0].logits)
    both = evaluate(
        Extracted(fake.features, other, fake.logits),
        labels,
        real,
        REAL[1],
        CLASSES,
        info,
        CONFIG,
        ABOUT,
    )
    assert both.rows[0].values["agreement"] == report.rows[0].values["agreement"]
    assert both.rows[0].values["kid"] == report.rows[0].values["kid"]
    assert both.provenance["extractor_hash"] == INFO.hash
    assert both.provenance["agreement_hash"] == "f0f0"
    assert "right on 90.0% of 40 held-out images" in str(both.provenance["label_network"])
    alone = evaluate(fake, labels, *REAL, CLASSES, replace(info, own=None), CONFIG, ABOUT)
    assert "agreement" not in alone.rows[0].values
    assert any("no label agreement" in line for line in alone.warnings)


def test_what_cannot_be_compared_is_refused() -> None:
    fake, labels = digits(40, 45)
    some = labels != 2
    less = Extracted(fake.features[some], fake.logits[some])
    with pytest.raises(DataProblem, match=r"no generated images of class 2 \(two\)"):
        report_of((less, labels[some]))
    with pytest.raises(DataProblem, match="class id 7 of generated images is outside"):
        report_of((fake, np.where(some, labels, 7)))
    with pytest.raises(DataProblem, match="25 generated images, class ids"):
        report_of((fake, labels[1:]))
    with pytest.raises(DataProblem, match=r"generated features are \(63,\), real ones \(64,\)"):
        report_of((Extracted(fake.features[:, 1:], fake.logits), labels))
    with pytest.raises(DataProblem, match="4 training counts for 5 classes"):
        evaluate(fake, labels, *REAL, Classes(NAMES, (1, 2, 3, 4)), INFO, CONFIG, ABOUT)
    with pytest.raises(UsageProblem, match="n_real"):
        evaluate(fake, labels, *REAL, CLASSES, INFO, CONFIG, {"n_real": 5})


def test_comparing_names_the_first_difference(report: Report) -> None:
    a = report.provenance
    assert comparable(a, {**a, "omega": 3.0, "seed": 7}) is None
    for field in ("extractor_hash", "n_generated", "reference", "sampler", "steps", "groups"):
        assert comparable(a, {**a, field: "other"}) == field
    assert comparable(a, {k: v for k, v in a.items() if k != "steps"}) == "steps"


def test_files_say_what_they_are(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    again = Report.load(tmp_path)
    assert again == replace(report, replicates={})
    found = read_evaluation(tmp_path)
    assert found.provenance == report.provenance
    np.testing.assert_allclose(found.replicates["kid/few"], report.replicates["kid/few"], rtol=1e-6)
    table = pq.read_table(tmp_path / "per_class.parquet")
    about = json.loads(table.schema.metadata[b"whipray"])
    assert about == {"provenance": report.provenance, "metrics": report.metrics()}
    first = table.to_pylist()[0]
    assert (first["class_name"], first["train_count"]) == ("one", 100)
    assert first["kid_low"] == report.per_class[0].values["kid"].low


class TestGrid:
    def test_pixels_are_repeated_from_head_to_tail(self) -> None:
        images = np.array([10, 20, 30, 40], np.uint8)[:, None, None, None] * np.ones(
            (4, 3, 8, 8), np.uint8
        )
        images[2, :, 0, 0] = (255, 0, 0)
        ids = np.array([0, 0, 1, 1])
        grid = np.asarray(
            class_grid(images, ids, ("tail", "head"), 2, scale=3, train_counts=[1, 50])
        )
        y, x = np.argwhere((grid == (255, 0, 0)).all(2)).min(0)
        first = grid[y : y + 24, x : x + 24]
        np.testing.assert_array_equal(first, images[2].transpose(1, 2, 0).repeat(3, 0).repeat(3, 1))
        below = np.argwhere((grid == 10).all(2)).min(0)
        assert below[0] >= y + 24
        assert below[1] == x

    def test_it_needs_pictures(self) -> None:
        with pytest.raises(DataProblem, match="0 images"):
            class_grid(np.zeros((0, 3, 8, 8), np.uint8), np.zeros(0, np.int64), ())


def test_ranking() -> None:
    assert EvaluationConfig().goal.optuna_direction == "minimize"
    assert EvaluationConfig(rank_by="recall/few").goal.optuna_direction == "maximize"
    with pytest.raises(ValidationError, match="rank_by"):
        EvaluationConfig(rank_by="kid/everything")


def test_a_value_to_rank_by_has_enough_images_before_anything_is_trained() -> None:
    config = EvaluationConfig(rank_by="recall/few", images_per_class=16)
    with pytest.raises(UsageProblem, match=r"needs 50 generated images, and .*=16 gives 48"):
        check_groups(config, (100, 80, 60, 40, 30, 20, 10, 5, 2))
    check_groups(config.model_copy(update={"images_per_class": 17}), (9, 8, 7, 6, 5, 4, 3, 2, 1))
