"""Names of classes that people or programs take for one another."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

from ...trainers.data.report import listed, shown
from .facts import EXAMPLES, Finding

_LIKE_LATIN = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0445\u0443\u0456\u0458\u0455\u043a\u043c\u0442\u0432\u043d"
    "\u03bf\u03b1\u03bd\u03c1\u03b9\u03ba",
    "aeopcxyijskmtbhoavpik",
)
"""Small letters of Cyrillic and Greek that look like Latin ones."""


def describe_names(names: Sequence[str]) -> Iterator[Finding]:
    """Yield what is wrong with the names of classes, which are in the order of their ids."""
    yield from _not_text(names)
    yield from _numbers(names)
    yield from _alike(names)


def _not_text(names: Sequence[str]) -> Iterator[Finding]:
    broken = [shown(name) for name in names if _surrogate(name)]
    if broken:
        text = f"names of classes that are not UTF-8: {listed(broken)}"
        fix = "rename them, as `convmv -f latin1 -t utf8 --notest` does with folders"
        yield Finding("not text", "error", len(broken), text, fix, tuple(broken[:EXAMPLES]))


def _surrogate(name: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in name)


def _numbers(names: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding where a name is the id of another class."""
    ids = {str(c) for c in range(len(names))}
    twofold = [c for c, name in enumerate(names) if name in ids and name != str(c)]
    if not twofold:
        return
    c = twofold[0]
    text = (
        f"names of {len(twofold)} classes are numbers that are ids of others (ids count from 0): "
        f"`--classes {names[c]}` may mean id {names[c]}, called {shown(names[int(names[c])])}, "
        f"or id {c}, called {names[c]}"
    )
    fix = f"write name:{names[c]} or id:{c}, or rename the classes"
    examples = tuple(f"id {c} is called {names[c]}" for c in twofold[:EXAMPLES])
    yield Finding("numbers", "warning", len(twofold), text, fix, examples)


def _alike(names: Sequence[str]) -> Iterator[Finding]:
    same: dict[str, list[str]] = defaultdict(list)
    for name in names:
        same[_skeleton(name)].append(shown(name))
    groups = [group for group in same.values() if len(group) > 1]
    if groups:
        examples = [" and ".join(f"`{name}`" for name in group) for group in groups]
        text = (
            f"names of {sum(map(len, groups))} classes differ only in case, spaces or letters that look "
            f"alike: {listed(examples)}"
        )
        fix = "give them one name if they are one class"
        yield Finding(
            "similar names", "warning", len(groups), text, fix, tuple(examples[:EXAMPLES])
        )


def _skeleton(name: str) -> str:
    """Return what remains of a name without case, accents' forms, spaces, hyphens and underscores."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in plain if not c.isspace() and c not in "-_.").translate(_LIKE_LATIN)
