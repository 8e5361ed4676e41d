"""Search spaces: sampling, counting, and the mistakes that are reported before a start."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.samplers import RandomSampler

from whipray.platform.config.experiment import load_experiment, with_values
from whipray.platform.config.space import Space
from whipray.platform.config.space_files import load_space, parse_space
from whipray.trainers.errors import UsageProblem

SPACE = """
description: all kinds, in an order that `when` does not follow
base: {objective: {name: cbdm}}
train:
  samples: {type: int, low: 1, high: 4, when: {label_set: [balanced, sqrt]}}
  warmup: {type: float, low: 0.0, high: 0.3, step: 0.1, when: {samples: 4}}
  label_set: {type: categorical, choices: [train, sqrt, balanced]}
  shared: {type: categorical, choices: [true, false]}
sample:
  omega: {type: float, low: 1e-2, high: 2.0, log: true}
"""


def sampled(space: Space, level: str = "train", n: int = 200) -> list[dict[str, object]]:
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    points = []
    for _ in range(n):
        trial = study.ask()
        points.append(space.suggest(trial, level))
        study.tell(trial, 0.0)
    return points


def key(point: dict[str, object]) -> tuple[object, ...]:
    return tuple(sorted((name, repr(value)) for name, value in point.items()))


def test_conditions_hold_in_every_sample_and_samples_fill_the_grid() -> None:
    space = parse_space(SPACE, "test")
    points = sampled(space, n=500)
    for point in points:
        assert ("samples" in point) == (point["label_set"] != "train")
        assert ("warmup" in point) == (point.get("samples") == 4)
    grid = [key(point) for point in space.grid("train")]
    # train: 2; sqrt and balanced: (3 + 1 * 4) * 2 each
    assert len(set(grid)) == len(grid) == space.size("train") == 30
    assert {key(point) for point in points} == set(grid)


def test_continuous_levels_are_not_counted() -> None:
    space = parse_space(SPACE, "test")
    assert not space.is_finite("sample")
    assert space.size("sample") is None
    with pytest.raises(ValueError, match="not finite"):
        space.grid("sample")
    omegas = [point["omega"] for point in sampled(space, "sample")]
    assert min(omegas) >= 0.01
    assert max(omegas) <= 2
    below = sum(omega < math.sqrt(0.01 * 2.0) for omega in omegas)  # half of a log scale
    assert 70 < below < 130


KEYS = ["objective.name", "objective.tau", "objective.gamma", "objective.label_set"]
KEYS += ["optimizer.learning_rate", "sampling.guidance.omega"]


def test_the_packaged_space_is_sound() -> None:
    space = load_space("cbdm")
    space.check(KEYS)
    assert space.seed_points == [
        {"objective.tau": 1.0, "objective.gamma": 0.25, "objective.label_set": "train"}
    ]
    assert [baseline.values() for baseline in space.baselines] == [{"objective.name": "ddpm"}]
    assert space.size("sample") == 6
    assert all(0.1 <= point["objective.tau"] <= 5 for point in sampled(space))


def test_unknown_names_are_found_before_anything_starts() -> None:
    text = "{description: x, train: {%s: {type: int, low: 1, high: 2}}, base: %s, baselines: %s}"
    for name, base, baselines, what in [
        ("objective.taau", "{}", "[]", r"train: unknown key objective\.taau.*objective\.tau\?"),
        ("tau", "{}", "[]", r"train: unknown key tau.*objective\.tau\?"),
        ("objective", "{}", "[]", r"train: unknown key objective .*objective\.name\?"),
        ("objective.tau", "{objective: {nam: x}}", "[]", r"base: unknown key objective\.nam "),
        (
            "objective.tau",
            "{}",
            "[{name: a, set: {sampling: {guidance: {omgea: 1}}}}]",
            "baseline a: .*omega",
        ),
    ]:
        space = parse_space(text % (name, base, baselines), "test")
        with pytest.raises(UsageProblem, match=what):
            space.check(KEYS)
    with pytest.raises(UsageProblem, match="named cbd — did you mean cbdm"):
        load_space("cbd")
    with pytest.raises(UsageProblem, match=r"absent\.yaml: cannot be read"):
        load_space("absent.yaml")


GOOD = "a: {type: int, low: 1, high: 3}"


@pytest.mark.parametrize(
    ("train", "rest", "message"),
    [
        ("a: {type: float, low: 2, high: 1}", "", "train: a: low 2 is above high 1"),
        ("a: {type: float, low: 0, high: 1, log: true}", "", "log needs low > 0"),
        ("a: {type: int, low: 1, high: 9, log: true, step: 2}", "", "log and step exclude"),
        ("a: {type: float, low: 0, high: 1, step: 0.3}", "", "whole steps of 0.3"),
        ("a: {type: float, low: 0, high: .inf}", "", "finite number"),
        ("a: {type: categorical, choices: []}", "", "choices is empty"),
        ("a: {type: categorical, choices: [x, x]}", "", "'x' is given twice"),
        ("a: {type: flaot, low: 0, high: 1}", "", r"train\.a"),
        ("a: {type: int, low: 0, hihg: 1}", "", r"train\.a\.(high is missing|hihg)"),
        ("", "", "train has no parameters"),
        (GOOD, "sample: {a: {type: int, low: 1, high: 2}}", "a is in train and in sample"),
        (GOOD, "base: {a: 1}", "a is in base and in train"),
        (GOOD, "seeds: []", "unknown key seeds"),
        (GOOD, "seed_points: [{b: 1}]", "seed point 1: a is missing"),
        (GOOD, "seed_points: [{a: 1, b: 1}]", "unknown parameter b"),
        (GOOD, "seed_points: [{a: 1}, {a: 4}]", "point 2: a = 4 is not in the space.*1, 2, 3"),
        (GOOD, "seed_points: [{a: true}]", "a = True is not in the space"),
        (GOOD, "baselines: [{name: d, set: {}}, {name: d, set: {}}]", "two baselines are named d"),
        (f"{GOOD[:-1]}, when: {{b: 1}}}}", "", "when: b is not a parameter of train"),
        (f"{GOOD[:-1]}, when: {{b: z}}}}, b: {{type: categorical, choices: [x]}}", "", "never 'z'"),
        (
            f"{GOOD[:-1]}, when: {{b: x}}}}, b: {{type: categorical, choices: [x], when: {{a: 1}}}}",
            "",
            "when goes in a circle: ",
        ),
        (
            f"{GOOD[:-1]}, when: {{b: x}}}}, b: {{type: categorical, choices: [x, y]}}",
            "seed_points: [{b: y, a: 1}]",
            "a is not active at this point",
        ),
        (GOOD, "]", "line 3: "),
    ],
)
def test_a_space_that_contradicts_itself_is_one_clear_line(train, rest, message) -> None:
    with pytest.raises(UsageProblem, match=message) as caught:
        parse_space(f"description: x\ntrain: {{{train}}}\n{rest}\n", "test.yaml")
    assert str(caught.value).startswith("test.yaml")
    assert "\n" not in str(caught.value)


def test_a_space_is_written_in_the_yaml_of_recipes() -> None:
    space = parse_space(
        """
description: off
train:
  a: {type: float, low: 1e-4, high: 1e-2, log: true}
  b: {type: categorical, choices: [1e-4, off, no, 2026-01-01, true, null]}
""",
        "test",
    )
    assert space.description == "off"
    a, b = space.train.values()
    assert (a.low, a.high) == (1e-4, 1e-2)
    assert b.grid() == [1e-4, "off", "no", "2026-01-01", True, None]
    # launched on a cluster, a space travels as JSON
    assert parse_space(space.model_dump_json(indent=1), "test") == space
    quoted = parse_space(
        "{description: x, train: {b: {type: categorical, choices: ['1e-4', '12']}}}", "test"
    )
    assert parse_space(quoted.model_dump_json(), "test").train["b"].grid() == ["1e-4", "12"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("description: x\ndescription: y", "test line 2: key 'description' is given twice"),
        ("description: x\ntrain:\n  a: 1\n  a: 2", "test line 4: key 'a' is given twice"),
        ("- description", "test: not a mapping"),
        ("", r"test: \(1\) description is missing; \(2\) train is missing — \(1\) add it"),
        ("train: {a: {type: flaot}}", r"train\.a\.type: 'flaot' .* did you mean float\?"),
        (
            "{description: x, train: {a: {type: int, low: 0, hihg: 1}}}",
            r"test: unknown key train\.a\.hihg — did you mean train\.a\.high\?",
        ),
        (
            "{description: x, train: {a: {type: int, low: 0, high: 1, step: 0}}}",
            r"train\.a\.step: 0 given, expected a whole number >= 1 — change it",
        ),
        (
            "{description: x, train: {}, baselines: [{name: a, set: {}, sett: {}}]}",
            r"unknown key baselines\.0\.sett — did you mean baselines\.0\.set\?",
        ),
        (
            "{description: x, train: {}, pretrain: {share: 2, set: {}}}",
            r"pretrain\.share: 2 given, expected a number > 0 and < 1",
        ),
    ],
)
def test_mistakes_in_a_space_read_as_those_in_a_recipe(text: str, message: str) -> None:
    with pytest.raises(UsageProblem, match=message):
        parse_space(text, "test")


def test_every_kind_of_guidance_is_a_point_of_the_sample_level() -> None:
    space = load_space("guidance")
    experiment = load_experiment("digits-lt", []).value
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    kinds: dict[str, set[str]] = {}
    for _ in range(60):
        values = space.suggest(study.ask(), "sample")
        guidance = with_values(experiment, values, "the space").sampling.guidance
        kinds.setdefault(guidance.name, set()).update(values)
        for key, value in values.items():
            assert getattr(guidance, key.rpartition(".")[2]) == value
    prefix = "sampling.guidance."
    assert {kind: {k.removeprefix(prefix) for k in keys} for kind, keys in kinds.items()} == {
        "cfg": {"name", "omega"},
        "interval": {"name", "omega", "high"},
        "groups": {"name", "many", "medium", "few"},
        "counts": {"name", "omega", "slope"},
    }
