"""The datasheet of a balanced data set and the page of `whipray diffult`."""

from __future__ import annotations

from support.balanced import synthetic_datasheet, synthetic_diffult

from whipray.platform.analysis.balance.datasheet import datasheet_page
from whipray.platform.analysis.diffult.page import diffult_page

NAMES = ("zero", "one", "two", "three", "<script>", "five", "six", "seven", "eight & co", "nine")


def test_pages_say_what_they_are_about() -> None:
    assert "<h1>birds-500</h1>" in datasheet_page(synthetic_datasheet(10, 3, 8, NAMES))
    assert "<h1>cifar100-lt</h1>" in diffult_page(synthetic_diffult())
