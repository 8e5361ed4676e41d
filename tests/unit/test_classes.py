"""A class is chosen by its id or its name, and nothing is taken for the other."""

from __future__ import annotations

import pytest

from whipray.trainers.data.classes import choose_classes, class_argument
from whipray.trainers.errors import UsageProblem

NUMBERED = ("1", "10", "11", "2")
"""Names of class folders, in the order that the alphabet gives their ids."""
DIGITS = tuple("0123456789")
SPECIES = ("Apis mellifera", "Araneus diadematus", "Carabus auratus")
IMAGENET = ("tench, Tinca tinca", "goldfish, Carassius auratus", "cat", "Cat, big")


def chosen(names: tuple[str, ...], *values: str) -> list[int]:
    return list(choose_classes(values, names).ids)


def problem(names: tuple[str, ...], *values: str) -> UsageProblem:
    with pytest.raises(UsageProblem) as caught:
        choose_classes(values, names)
    return caught.value


@pytest.mark.parametrize(
    ("names", "values", "ids"),
    [
        (DIGITS, ["9,0"], [9, 0]),
        (NUMBERED, ["10"], [1]),  # no id: there are four classes
        (NUMBERED, ["0"], [0]),  # no name
        (NUMBERED, ["3"], [3]),
        (NUMBERED, ["id:1", "name:1", "id:02"], [1, 0, 2]),
        (NUMBERED, ["name:2,id:2"], [3, 2]),
        (SPECIES, ["Carabus auratus, 0"], [2, 0]),
        (SPECIES, ["all"], [0, 1, 2]),
        (IMAGENET, ["tench, Tinca tinca"], [0]),
        (IMAGENET, ['"tench, Tinca tinca",2'], [0, 2]),
        (IMAGENET, ["tench, Tinca tinca", "cat"], [0, 2]),
        (IMAGENET, ["name:Cat, big"], [3]),
        (("a,b", "a", "b"), ['"a,b"'], [0]),
        (("all", "b"), ["name:all"], [0]),
        (("cr\u00eape", "b"), ["cre\u0302pe"], [0]),  # as macOS writes it
        (('5" nails', "b"), ['5" nails,b'], [0, 1]),
    ],
)
def test_a_class_is_its_id_or_its_name(
    names: tuple[str, ...], values: list[str], ids: list[int]
) -> None:
    assert chosen(names, *values) == ids


@pytest.mark.parametrize(
    ("names", "value", "what", "fix"),
    [
        (NUMBERED, "1", "1 can be read as class 0 (1) or class 1 (10)", "give name:1 or id:1"),
        (NUMBERED, "2", "2 can be read as class 2 (11) or class 3 (2)", "give id:2 or name:2"),
        (("cat", "cat"), "cat", "class 0 (cat) or class 1 (cat)", "give id:0 or id:1"),
        (("all", "b"), "all", "all is every class, and the name of class 0", "name:all"),
        (("a,b", "a", "b"), "a,b", "a,b is one class, and a list of 2", "give id:0"),
        (NUMBERED, "01", "there is no class 01", "names: 1, 10, 11, 2"),
        (NUMBERED, "²", "there is no class ²", "give ids from 0 to 3"),
        (DIGITS, "9" * 5000, "there is no class 999", "give ids from 0 to 9"),
        (DIGITS, "id:10", "there is no class id:10", "give ids from 0 to 9"),
        (SPECIES, "araneus", "there is no class araneus", "did you mean Araneus diadematus?"),
        (SPECIES, "apis melifera", "no class apis melifera", "did you mean Apis mellifera?"),
        (DIGITS, ",", "names no class", "omit the option"),
        (DIGITS, "", "names no class", "omit the option"),
    ],
)
def test_what_names_no_class_or_two_is_refused(
    names: tuple[str, ...], value: str, what: str, fix: str
) -> None:
    refused = problem(names, value)
    assert what in refused.what
    assert fix in refused.fix


def test_what_was_taken_is_said_with_ids_and_names() -> None:
    assert choose_classes(["10,0,id:0"], NUMBERED).describe(NUMBERED) == (
        "1 (10), 0 (1); named more than once, taken once: 0 (1)"
    )
    evil = ("a\nb", "\x1b[31m")
    assert choose_classes(["all"], evil).describe(evil) == r"0 (a\nb), 1 (\x1b[31m)"
    many = tuple(f"kind {c}" for c in range(1000))
    assert choose_classes(["all"], many).describe(many).endswith("9 (kind 9) and 990 more")


@pytest.mark.parametrize(
    "names",
    [
        NUMBERED,
        DIGITS,
        IMAGENET,
        ("a,b", "a", "b", "all", "id:0", "name:a", '"a"', "-x", "it's", "a\nb", "\x1b]0;x\x07"),
        ("cat", "cat", "", " ", "²", "$(id)", "crêpe", "cre\u0302pe", "\u202egnp"),
    ],
)
def test_a_suggested_argument_names_its_class(names: tuple[str, ...]) -> None:
    for class_id in range(len(names)):
        text = class_argument(names, class_id)
        assert text.isprintable()
        assert chosen(names, text) == [class_id]
