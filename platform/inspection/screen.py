"""An inspection as one screen of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ...trainers.data.report import shown
from .facts import ClassFacts, Inspection

ROWS = 20
"""Classes that are shown; of more, those in the middle are one line."""
BAR = 30
"""Characters of the longest bar."""
NAME = 24
"""Characters of a class's name that are shown."""
EIGHTHS = " ▏▎▍▌▋▊▉"
LABEL = 9
"""Width of the words at the beginning of lines."""


def screen(inspection: Inspection) -> list[str]:
    """Return what was found as lines of text: classes, images, and each finding with what to do."""
    return [
        _title(inspection),
        "",
        *_histogram(inspection.classes),
        "",
        *_images(inspection),
        *_findings(inspection),
    ]


def _title(inspection: Inspection) -> str:
    classes = len(inspection.classes)
    named = "1 class" if classes == 1 else f"{classes:,} classes"
    text = f"{inspection.images:,} images of {named}"
    reference = sum(each.reference for each in inspection.classes)
    if reference:
        text += f", {reference:,} of them to compare with"
    elif held := sum(each.held_out for each in inspection.classes):
        text += f", {held:,} of them held out to compare with"
    refused = sum(f.count for f in inspection.errors() if f.kind in ("broken", "deep"))
    if inspection.looked_at + refused < inspection.images:
        text += f"; looked into {inspection.looked_at:,} of {inspection.images:,} images"
    return text


def _histogram(classes: Sequence[ClassFacts]) -> Iterator[str]:
    """Yield a bar for each class, head to tail."""
    ranked = sorted(enumerate(classes), key=lambda item: (-item[1].count, item[0]))
    most = max((each.count for each in classes), default=0)
    names = max((len(_short(each.name)) for each in classes), default=0)
    names = max(names, len("class"))
    digits = max(len(str(len(classes))), 2)
    given = any(each.reference for each in classes)
    other = "reference" if given else "held out"
    yield f"{'id':>{digits}}  {'class':<{names}}  {'':<{BAR}}  {'images':>9}  {other:>9}"
    folded = len(ranked) - ROWS if len(ranked) > ROWS + 1 else 0
    first = (ROWS + 1) // 2 if folded else len(ranked)
    for rank, (c, each) in enumerate(ranked):
        if folded and rank == first:
            middle = [each.count for _, each in ranked[first : first + folded]]
            yield f"{'':>{digits}}  ... {folded:,} classes more, of {middle[0]:,} to {middle[-1]:,} images"
        if first <= rank < first + folded:
            continue
        compared = each.reference if given else each.held_out
        yield (
            f"{c:>{digits}}  {_short(each.name):<{names}}  {_bar(each.count, most):<{BAR}}  "
            f"{each.count:>9,}  {compared:>9,}"
        )


def _short(name: str) -> str:
    text = shown(name)
    return text if len(text) <= NAME else f"{text[: NAME - 3]}..."


def _bar(count: int, most: int) -> str:
    """Return a bar of blocks; a class that has images has one to be seen."""
    eighths = max(round(8 * BAR * count / most), 1) if count else 0
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def _images(inspection: Inspection) -> Iterator[str]:
    sizes = inspection.sizes
    if sizes is None:
        return
    (a, b), (c, d), (e, f) = sizes.smallest, sizes.median, sizes.largest
    text = (
        f"{a} x {b} to {e} x {f}, median {c} x {d}"
        if sizes.smallest != sizes.largest
        else f"{a} x {b}"
    )
    if sizes.not_square:
        text += f"; {_percent(sizes.not_square)} not square, to be cut to the square at the centre"
    yield f"{'sizes':<{LABEL}}{text}"
    yield f"{'pixels':<{LABEL}}{_shares(inspection.modes)}"
    yield f"{'formats':<{LABEL}}{_shares(inspection.formats)}"


def _shares(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {count:,}" for what, count in counts.items())


def _percent(share: float) -> str:
    return "under 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def _findings(inspection: Inspection) -> Iterator[str]:
    yield ""
    if not inspection.findings:
        yield "nothing is wrong with them"
    for finding in inspection.findings:
        yield f"{finding.severity:<{LABEL}}{finding.text}"
        if finding.fix:
            yield f"{'':<{LABEL}}fix: {finding.fix}"
