"""A headless Chromium for tests of pages; tests are skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

CHROMIUM = shutil.which("chromium-headless-shell")
# A container has neither the user namespaces of Chromium's sandbox nor a GPU, and little /dev/shm.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]

# WCAG 2.2's contrast ratio of a text with the first opaque background at or above it.
CONTRASTS = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
    if (!text || !e.checkVisibility() || e.closest("svg, script")) continue;
    const style = getComputedStyle(e);
    const pair = [light(parse(style.color)), light(behind(e))].sort((a, b) => b - a);
    found.push([(pair[0] + 0.05) / (pair[1] + 0.05), parseFloat(style.fontSize), text]);
  }
  return found;
}"""


@dataclass(frozen=True)
class Opened:
    """An opened page, with its messages and requests."""

    page: Any
    """A `playwright.sync_api.Page`."""
    messages: list[str] = field(default_factory=list)
    """Console messages and errors."""
    requests: list[str] = field(default_factory=list)
    """Requested addresses, without `data:`."""

    def contrasts(self) -> list[tuple[float, float, str]]:
        """Return contrast ratio, font size in CSS pixels and text, of every visible text in HTML."""
        return [tuple(found) for found in self.page.evaluate(CONTRASTS)]

    def box(self, selector: str) -> dict[str, float]:
        """Return x, y, width and height of the first match, in CSS pixels."""
        found: dict[str, float] | None = self.page.locator(selector).first.bounding_box()
        assert found, f"{selector} is not on the page, or has no size"
        return found


class Browser:
    """Chromium; without a network for files."""

    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium

    @contextmanager
    def open(
        self, path: Path | str, width: int = 1280, scheme: Literal["light", "dark"] = "light"
    ) -> Iterator[Opened]:
        """Open a file offline, or an address, in a window of this width; wait until it has loaded."""
        context = self._chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            offline=isinstance(path, Path),
        )
        try:
            opened = Opened(context.new_page())
            page = opened.page
            page.on("console", lambda message: opened.messages.append(message.text))
            page.on("pageerror", lambda error: opened.messages.append(str(error)))
            page.on(
                "request",
                lambda asked: asked.url.startswith("data:") or opened.requests.append(asked.url),
            )
            page.goto(path.as_uri() if isinstance(path, Path) else path, wait_until="load")
            yield opened
        finally:
            context.close()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium; skip the test where it or playwright is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium-headless-shell is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield Browser(browser)
        finally:
            browser.close()
