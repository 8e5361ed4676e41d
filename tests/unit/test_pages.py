"""What the pages say: numbers, names, directions, and nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.page_reader import Reader
from support.reports import (
    near,
    noise_images,
    synthetic_comparison,
    synthetic_curve,
    synthetic_pictures,
    synthetic_report,
    synthetic_training,
)

from whipray.platform.evaluation.bootstrap import Estimate
from whipray.platform.evaluation.metrics import OUTPUTS
from whipray.platform.evaluation.pages.charts import class_chart, curve_chart
from whipray.platform.evaluation.pages.comparison import render_comparison
from whipray.platform.evaluation.pages.content import (
    BestPoint,
    CopyPair,
    CurvePoint,
    Pictures,
    WorstClass,
)
from whipray.platform.evaluation.pages.formatting import Axis, digits
from whipray.platform.evaluation.pages.guidance import render_guidance
from whipray.platform.evaluation.pages.report import comparability, render_report
from whipray.platform.evaluation.pages.settings import Settings
from whipray.platform.evaluation.pages.tiles import strip
from whipray.platform.evaluation.pages.training_curves import training_charts
from whipray.platform.evaluation.report import Report
from whipray.trainers.data.groups import GroupsConfig
from whipray.trainers.guidance import (
    ClassifierFree,
    CountGuidance,
    GroupGuidance,
    GuidanceConfig,
    IntervalGuidance,
)
from whipray.trainers.samplers import DDIMSampler
from whipray.trainers.sampling import SamplingConfig

NAMES = ("zero", "one", "two", "three", "<four>", "five", "six", "seven", "eight & co", "nine")
SECTIONS = {"groups", "classes", "worst", "samples", "guidance", "copies", "provenance", "method"}


@pytest.fixture(scope="module")
def report() -> Report:
    """Ten classes, whose third has too few images for KID, and no recall of the few."""
    whole = synthetic_report(10, names=NAMES)
    third = replace(whole.per_class[2], values={"agreement": Estimate(0.5, 0.4, 0.6)})
    few = replace(whole.rows[3], values={**whole.rows[3].values})
    del few.values["recall"]  # type: ignore[attr-defined]
    return replace(
        whole,
        rows=(*whole.rows[:3], few),
        per_class=(*whole.per_class[:2], third, *whole.per_class[3:]),
    )


@pytest.fixture(scope="module")
def full(report: Report) -> str:
    """A page with every section."""
    pictures = synthetic_pictures(report, 1, 8)
    grid = Image.new("L", (40, 40))
    return render_report(report, replace(pictures, grid=grid), synthetic_curve())


class TestReport:
    def test_every_number_stands_with_its_interval(self, report: Report, full: str) -> None:
        forests = [t for t in Reader(full).tables if t[0][0] == "overall"]
        assert len(forests) == len(OUTPUTS)
        for table, (name, output) in zip(forests, OUTPUTS.items(), strict=True):
            for shown, row in zip(table, report.rows, strict=True):
                if (e := row.values.get(name)) is None:
                    assert (name, row.name) == ("recall", "few")
                    assert shown[:2] == ["few", "–"]
                    continue
                value, low, high = (f"{x:.{output.decimals}f}" for x in (e.value, e.low, e.high))
                assert shown[:3] == [row.name, value, f"{low} to {high}"]

    def test_every_class_is_in_the_table(self, report: Report, full: str) -> None:
        (table,) = (t for t in Reader(full).tables if t[0][0] == "Class")
        assert table[0][5:] == ["KID", "Label agreement"]
        assert [row[0] for row in table[1:]] == list(NAMES)
        kid = report.per_class[9].values["kid"]
        assert table[10][1:5] == ["few", "5", "50", "100"]
        assert table[10][5].startswith(f"{kid.value:.4f}{kid.low:.4f} to {kid.high:.4f}")
        assert table[3][5:] == ["–", "0.5000.400 to 0.600"]

    def test_what_is_undefined_says_why(self, full: str) -> None:
        tooltips = Reader(full).tooltips
        assert tooltips.count("too few images") == 2
        assert (
            "too few images" not in Reader(render_report(synthetic_report(10), Pictures())).tooltips
        )
        assert "1 of 10 have too few images" in full

    def test_names_are_escaped_everywhere(self, full: str) -> None:
        assert "&lt;four&gt;" in full
        assert "<four>" not in full
        assert "eight &amp; co" in full

    def test_it_needs_nothing_else(self, full: str) -> None:
        addresses = Reader(full).addresses
        assert any(a.startswith("data:image/png") for a in addresses)
        assert all(a.startswith(("data:image/png;base64,", "#")) for a in addresses)
        assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r'"data:[^"]*"', "", full))
        (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', full)
        assert policy.startswith("default-src 'none'; img-src data:;")

    def test_only_sections_with_content_appear(self, report: Report, full: str) -> None:
        assert Reader(full).sections == SECTIONS
        bare = replace(
            report,
            rows=tuple(
                replace(r, values={k: v for k, v in r.values.items() if k != "copies"})
                for r in report.rows
            ),
        )
        page = render_report(bare, Pictures(), synthetic_curve()[:1])
        assert Reader(page).sections == {"groups", "classes", "provenance", "method"}
        assert not any(a in page for a in ("#worst", "#samples", "#guidance", "#copies", "<img"))

    def test_provenance_is_whole(self, report: Report, full: str) -> None:
        shown = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", full))
        assert shown.keys() == {key.replace("_", " ") for key in report.provenance}
        assert shown["extractor hash"] == report.provenance["extractor_hash"]
        assert (shown["clip x0"], shown["omega"], shown["n real"]) == ("yes", "1.5", "1000")

    def test_it_says_what_the_numbers_compare_with(self, report: Report, full: str) -> None:
        assert "Not comparable with published Inception scores." in full
        own, why = comparability(report.provenance)
        assert own.startswith("Not comparable")
        assert "trained on this data set" in why
        torchvision = {"extractor": "torchvision-resnet50"}
        assert comparability(torchvision)[0].startswith("Not comparable")
        inception = {"extractor": "inception-v3-fid", "extractor_as_published": False}
        assert comparability(inception)[0].startswith("Not comparable")
        published = comparability({**inception, "extractor_as_published": True})
        assert published[0].startswith("Comparable")
        assert "same number of images" in published[1]

    def test_near_copies_are_counted(self, report: Report, full: str) -> None:
        (table,) = (t for t in Reader(full).tables if t[0][:2] == ["Group", "Near copies"])
        for shown, row in zip(table[1:], report.rows, strict=True):
            near_copies = round(row.values["copies"].value * row.n_generated)
            across = round(row.values["copies_across"].value * row.n_generated)
            assert shown[:4] == [row.name, *map(str, (near_copies, across, row.n_generated))]

    def test_other_provenance_and_few_rows_do(self) -> None:
        """One group, no settings, one class: as for a folder of images from elsewhere."""
        one = synthetic_report(1)
        few = {"n_generated": 50, "n_real": 100, "steps": None}
        page = render_report(replace(one, provenance=few), Pictures())
        assert Reader(page).sections == {"groups", "classes", "copies", "provenance", "method"}
        assert "Generated images</h1>" in page

    def test_a_thousand_classes_stay_small(self) -> None:
        report = synthetic_report(1000, every_number=True)
        page = render_report(report, synthetic_pictures(report, 3, 64), synthetic_curve())
        assert len(page.encode()) <= 5_000_000
        (table,) = (t for t in Reader(page).tables if t[0][0] == "Class")
        assert len(table) == 1001
        assert all(len(row) == 5 + len(OUTPUTS) for row in table)
        assert '<details class="below"><summary>Table of 1,000 classes' in page


class TestCharts:
    @pytest.mark.parametrize("classes", [1, 10, 150, 151, 1000])
    def test_bars_are_as_high_as_their_numbers(self, classes: int) -> None:
        report = synthetic_report(classes)
        chart = class_chart(report.per_class)
        assert chart
        top = float(chart.y[-1].text)
        paths = "".join(band.bars for band in chart.bands)
        bars = re.findall(r"M([\d.]+) ([\d.]+)V([-\d.]+)h", paths)
        assert [int(float(x)) for x, _, _ in bars] == list(range(classes))
        for (_, zero, y), row in zip(bars, report.per_class, strict=True):
            value = top * (float(zero) - float(y)) / 100
            assert value == pytest.approx(row.values["kid"].value, abs=1e-4 * top)
        assert bool(chart.whiskers) == (classes <= 150)
        assert bool(chart.running) == (classes > 150)
        assert len(chart.hovers) <= 125

    def test_negative_kid_hangs_below_zero(self) -> None:
        report = synthetic_report(2)
        below = {"kid": Estimate(-0.01, -0.02, 0.01)}
        chart = class_chart([replace(report.per_class[0], values=below), report.per_class[1]])
        assert chart
        (zero, y), *_ = re.findall(r"M[\d.]+ ([\d.]+)V([-\d.]+)h", chart.bands[0].bars)
        assert float(zero) < float(y) <= 100
        assert chart.y[0].text == "−0.025"

    def test_headings_stand_over_their_classes(self) -> None:
        rows = synthetic_report(10).per_class
        chart = class_chart(rows)
        assert chart
        assert [(b.name, b.left, b.width) for b in chart.bands] == [
            ("many", 0, 30),
            ("medium", 30, 30),
            ("few", 60, pytest.approx(40)),
        ]
        scattered = [replace(r, group=("many", "few")[i % 2]) for i, r in enumerate(rows)]
        chart = class_chart(scattered)
        assert chart
        assert [(b.name, b.left, b.width) for b in chart.bands] == [
            ("many", 0, 50),
            ("few", 50, 50),
        ]

    def test_without_kid_another_number_is_drawn(self) -> None:
        rows = [
            replace(row, values={"agreement": row.values["agreement"]})
            for row in synthetic_report(3).per_class
        ]
        chart = class_chart(rows)
        assert chart
        assert (chart.title, chart.better) == ("Label agreement", "higher")
        assert class_chart([replace(row, values={}) for row in rows]) is None

    def test_curves_know_their_best(self) -> None:
        points = synthetic_curve()
        for key, best in (("kid/few", min), ("recall/overall", max)):
            chart = curve_chart(points, key)
            assert chart
            _, at = best((p.values[key].value, i) for i, p in enumerate(points))
            found = points[at]
            assert f"omega {found.omega:g} ({found.sampling.sampler.label})" in chart.best_text
            assert chart.best[0] == pytest.approx(100 * found.omega / 3, abs=0.01)
            assert [line.label for line in chart.lines] == ["ddim 50 steps", "ddpm"]
            assert chart.chosen == 50
            assert chart.x_title == "guidance omega"
        assert curve_chart(points[:1], "kid/few") is None
        assert curve_chart(points, "f_8/few") is None

    def test_axes_hold_all_and_end_on_round_numbers(self) -> None:
        axis = Axis.over([0.013, 0.047])
        assert (axis.low, axis.high) == (pytest.approx(0.01), pytest.approx(0.05))
        assert Axis.over([7.0]).low <= 7 < Axis.over([7.0]).high
        assert Axis.over([0.0, 0.0]).high > 0
        for output in np.random.default_rng(0).normal(0, 50, (200, 3)):
            axis = Axis.over(output)
            assert axis.low <= output.min() < output.max() <= axis.high
            assert 2 <= len(axis.ticks) <= 8

    def test_digits(self) -> None:
        assert digits(-0.00004, 4) == "0.0000"
        assert digits(-0.012, 3, sign=True) == "−0.012"
        assert digits(0.5, 1, sign=True) == "+0.5"


class TestTiles:
    @pytest.mark.parametrize(("channels", "side", "scale"), [(1, 8, 7), (3, 32, 2), (3, 64, 1)])
    def test_pixels_are_whole_and_untouched(self, channels: int, side: int, scale: int) -> None:
        tiles = noise_images(3, channels, side)
        made = strip(tiles)
        data = base64.b64decode(made.source.removeprefix("data:image/png;base64,"))
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        assert (made.width, made.height) == (pixels.shape[1] * scale, pixels.shape[0] * scale)
        opaque = pixels[:, pixels[0, :, -1] == 255, :-1]
        np.testing.assert_array_equal(opaque, np.concatenate(tiles.transpose(0, 2, 3, 1), 1))

    def test_pictures_of_an_evaluation(self, report: Report) -> None:
        row = report.per_class[4]
        pictures = Pictures(
            None,
            [WorstClass(row, noise_images(9, 1, 8), noise_images(0, 1, 8))],
            [CopyPair("<four>", "<nine>", 0.123, "mirrored", *noise_images(2, 1, 8))],
        )
        page = render_report(report, pictures)
        shown = re.findall(r'<img src="[^"]*" width="(\d+)" height="56" alt="([^"]*)"', page)
        assert shown == [
            (str(7 * (6 * 8 + 5)), "Real images of &lt;four&gt;"),
            (str(7 * (2 * 8 + 1)), "Generated &lt;four&gt; beside its nearest training image"),
        ]
        caption = re.search(r"<figcaption><b>0.12</b>(.*?)</figcaption>", page)
        assert caption is not None
        words = re.sub("<[^>]*>", " ", caption[1]).split()
        assert words == ["&lt;four&gt;,", "training", "image", "of", "&lt;nine&gt;", "mirrored"]


class TestComparison:
    def test_differences_are_judged_by_the_numbers_direction(self) -> None:
        comparison = synthetic_comparison()
        page = render_comparison(comparison)
        tables = [t for t in Reader(page).tables if t[0][0] == "Group"]
        assert [t[0] for t in tables] == [["Group", "base", "better", "<worse>"]] * 3
        for output, table in zip(("kid", "fid", "recall"), tables, strict=True):
            rows = {row.group: row for row in comparison.rows if row.metric == output}
            places = OUTPUTS[output].decimals
            for group, base, _, better, worse, verdict in table[2:]:
                estimates, differences = rows[group].estimates, rows[group].differences
                assert estimates[0]
                assert base.startswith(digits(estimates[0].value, places))
                assert differences[1]
                assert better.startswith(digits(differences[1].value, places, sign=True))
                assert " better" in better
                assert worse
                assert (" worse" if group == "few" else " within noise") in verdict
        assert re.findall(r">(\d better)<.*?>(\d worse)<.*?>(\d within noise)<", page) == [
            ("9 better", "0 worse", "0 within noise"),
            ("0 better", "3 worse", "6 within noise"),
        ]
        assert "about 0.9 of these differences" in page

    def test_refusals_and_differing_provenance_are_told(self) -> None:
        page = render_comparison(synthetic_comparison())
        read = Reader(page)
        assert "features come from another extractor" in page
        assert read.tables[-1][0] == ["Differs", "base", "better", "<worse>", "other"]
        assert read.tables[-1][1:] == [["model", "base", "better", "<worse>", "other"]]
        assert read.addresses == []
        assert "<worse>" not in page

    def test_an_undefined_number_is_a_dash(self) -> None:
        whole = synthetic_comparison()
        row = whole.rows[0]
        gap = replace(
            row,
            estimates=(row.estimates[0], None, *row.estimates[2:]),
            differences=(None, None, *row.differences[2:]),
        )
        page = render_comparison(replace(whole, rows=(gap,)))
        assert Reader(page).tables[0][2][2:4] == ["–", "–"]
        assert Reader(page).tooltips.count("too few images") == 2


def several_kinds() -> list[CurvePoint]:
    """Plain images, and two strengths of each of four kinds of guidance."""
    random = np.random.default_rng(0)
    kinds: list[tuple[GuidanceConfig, float]] = [
        (ClassifierFree(omega=0), 0.0),
        *((ClassifierFree(omega=o), o) for o in (1.0, 2.0)),
        *((IntervalGuidance(omega=o, low=l), o) for o in (1.0, 2.0) for l in (0.2, 0.4)),
        *((GroupGuidance(few=f, classes=GroupsConfig()), 0.4 * f) for f in (1.0, 2.0)),
        *((CountGuidance(omega=o, slope=0.5 - o), 0.5) for o in (0.2, 0.3)),
    ]
    return [
        CurvePoint(SamplingConfig(guidance=kind), omega, {"kid/few": near("kid", 1.0, random)})
        for kind, omega in kinds
    ]


class TestSettings:
    def test_points_of_several_kinds_are_named_by_what_differs(self) -> None:
        points = several_kinds()
        settings = Settings(points)
        assert settings.x_title == "guidance omega, mean of the classes"
        lines = {name: [settings.x(p) for p in line] for name, line in settings.lines()}
        assert lines == {
            "cfg": [0.0, 1.0, 2.0],
            "interval, low 0.2": [0.0, 1.0, 2.0],
            "interval, low 0.4": [0.0, 1.0, 2.0],
            "groups": [0.0, 0.4, 0.8],
            "counts": [0.0, 0.5, 0.5],
        }
        chart = curve_chart(points, "kid/few")
        assert chart
        assert [bool(line.path) for line in chart.lines] == [True, True, True, True, False]
        assert settings.columns()[:3] == ["guidance", "omega", "low"]
        assert settings.cells(points[3])[:3] == ["interval", "1", "0.2"]
        assert settings.cells(points[1])[:3] == ["cfg", "1", None]
        assert settings.label(points[4]) == "omega 1 at sigma/alpha 0.4 to 1.61 (ddim 50 steps)"

    def test_without_a_strength_that_varies_the_axis_is_what_does(self) -> None:
        values = {"kid/few": near("kid", 1.0, np.random.default_rng(0))}
        guidance = ClassifierFree(omega=1)
        by_steps = [
            CurvePoint(SamplingConfig(sampler=DDIMSampler(steps=s), guidance=guidance), 1.0, values)
            for s in (20, 10)
        ]
        settings = Settings(by_steps)
        assert settings.x_title == "steps"
        ((name, line),) = settings.lines()
        assert (name, [settings.x(p) for p in line]) == ("ddim 20 steps", [10, 20])
        by_clipping = [
            CurvePoint(SamplingConfig(guidance=guidance, clip_x0=clip), 1.0, values)
            for clip in (True, False)
        ]
        settings = Settings(by_clipping)
        assert settings.x_title == "setting"
        assert settings.label(by_clipping[1]) == "omega 1 (ddim 50 steps, clip x0 no)"
        chart = curve_chart(by_clipping, "kid/few")
        assert chart
        assert [line.path for line in chart.lines] == [""]


class TestGuidance:
    def test_points_and_bests_are_told(self) -> None:
        points = synthetic_curve()
        again = replace(points[3], values=points[4].values)
        best = {"overall": BestPoint(points[2], points[2]), "few": BestPoint(points[3], again)}
        page = render_guidance("<run>", points, best)
        read = Reader(page)
        assert "<h1>&lt;run&gt;</h1>" in page
        assert "omega 1.5 (ddim 50 steps)" in page
        best_overall, best_few, table = read.tables
        recall = again.values["recall/few"]
        shown = [f"{x:.3f}" for x in (recall.value, recall.low, recall.high)]
        chosen = f"{points[3].values['recall/few'].value:.3f}"
        assert best_few[-1] == ["Recall", shown[0], f"{shown[1]} to {shown[2]}", chosen]
        assert [row[0] for row in best_overall] == ["", "KID", "FID", "Recall"]
        assert len(table) == 1 + len(points)
        assert sum("best" in cell for row in table[1:] for cell in row) == 6
        assert [row[1] for row in table[1:7]] == ["0", "0.5", "1", "1.5", "2", "3"]
        assert [row[0] for row in table if "chosen" in row[0]] == ["ddimchosen"]
        assert read.addresses == []

    def test_one_point_or_other_numbers_have_no_curve(self) -> None:
        random = np.random.default_rng(0)
        values = {"agreement/few": near("agreement", 1.0, random)}
        point = CurvePoint(SamplingConfig(), 0.0, values)
        page = render_guidance("a run", [point], {"few": BestPoint(point, point)})
        assert "other noise" not in page
        assert "<svg" not in page
        assert "Label agreement" in page


def test_learning_curves_are_drawn_where_the_values_are() -> None:
    series = {
        "loss/total": [(0.0, 1.0), (50.0, float("nan")), (100.0, 0.25)],
        "loss/denoising": [(100.0, 0.5)],
        "validation/denoising": [(100.0, -2.0), (200.0, 2.0)],
        "lr": [(0.0, 1.0)],
    }
    loss, parts, validation = training_charts(series)
    assert [chart.title for chart in (loss, parts, validation)] == [
        "Loss", "Parts of the loss", "Validation loss",
    ]  # fmt: skip
    (total,) = (
        loss.lines
    )  # the point that is no number is left out; the axis ends with the training
    assert total.path == "M0 0L100 75"
    assert total.last == "0.25"
    assert [tick.text for tick in loss.x] == ["0", "25", "50", "75", "100"]
    (part,) = parts.lines
    assert part.dots  # one point is no line
    assert validation.lines[0].path == "M50 100L100 0"
    many = [(float(x), float(x % 2)) for x in range(1000)]
    assert training_charts({"loss/total": many})[0].lines[0].path.count("L") == 199
    assert training_charts({}) == ()


def test_a_report_shows_its_training_and_links_all_previews() -> None:
    report = synthetic_report(10)
    page = render_report(report, Pictures(), training=synthetic_training(3, 16))
    reader = Reader(page)
    assert "training" in reader.sections
    assert page.count("Generated images of class") == 10
    assert 'href="../../preview.html"' in page
    assert "training" not in Reader(render_report(report, Pictures())).sections
