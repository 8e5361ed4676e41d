"""The datasheet of a balanced data set and the page of `whipray diffult`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pytest
from support.balanced import generated_rows, synthetic_datasheet, synthetic_diffult
from support.page_reader import Reader
from support.reports import noise_images

from whipray.platform.analysis.balance.content import Datasheet, RealClass
from whipray.platform.analysis.balance.counts import count_images
from whipray.platform.analysis.balance.counts_chart import counts_chart
from whipray.platform.analysis.balance.datasheet import datasheet_page
from whipray.platform.analysis.balance.examples import choose_examples
from whipray.platform.analysis.balance.histograms import histograms
from whipray.platform.analysis.diffult.page import diffult_page
from whipray.platform.config.balancing import FilterConfig
from whipray.platform.evaluation.pages.tiles import bounded
from whipray.trainers.data import PackedImages

NAMES = ("zero", "one", "two", "three", "<script>", "five", "six", "seven", "eight & co", "nine")
SECTIONS = {
    "counts", "examples", "scores", "copies", "use", "questions", "licence", "provenance",
}  # fmt: skip


@pytest.fixture(scope="module")
def sheet() -> Datasheet:
    return synthetic_datasheet(10, 3, 8, NAMES)


@pytest.fixture(scope="module")
def page(sheet: Datasheet) -> str:
    return datasheet_page(sheet)


class TestDatasheet:
    def test_every_image_is_counted_once(self, sheet: Datasheet, page: str) -> None:
        generated = sheet.generated
        table = next(t for t in Reader(page).tables if t[0][:3] == ["Class", "Group", "Real"])
        assert [row[0] for row in table[1:]] == list(NAMES)
        for c, row in enumerate(table[1:]):
            kept = sum(
                1
                for label, k in zip(generated.labels, generated.kept, strict=True)
                if label == c and k
            )
            rejected = int((generated.labels == c).sum()) - kept
            real = sheet.classes[c].train_count
            assert row[2:5] == [f"{n:,}" for n in (real, kept, rejected)]
            assert row[7] == f"{real + kept:,}"
        groups = next(t for t in Reader(page).tables if t[0][:2] == ["Group", "Classes"])
        assert groups[0][6:8] == ["by copy ratio", "by d3"]
        by_probability = sum("probability" in reason for reason in generated.reasons)
        assert groups[1][7] == f"{by_probability:,}"
        assert [row[0] for row in groups[1:]] == ["overall", "many", "medium", "few"]

    def test_names_are_escaped_and_nothing_else_is_needed(self, page: str) -> None:
        assert "<script>" not in page.replace("<script>\n//", "")
        assert "&lt;script&gt;" in page
        addresses = Reader(page).addresses
        assert all(a.startswith(("data:image/png;base64,", "#")) for a in addresses)
        assert not re.search(r"https?:|@import|url\(", re.sub(r'"data:[^"]*"', "", page))

    def test_warnings_name_what_is_wrong(self, page: str) -> None:
        start = page.index("Before you use these images")
        assert start < page.index("<nav")
        warned = page[start : page.index("</ul>", start)]
        for words in (
            "half of the generated images of 1 class: nine (475 of 495); nine has 25 images where 500",
            "2 classes with fewer than 10 real images: eight &amp; co (9 real",
            "the test images of nine are training images too",
            "f_0 is right on 61.2 %",
        ):
            assert words in warned

    def test_kept_near_copies_are_warned_of(self, sheet: Datasheet) -> None:
        assert "which they repeat" not in datasheet_page(sheet)
        kept = replace(sheet.generated, kept=np.ones_like(sheet.generated.kept))
        copies = int(np.sum(sheet.generated.near_copy))
        share = copies / len(kept.labels)
        page = datasheet_page(replace(sheet, generated=kept))
        assert ("which they repeat" in page) == (share >= 0.01)
        many = replace(kept, near_copy=np.ones_like(kept.kept))
        assert "3,194 of 3,194 kept generated images are near copies" in datasheet_page(
            replace(sheet, generated=many)
        )

    @pytest.mark.parametrize(("probability", "is_warned"), [(0.09, True), (0.11, False)])
    def test_classes_asked_for_that_are_less_likely_than_chance_are_warned_of(
        self, sheet: Datasheet, probability: float, is_warned: bool
    ) -> None:
        values = np.full(len(sheet.generated.labels), probability)
        page = datasheet_page(
            replace(sheet, generated=replace(sheet.generated, probability=values))
        )
        assert ("of 0.09 (median), less than chance (0.1)" in page) == is_warned

    def test_only_sections_with_content_appear(self, sheet: Datasheet, page: str) -> None:
        assert Reader(page).sections == SECTIONS
        page = datasheet_page(replace(sheet, examples=(), near_copies=()))
        assert Reader(page).sections == SECTIONS - {"examples"}

    def test_a_set_that_lacked_nothing_has_a_page(self, sheet: Datasheet) -> None:
        full = replace(sheet, generated=generated_rows(np.zeros(0, int), ()), filter=FilterConfig())
        page = datasheet_page(replace(full, examples=(), near_copies=()))
        assert Reader(page).sections == SECTIONS - {"examples", "scores"}
        assert "No filter" in page

    @pytest.mark.parametrize("form", ["folder", "torchvision", "parquet"])
    def test_code_has_real_paths(self, sheet: Datasheet, form: str) -> None:
        place = "/data/my birds"
        page = datasheet_page(replace(sheet, path=place, form=form))  # type: ignore[arg-type]
        assert "data.path=&#39;/data/my birds&#39;" in page
        assert f"{PurePosixPath(place) / 'manifest.parquet'}" in page
        assert ("load_dataset" in page) == (form == "parquet")
        assert ("ImageFolder(&#39;/data/my birds/train&#39;)" in page) == (form != "parquet")

    def test_a_set_that_is_not_written_says_so(self, sheet: Datasheet, page: str) -> None:
        assert "is not written yet" not in page
        page = datasheet_page(replace(sheet, path=""))
        assert "is not written yet" in page
        assert "ImageFolder(&#39;FOLDER/train&#39;)" in page

    def test_pages_stay_small(self) -> None:
        ten = datasheet_page(synthetic_datasheet(10, 3, 32))
        assert len(ten.encode()) < 1_500_000
        thousand = datasheet_page(synthetic_datasheet(1000, 3, 64))
        assert len(thousand.encode()) < 5_000_000
        assert '<details class="below"><summary>Table of 1,000 classes' in thousand


@pytest.mark.parametrize("classes", [1, 10, 200])
def test_bars_are_as_high_as_their_counts(classes: int) -> None:
    sheet = synthetic_datasheet(classes, 1, 8)
    counts = count_images(sheet.classes, sheet.generated).classes
    chart = counts_chart(counts, sheet.fill_to)
    top = float(chart.y[-1].text.replace(",", ""))
    sums = []
    for path in (chart.real, chart.kept, chart.rejected):
        bars = re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)h", path)
        sums.append(sum((float(low) - float(high)) / 100 * top for _, low, high in bars))
    true = [
        sum(c.real for c in counts),
        sum(c.kept for c in counts),
        sum(c.rejected for c in counts),
    ]
    assert sums == pytest.approx(true, abs=1e-4 * top * classes + 1)
    assert top * (1 - chart.level / 100) == pytest.approx(500, abs=1e-4 * top)
    assert len(chart.hovers) <= 125
    if classes == 10:
        assert chart.bands[2].before == sum(c.real for c in counts if c.group == "few")


def test_histograms_hold_every_image_and_the_threshold(sheet: Datasheet) -> None:
    pixels, _, probability = histograms(sheet)
    assert pixels.rejecting is None
    assert probability.rejecting
    left, width = probability.rejecting
    assert left == 0
    low, high = (float(probability.x[i].text.replace("\N{MINUS SIGN}", "-")) for i in (0, -1))
    assert low + width / 100 * (high - low) == pytest.approx(np.log10(5e-7), abs=0.01)
    share = 100 * float(np.mean(np.asarray(sheet.generated.probability) < 5e-7))
    assert f"it rejects {share:.1f} %" in probability.caption
    top = float(pixels.y[-1].text)
    for line in pixels.lines:  # heights of the bins of a group add up to all of it
        heights = [100 - float(y) for y in re.findall(r"V([\d.]+)H", line.path)]
        assert sum(heights) / 100 * top == pytest.approx(100, abs=0.5)
    floor, top = (np.log10(float(probability.y[i].text)) for i in (0, -1))  # of a logarithmic axis
    for line in probability.lines:
        heights = np.array([100 - float(y) for y in re.findall(r"V([\d.]+)H", line.path)])
        shares = 10 ** (floor + heights[heights > 0] / 100 * (top - floor))
        assert shares.sum() == pytest.approx(100, abs=0.5)


def test_examples_are_of_the_classes_that_lost_most_and_of_head_and_tail() -> None:
    classes = [RealClass(f"class {c}", "many", 100 - c) for c in range(40)]
    labels = np.repeat(np.arange(40), 20)
    lost = np.isin(labels, range(20, 26)) & (np.arange(800) % 20 >= 5)
    reasons = tuple(
        ("probability 1e-09 < 5e-07" if i % 20 < 15 else "copy_ratio 0.1 < 0.4") if out else ""
        for i, out in enumerate(lost.tolist())
    )
    images = noise_images(800, 1, 8)
    real = PackedImages(
        noise_images(120, 1, 8), np.repeat(np.arange(40), 3), tuple(c.name for c in classes)
    )
    chosen = choose_examples(classes, generated_rows(labels, reasons, images=images), real)
    assert [each.position for each in chosen] == [0, 7, 13, *range(20, 26), 26, 32, 39]
    first = next(each for each in chosen if each.position == 20)
    np.testing.assert_array_equal(first.kept, images[400:405])
    np.testing.assert_array_equal(first.real, real.images[60:63])
    assert [each.reason.split()[0] for each in first.rejected] == ["probability", "copy_ratio"] * 3
    np.testing.assert_array_equal(first.rejected[1].image, images[415])


def test_large_tiles_are_means_of_their_pixels() -> None:
    images = noise_images(2, 3, 128)
    small = bounded(images)
    assert small.shape == (2, 3, 64, 64)
    assert small[1, 2, 5, 7] == round(float(images[1, 2, 10:12, 14:16].mean()))
    assert bounded(small) is small


class TestDiffult:
    def test_the_headline_is_what_generated_images_give_beyond_repetition(self) -> None:
        content = synthetic_diffult()
        beyond = content.differences[0].accuracy["overall"]
        page = diffult_page(content)
        lead = re.sub("<[^>]*>", "", page[page.index('"lead"') : page.index("</header>")])
        points = f"{100 * beyond.value:+.1f} points of accuracy over all classes"
        assert " ".join(lead.split()).find(f"filtered generated images give {points}") > 0
        assert beyond.low is not None
        assert beyond.low > 0
        assert "a gain" in lead
        noisy = replace(beyond, low=-0.001)
        first = replace(content.differences[0], accuracy={"overall": noisy})
        page = diffult_page(replace(content, differences=[first]))
        assert "within noise" in page[page.index('"lead"') : page.index("</header>")]
        assert "beyond repetition is within noise: overall" in page
        loss = replace(beyond, value=-0.01, low=-0.02, high=-0.002)
        first = replace(content.differences[0], accuracy={"overall": loss})
        page = diffult_page(replace(content, differences=[first]))
        assert "\N{MINUS SIGN}1.0 points" in page
        assert '<span class="worse">' in page

    def test_every_arm_and_every_seed_is_shown(self) -> None:
        content = synthetic_diffult()
        page = diffult_page(content)
        table = next(t for t in Reader(page).tables if t[0][0] == "Trained on")
        assert [row[0] for row in table[1:7]] == [arm.name for arm in content.arms]
        few = content.arms[5].accuracy["few"]
        assert few.low is not None
        assert table[6][5].startswith(f"{100 * few.value:.1f}{100 * few.low:.1f} to ")
        assert table[8][2:] == ["50.7", "68.6", "50.8", "29.0"]  # the paper's
        seeds = next(t for t in Reader(page).tables if t[0][:2] == ["Arm", "Group"])
        assert len(seeds) == 1 + 6 * 4
        row = next(row for row in seeds if row[:2] == ["filtered", "few"])
        assert row[2:] == [f"{100 * x:.2f}" for x in few.by_seed]
        assert page.count('title="seed 4: ') == 4 * (6 + 5)

    def test_differences_share_an_axis_around_zero(self) -> None:
        content = synthetic_diffult()
        page = diffult_page(content)
        *controls, real = re.findall(r"<table class=\"forest.*?</table>", page, re.DOTALL)
        zeros = set(re.findall(r'<u style="left:([\d.]+)%"', "".join(controls)))
        assert len(zeros) == 1
        assert zeros != set(re.findall(r'<u style="left:([\d.]+)%"', real))
        figure = content.differences[0].accuracy["few"]
        scale = re.findall(r'<span style="left:([\d.]+)%">(.*?)</span>', page)
        low, high = (
            float(text.replace("\N{MINUS SIGN}", "-")) for _, text in (scale[0], scale[5 - 1])
        )
        start = page.index('<tr class="few">')
        at = re.search(r'<b style="left:([\d.]+)%"', page[start:])
        assert at
        assert low + float(at[1]) / 100 * (high - low) == pytest.approx(
            100 * figure.value, abs=0.01
        )

    def test_p_values_stand_beside_their_intervals(self) -> None:
        content = synthetic_diffult()
        assert "Holm" not in diffult_page(content)
        first = replace(content.differences[0], p_holm={"few": 0.00321})
        page = diffult_page(replace(content, differences=[first, *content.differences[1:]]))
        assert "Holm" in page
        assert page.count(", p 0.0032</small>") == 1

    def test_one_seed_has_no_interval_and_says_so(self) -> None:
        page = diffult_page(synthetic_diffult(1))
        assert "one seed: no difference has an interval" in page
        assert not any(f">{word}<" in page for word in ("a gain", "a loss", "within noise"))

    def test_without_repetition_there_is_no_headline(self) -> None:
        content = synthetic_diffult()
        kept = [d for d in content.differences if d.less != "repeated"]
        page = diffult_page(
            replace(content, differences=kept, published=(), protocol=(), settings={})
        )
        assert "may be due to balance alone" in page
        assert Reader(page).sections == {
            "differences",
            "arms",
            "seeds",
            "images",
            "steps",
            "method",
        }
        assert all(a.startswith(("#", "../balancing/")) for a in Reader(page).addresses)

    def test_few_test_images_are_warned_of(self) -> None:
        content = synthetic_diffult()
        groups = [replace(g, test_images=45) if g.name == "few" else g for g in content.groups]
        assert "few 45 test images: one image more or less is up to 2.2 points" in diffult_page(
            replace(content, groups=groups)
        )
