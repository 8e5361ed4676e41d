"""The images that lists name, and the lines that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...trainers.data.files import Files
from ...trainers.data.list_files import (
    Listed,
    ListFiles,
    list_at,
    number_classes,
    read_list,
    root_of,
)
from ...trainers.data.packed import Indices
from ...trainers.data.report import LISTED, counted, listed, shown
from ...trainers.errors import DataProblem
from .facts import Finding
from .labels import name_classes
from .listing import Encoded, Listing, read_from_bucket


def list_lists(config: ListFiles) -> Listing:
    """Return the images that one or two lists name.

    Raises:
        DataProblem: a list that cannot be read at all.
    """
    root = root_of(config.root)
    files = [list_at(file) for file in (config.train_list, config.reference_list) if file]
    lists = [read_list(file, root) for file in files]
    paths = [path for each in lists for path in each.paths]
    line_of = [(file, n) for file, each in zip(files, lists, strict=True) for n in each.numbers]
    reference = np.repeat([False, True][: len(lists)], [len(each.paths) for each in lists])
    findings = list(_unusable(lists))
    try:
        ids, class_names = number_classes(lists, config.class_names)
        labels = np.concatenate(ids)
    except DataProblem as problem:
        words = [label for each in lists for label in each.labels]
        class_names = sorted(set(words))
        labels = np.searchsorted(class_names, words)
        findings.append(Finding("labels", "error", 1, problem.what, problem.fix))

    def name(i: int) -> str:
        file, number = line_of[i]
        return f"{shown(file.name)}:{number} ({shown(paths[i])})"

    def read(indices: Indices) -> Iterator[tuple[int, Encoded]]:
        if isinstance(root, Files):
            return read_from_bucket(root, paths, indices)
        return ((int(i), root / paths[i]) for i in indices)

    names, labels, more = name_classes(labels, class_names, name)
    return Listing(names, labels, reference, name, read, (*findings, *more))


def _unusable(lists: list[Listed]) -> Iterator[Finding]:
    problems = [problem for each in lists for problem in each.problems]
    if count := len(problems) + sum(each.more for each in lists):
        yield Finding(
            "lines",
            "error",
            count,
            f"{counted(count, 'lines')} of the lists cannot be used: "
            + listed([problem.what for problem in problems[:LISTED]]),
            problems[0].fix,
            tuple(problem.what for problem in problems[:LISTED]),
        )
