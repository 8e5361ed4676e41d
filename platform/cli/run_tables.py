"""The tables of `whipray runs`; imports no PyTorch, so that they are quick."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from ..foundation.text import size_in_words
from ..housekeeping.garbage import Garbage
from ..housekeeping.listing import Entry
from .consoles import MISSING, plain_table, stdout_console


def runs_table(entries: Iterable[Entry]) -> Table:
    """Return one row per run or sweep."""
    table = plain_table(
        "run", "kind", "written (UTC)", "state", "images", "metric", "size", "model"
    )
    for entry in entries:
        table.add_row(
            entry.name,
            entry.kind,
            entry.written,
            entry.state,
            _progress(entry),
            _metric(entry),
            size_in_words(entry.bytes),
            ", ".join(entry.versions),
        )
    return table


def garbage_table(garbage: Iterable[Garbage]) -> Table:
    """Return one row per file or folder that nothing refers to."""
    table = plain_table("what", "where", "size")
    for each in garbage:
        table.add_row(each.kind, each.name, size_in_words(each.bytes))
    return table


def print_details(document: Mapping[str, Any]) -> None:
    """Print a run as `housekeeping.details.describe` returns it."""
    print_pairs({"run": document["name"], "in": document["address"]})
    print_pairs({"size": size_in_words(document["bytes"])})
    if "trials" in document:
        stdout_console.print(runs_table(Entry(**entry) for entry in document["trials"]))
        return
    if document["versions"]:
        print_pairs({"registered": ", ".join(document["versions"])})
    print_pairs(document["settings"])
    counts = document["classes"]
    if counts:
        most = f"{max(counts.values()):,} to {min(counts.values()):,} of a class"
        print_pairs({"classes": f"{len(counts)}, {sum(counts.values()):,} training images, {most}"})
    table = plain_table("checkpoint", "images", "size", "state")
    for each in document["checkpoints"]:
        size = size_in_words(each["bytes"])
        table.add_row(each["name"], f"{each['images_seen']:,}", size, each["state"])
    if document["checkpoints"]:
        stdout_console.print(table)
    if document["evaluations"]:
        stdout_console.print(_evaluations(document["evaluations"]))
    parts = ", ".join(f"{part} {size_in_words(size)}" for part, size in document["parts"].items())
    print_pairs({"parts": parts})
    for page in document["pages"]:
        print_pairs({"page": page})


def print_pairs(pairs: Mapping[str, Any]) -> None:
    """Print names and values in two columns on stdout."""
    for name, value in pairs.items():
        stdout_console.print(f"{name:<27} {value}")


def _evaluations(evaluations: Iterable[Mapping[str, Any]]) -> Table:
    shown = list(evaluations)
    names = list(dict.fromkeys(name for each in shown for name in each["metrics"]))
    table = plain_table(
        "evaluation of", "sampler", "omega", *(n.removesuffix("/overall") for n in names)
    )
    for each in shown:
        values = [each["metrics"].get(name) for name in names]
        table.add_row(
            f"{each['images_seen'] or 0:,} images",
            str(each["sampler"] or MISSING),
            MISSING if each["omega"] is None else f"{each['omega']:g}",
            *(MISSING if value is None else f"{value:.4g}" for value in values),
        )
    return table


def _progress(entry: Entry) -> str:
    if not entry.images or entry.images_seen >= entry.images:
        return f"{entry.images_seen:,}"
    return f"{entry.images_seen:,} of {entry.images:,}"


def _metric(entry: Entry) -> str:
    if entry.value is None:
        return MISSING
    interval = "" if entry.low is None else f" [{entry.low:.3g}, {entry.high:.3g}]"
    return f"{entry.metric} {entry.value:.4g}{interval}"
