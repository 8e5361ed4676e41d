"""Groups, the report, its refusals and its files."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits

from whipray.platform.evaluation.config import EvaluationConfig
from whipray.platform.evaluation.features import FeatureConfig, FeatureNet
from whipray.platform.evaluation.fid import frechet_distance
from whipray.platform.evaluation.grid import class_grid
from whipray.platform.evaluation.groups import GroupsConfig, group_classes
from whipray.platform.evaluation.kid import kid
from whipray.platform.evaluation.report import Report, comparable, evaluate
from whipray.trainers.data.packed import PackedImages
from whipray.trainers.errors import DataProblem, UsageProblem

NAMES = ("zero", "one", "two", "three", "<four>")
COUNTS = [3, 100, 30, 10, 1]  # head first: 1, 2, 3, 0, 4
CONFIG = EvaluationConfig(bootstrap_resamples=40)


def digits(first: int, last: int) -> PackedImages:
    found = load_digits()
    rows = np.concatenate([np.flatnonzero(found.target == c)[first:last] for c in range(5)])
    images = (found.images[rows] * 255 / 16).round().astype(np.uint8)[:, None]
    return PackedImages(np.ascontiguousarray(images), found.target[rows].astype(np.int64), NAMES)


@pytest.fixture(scope="module")
def reference() -> PackedImages:
    return digits(0, 40)


@pytest.fixture(scope="module")
def net(reference: PackedImages) -> FeatureNet:
    return FeatureNet.fit(reference, FeatureConfig(epochs=8))


@pytest.fixture(scope="module")
def report(reference: PackedImages, net: FeatureNet) -> Report:
    """Other real digits as samples; half of class 4's are noise."""
    fake = digits(40, 60)
    images = fake.images.copy()
    noise = np.flatnonzero(fake.labels == 4)[::2]
    images[noise] = np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8), np.uint8)
    sampling = {"sampler": "ddim", "steps": 50, "omega": 1.5, "seed": 0}
    return evaluate(images, fake.labels, reference, COUNTS, net, CONFIG, sampling)


class TestGroups:
    def test_thirds_are_the_fixed_split(self) -> None:
        ten = group_classes(range(10, 0, -1), GroupsConfig())
        assert ten == {"many": [0, 1, 2], "medium": [3, 4, 5], "few": [6, 7, 8, 9]}
        hundred = group_classes(range(100, 0, -1), GroupsConfig())
        assert [(g[0], g[-1]) for g in hundred.values()] == [(0, 32), (33, 65), (66, 99)]
        assert group_classes([1, 5, 3], GroupsConfig()) == {"many": [1], "medium": [2], "few": [0]}

    def test_thresholds_are_open(self) -> None:
        config = GroupsConfig(kind="thresholds")
        counts = [101, 100, 20, 19]
        assert group_classes(counts, config) == {"many": [0], "medium": [1, 2], "few": [3]}
        assert group_classes([500, 300], config) == {"many": [0, 1]}  # the others are absent
        with pytest.raises(ValidationError, match="both groups"):
            GroupsConfig(kind="thresholds", many_above=5, few_below=20)


class TestReport:
    def test_rows_are_the_metrics_of_their_images(
        self, report: Report, reference: PackedImages, net: FeatureNet
    ) -> None:
        assert [(row.name, row.classes) for row in report.rows] == [
            ("overall", (0, 1, 2, 3, 4)),
            ("many", (1,)),
            ("medium", (2,)),
            ("few", (3, 0, 4)),
        ]
        fake = digits(40, 60)
        x = net.extract(fake.images).features[fake.labels == 1]
        y = net.extract(reference.images).features[reference.labels == 1]
        many = report.rows[1]
        assert (many.n_generated, many.n_real) == (20, 40)
        assert many.kid is not None
        assert many.fid is not None
        assert many.kid.value == pytest.approx(kid(x, y))
        assert many.fid.value == pytest.approx(frechet_distance(x, y))

    def test_noise_in_the_tail_shows_there_alone(
        self, report: Report, reference: PackedImages, net: FeatureNet
    ) -> None:
        fake = digits(40, 60)
        noisy = report.metrics()
        clean = evaluate(fake.images, fake.labels, reference, COUNTS, net, CONFIG).metrics()
        for metric in ("kid", "fid"):
            assert noisy[f"{metric}/few"] > clean[f"{metric}/few_high"]
            assert noisy[f"{metric}/many"] == clean[f"{metric}/many"]
        for metric in ("precision", "agreement"):
            assert noisy[f"{metric}/few"] < clean[f"{metric}/few"] - 0.05
            assert noisy[f"{metric}/medium"] == clean[f"{metric}/medium"]
        last = report.per_class.to_pylist()[-1]
        assert (last["class_id"], last["group"], last["train_count"]) == (4, "few", 1)
        assert last["kid_low"] > 0

    def test_classes_reconcile_with_the_whole(self, report: Report) -> None:
        rows = report.per_class.to_pylist()
        assert [row["class_id"] for row in rows] == [1, 2, 3, 0, 4]
        overall = report.rows[0]
        assert sum(row["n_generated"] for row in rows) == overall.n_generated == 100
        assert overall.agreement is not None
        mean = np.mean([row["agreement"] for row in rows])
        assert overall.agreement.value == pytest.approx(mean)

    def test_a_seed_fixes_it(self, reference: PackedImages, net: FeatureNet) -> None:
        fake = digits(40, 60)
        a, b, c = (
            evaluate(fake.images, fake.labels, reference, COUNTS, net, config).metrics()
            for config in (CONFIG, CONFIG, CONFIG.model_copy(update={"seed": 1}))
        )
        assert a == b
        assert a["kid/few"] == c["kid/few"]
        assert a["kid/few_low"] != c["kid/few_low"]

    def test_one_image_of_a_group_has_no_distance(
        self, reference: PackedImages, net: FeatureNet
    ) -> None:
        fake = digits(40, 60)
        keep = np.concatenate(
            [np.flatnonzero(fake.labels != 1), np.flatnonzero(fake.labels == 1)[:1]]
        )
        found = evaluate(fake.images[keep], fake.labels[keep], reference, COUNTS, net, CONFIG)
        many = found.rows[1]
        assert many.n_generated == 1
        assert (many.kid, many.fid, many.recall) == (None, None, None)
        assert many.agreement is not None
        assert "kid/many" not in found.metrics()
        assert np.isfinite(found.metrics()["kid/overall_high"])
        assert found.per_class.to_pylist()[0]["kid_low"] is None

    def test_what_cannot_be_compared_is_refused(
        self, reference: PackedImages, net: FeatureNet
    ) -> None:
        fake = digits(40, 45)
        images, ids = fake.images, fake.labels
        some = ids != 2
        with pytest.raises(DataProblem, match=r"no generated images of class 2 \(two\)"):
            evaluate(images[some], ids[some], reference, COUNTS, net, CONFIG)
        with pytest.raises(DataProblem, match="class id 7 is outside"):
            evaluate(images, np.where(some, ids, 7), reference, COUNTS, net, CONFIG)
        with pytest.raises(DataProblem, match="class id -1 is outside"):
            evaluate(images, np.where(some, ids, -1), reference, COUNTS, net, CONFIG)
        with pytest.raises(DataProblem, match="float32"):
            evaluate(images.astype(np.float32), ids, reference, COUNTS, net, CONFIG)
        with pytest.raises(DataProblem, match="25 generated images, class ids"):
            evaluate(images, ids[1:], reference, COUNTS, net, CONFIG)
        with pytest.raises(DataProblem, match="4 training counts for 5 classes"):
            evaluate(images, ids, reference, COUNTS[1:], net, CONFIG)
        renamed = replace(reference, class_names=("a", "b", "c", "d", "e"))
        with pytest.raises(DataProblem, match="other classes"):
            evaluate(images, ids, renamed, COUNTS, net, CONFIG)
        with pytest.raises(UsageProblem, match="n_real"):
            evaluate(images, ids, reference, COUNTS, net, CONFIG, {"n_real": 5})

    def test_comparing_names_the_first_difference(self, report: Report) -> None:
        a = report.provenance
        assert comparable(a, {**a, "omega": 3.0, "seed": 7}) is None
        for field in ("extractor_hash", "n_generated", "reference", "sampler", "steps"):
            assert comparable(a, {**a, field: "other"}) == field
        assert comparable(a, {k: v for k, v in a.items() if k != "steps"}) == "steps"


class TestFiles:
    def test_parquet_says_what_it_is(self, report: Report, tmp_path: Path) -> None:
        report.to_parquet(tmp_path / "per_class.parquet")
        table = pq.read_table(tmp_path / "per_class.parquet")
        about = json.loads(table.schema.metadata[b"whipray"])
        assert about == {"provenance": report.provenance, "metrics": report.metrics()}
        assert table.to_pylist() == report.per_class.to_pylist()

    def test_the_page_is_whole_and_alone(self, report: Report, tmp_path: Path) -> None:
        fake = digits(40, 60)
        grid = class_grid(fake.images, fake.labels, NAMES, 4, train_counts=COUNTS)
        report.to_html(tmp_path / "report.html", grid)
        text = (tmp_path / "report.html").read_text()

        (source,) = re.findall(r'(?:src|href)="([^"]*)"', text)
        picture = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(grid))
        assert not re.search(r"https?:|@import|url\(|<script", text)
        assert "&lt;four&gt;" in text
        assert "<four>" not in text
        assert report.provenance["extractor_hash"] in text
        assert "never with published Inception" in text
        assert f"{report.metrics()['kid/few']:.4f}" in text


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
    assert EvaluationConfig().direction == "minimize"
    assert EvaluationConfig(rank_by="recall/few").direction == "maximize"
    with pytest.raises(ValidationError, match="rank_by"):
        EvaluationConfig(rank_by="kid/everything")
