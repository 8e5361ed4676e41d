"""Errors for users: one line that says what is wrong, and one that says what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class Problem(Exception):
    """A failure that the user can act on; it is shown without a traceback.

    Args:
        what: one line that says what is wrong and names the file, key or value.
        fix: one line that says what to do about it.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what, fix)  # both in args, so that it survives pickling between processes
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what} — {self.fix}"


class UsageProblem(Problem):
    """A wrong key, value or argument; nothing was started."""


class DataProblem(Problem):
    """Images or labels that cannot be used as they are."""


class CheckpointProblem(Problem):
    """A checkpoint that is missing, incomplete, damaged or of another model."""


class OutOfMemoryProblem(Problem):
    """A training that needs more memory than its worker has."""


class DivergenceProblem(Problem):
    """A loss that is not finite, or a resumed run that does not reproduce its next loss."""


class SeveralProblems(Problem):
    """Several problems that were found at once; made by `combine`.

    Args:
        what: all of them, in one line.
        fix: of the first.
        problems: each by itself.
    """

    def __init__(self, what: str, fix: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(what, fix)
        self.args = (what, fix, problems)
        self.problems = problems


class SeveralUsageProblems(SeveralProblems, UsageProblem):
    """Several wrong keys, values or arguments."""


def combine(problems: Sequence[Problem], most: int = 10) -> Problem:
    """Return one problem that holds all of them, each of them once; a single one as it is.

    Args:
        problems: at least one.
        most: how many are kept.
    """
    first = {(each.what, each.fix): each for each in reversed(problems)}
    unlike = [each for each in problems if first[each.what, each.fix] is each]
    if len(unlike) == 1:
        return unlike[0]
    wrong_usage = all(isinstance(each, UsageProblem) for each in unlike)
    kind = SeveralUsageProblems if wrong_usage else SeveralProblems
    shown = tuple(unlike[:most])
    what = f"{len(unlike)} problems: " + "; ".join(each.what for each in shown)
    return kind(what, " / ".join(each.fix for each in shown), shown)


def did_you_mean(word: str, known: Iterable[str], most: int = 1) -> str:
    """Return the beginning of a fix, `did you mean cbdm? `, or "" where no known word is similar."""
    near = get_close_matches(word, list(known), n=most)
    return f"did you mean {' or '.join(near)}? " if near else ""
