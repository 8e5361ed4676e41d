"""What `whipray diffult` shows of what it would do, and at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .consoles import print_warnings, stderr_console, stdout_console
from .tables import diffult_table

if TYPE_CHECKING:  # imported on use, so that `--help` is quick
    from ..analysis.diffult.order import Order
    from ..analysis.diffult.result import DiffultResult


def describe_order(order: Order) -> dict[str, str]:
    """Return what is filled, filtered and trained, by subject."""
    balancing = order.experiment.balancing
    of_largest = f"{balancing.of_largest:g} x the images of the largest class"
    return {
        "run": order.run,
        "fill to": f"{balancing.to:,} images of each class" if balancing.to else of_largest,
        "filter": balancing.filter.label,
        "arms": f"{', '.join(order.arms)}; {order.seeds} classifiers of each",
    }


def print_result(result: DiffultResult) -> None:
    """Print the table of arms, what generated images give beyond repetition, and where everything is."""
    document = result.document
    if document["headline"]:
        stdout_console.print(f"{document['headline']}\n")
    stdout_console.print(diffult_table(document, stdout_console.width))
    print_warnings(document["warnings"])
    stderr_console.print("")
    lines = {**_summary(document), "page": result.page_uri, "result": result.uri}
    for name, text in lines.items():
        stderr_console.print(f"{name:<11}{text}")


def _summary(document: Mapping[str, Any]) -> dict[str, str]:
    """Return what to read beside the table, by subject."""
    images, compared = document["images"], document["compared"]
    generated = sum(document["generated"])
    lines = {"~": "within noise: the interval contains 0"}
    lines["images"] = (
        f"{sum(images['real']):,} real, {generated:,} generated"
        + (f", {sum(images['added'][compared]):,} kept" if compared == "filtered" else "")
        + f"; tested on {sum(images['test']):,}"
    )
    lines["intervals"] = (
        f"{document['confidence']:.0%}, {document['interval']} ({len(document['seeds'])})"
    )
    if (fid := document["quality"].get("fid/overall")) is not None:
        lines["model"] = f"FID {fid:.3g} after {document['images_seen']:,} images"
    for row in document["published"][:1]:
        values = ", ".join(f"{group} {value:.3f}" for group, value in row["accuracy"].items())
        differences = len(document["protocol"])
        lines["published"] = (
            f"{row['label']}: {values}; the page has {differences} differences of protocol"
        )
    return lines
