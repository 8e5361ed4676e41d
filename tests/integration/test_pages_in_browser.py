"""The pages in a real Chromium: offline, light and dark, narrow and wide, few classes and many."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.balanced import synthetic_datasheet, synthetic_diffult
from support.browser import Browser, chromium
from support.reports import (
    synthetic_comparison,
    synthetic_curve,
    synthetic_pictures,
    synthetic_report,
    synthetic_training,
)

from whipray.platform.analysis.balance.datasheet import datasheet_page
from whipray.platform.analysis.diffult.page import diffult_page
from whipray.platform.evaluation.pages.comparison import render_comparison
from whipray.platform.evaluation.pages.content import BestPoint
from whipray.platform.evaluation.pages.guidance import render_guidance
from whipray.platform.evaluation.pages.previews import render_previews
from whipray.platform.evaluation.pages.report import render_report
from whipray.platform.generation.grid import class_grid

pytestmark = pytest.mark.slow

PAGES = ("ten", "thousand", "comparison", "guidance", "previews", "datasheet", "diffult")
WIDTHS = (400, 1280)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every page with every section, as files."""
    folder = tmp_path_factory.mktemp("pages")
    curve = synthetic_curve()
    for name, classes, side in (("ten", 10, 8), ("thousand", 1000, 64)):
        report = synthetic_report(classes, every_number=classes > 10)
        pictures = synthetic_pictures(report, 1 if side == 8 else 3, side)
        tiles = pictures.worst[0].generated
        grid = class_grid(tiles, np.zeros(len(tiles), np.int64), ("class 0",), train_counts=[1280])
        training = synthetic_training(1 if side == 8 else 3, side)
        page = render_report(report, replace(pictures, grid=grid), curve, training)
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    (folder / "comparison.html").write_text(render_comparison(synthetic_comparison()), "utf-8")
    strips = [training.preview for _ in range(3) if training.preview]
    (folder / "previews.html").write_text(render_previews("a run", strips), "utf-8")
    best = {"overall": BestPoint(curve[2], curve[8]), "few": BestPoint(curve[3], curve[9])}
    (folder / "datasheet.html").write_text(datasheet_page(synthetic_datasheet(20, 3, 32)), "utf-8")
    (folder / "diffult.html").write_text(diffult_page(synthetic_diffult()), "utf-8")
    (folder / "guidance.html").write_text(render_guidance("a run", curve, best), "utf-8")
    return folder


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_alone_and_fits_the_window(
    browser: Browser, pages: Path, name: str, width: int
) -> None:
    path = pages / f"{name}.html"
    start = time.perf_counter()
    with browser.open(path, width) as opened:
        seconds = time.perf_counter() - start
        assert opened.messages == []
        assert opened.requests == [path.as_uri()]
        page = opened.page
        assert page.evaluate("document.documentElement.scrollWidth") == width
        size = path.stat().st_size / 1e6
        print(f"{name} at {width} px: {size:.2f} MB, loaded in {seconds:.2f} s")


@pytest.mark.parametrize("name", PAGES)
def test_it_is_legible_by_day_and_by_night(browser: Browser, pages: Path, name: str) -> None:
    papers = []
    for scheme in ("light", "dark"):
        with browser.open(pages / f"{name}.html", scheme=scheme) as opened:
            color = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
            papers.append(sum(int(c) for c in color[4:-1].split(",")))
            found = opened.contrasts()
            assert len(found) > 20
            faint = [text for text in found if text[0] < 4.5]
            tiny = [text for text in found if text[1] < 11]
            assert (faint, tiny) == ([], [])
    day, night = papers
    assert day > 600
    assert night < 150


@pytest.mark.parametrize("name", ["ten", "thousand"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_shows_its_charts_and_pictures(
    browser: Browser, pages: Path, name: str, width: int
) -> None:
    with browser.open(pages / f"{name}.html", width) as opened:
        page = opened.page
        values, counts = opened.box(".values svg"), opened.box(".counts svg")
        assert values["width"] > 0.75 * min(width, 1000)
        assert values["height"] > 150
        assert values["x"] == counts["x"]
        assert values["width"] == counts["width"]
        bars = page.locator(".bar").evaluate_all("bars => bars.map(b => b.getBBox().width)")
        assert sum(bars) == pytest.approx(10 if name == "ten" else 1000, rel=0.1)  # units: classes
        images = page.locator("img").evaluate_all("""images => images.map(
            i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width,
                  getComputedStyle(i).imageRendering])""")
        assert len(images) == 10 * 2 + 24 + 1 + 10
        assert all(done and own > 0 and shown > 50 for done, own, shown, _ in images)
        assert {kind for *_, kind in images[:20]} == {"pixelated"}


def test_a_table_sorts_by_its_heading(browser: Browser, pages: Path) -> None:
    with browser.open(pages / "thousand.html") as opened:
        page = opened.page
        page.get_by_text("Table of 1,000 classes").click()
        heading = page.get_by_role("button", name="KID", exact=True)
        column = "rows => rows.map(row => Number(row.cells[5].firstChild.textContent))"
        rows = page.locator("table.sorts tbody tr")
        before = rows.evaluate_all(column)
        heading.click()
        assert rows.evaluate_all(column) == sorted(before)
        heading.click()
        assert rows.evaluate_all(column) == sorted(before, reverse=True)
        sorted_by = page.locator("th[aria-sort]")
        assert sorted_by.count() == 1
        assert sorted_by.get_attribute("aria-sort") == "descending"


def test_curves_are_drawn_where_their_axes_say(browser: Browser, pages: Path) -> None:
    best = min(synthetic_curve(), key=lambda point: point.values["fid/overall"].value)
    with browser.open(pages / "guidance.html") as opened:
        plot, ring = opened.box(".curves svg"), opened.box(".curves .ring")
        ticks = opened.page.locator(".curves .panel").first.locator(".y")
        low, *_, high = (float(text) for text in ticks.all_inner_texts())
        from_left = (ring["x"] + ring["width"] / 2 - plot["x"]) / plot["width"]
        from_top = (ring["y"] + ring["height"] / 2 - plot["y"]) / plot["height"]
        assert from_left == pytest.approx(best.omega / 3, abs=0.01)
        value = high - from_top * (high - low)
        assert value == pytest.approx(best.values["fid/overall"].value, abs=0.02 * (high - low))


def test_a_datasheet_stacks_its_images_and_marks_the_threshold(
    browser: Browser, pages: Path
) -> None:
    with browser.open(pages / "datasheet.html") as opened:
        parts = opened.page.locator(".part")
        assert [each.get_attribute("class") for each in parts.all()] == [
            "part real", "part kept", "part rejected",
        ]  # fmt: skip
        tops = [each.bounding_box() for each in parts.all()]
        ticks = opened.page.locator(".totals .y").all_inner_texts()
        plot = opened.box(".totals svg:not(.legend svg)")
        assert all(tops)
        assert tops[0]
        high = float(ticks[-1].replace(",", ""))
        assert tops[0]["height"] / plot["height"] == pytest.approx(1280 / high, abs=0.01)
        band, panel = opened.box(".rejecting"), opened.box(".curves figure:nth-child(3) svg")
        assert band["x"] == pytest.approx(panel["x"], abs=1)
        assert 0.1 < band["width"] / panel["width"] < 0.9
        kinds = opened.page.locator(".kinds img").evaluate_all(
            "images => images.map(i => getComputedStyle(i).imageRendering)"
        )
        assert set(kinds) == {"pixelated"}
