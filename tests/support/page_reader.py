"""A page as tests read it."""

from __future__ import annotations

from html.parser import HTMLParser


class Reader(HTMLParser):
    """Addresses, sections, tables and pictures of a page; fails on tags that do not nest."""

    VOID = ("meta", "img", "path")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.sections: set[str] = set()
        self.tables: list[list[list[str]]] = []
        self.tooltips: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []
        self.tables = [[[c.strip() for c in row] for row in table] for table in self.tables]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.addresses += [v for k, v in attrs if k in ("src", "href") and v]
        self.tooltips += [v for k, v in attrs if k == "title" and v]
        if tag == "section" and found.get("id"):
            self.sections.add(str(found["id"]))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            assert tag == "td" or found["scope"]
            self.tables[-1][-1].append("")
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, _: list[tuple[str, str | None]]) -> None:
        assert tag in self.VOID

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data
