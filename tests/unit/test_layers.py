"""Layers to one checked config: what wins, where it is from, and what a mistake says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field, model_validator

from whipray.platform.config.layers import (
    Layer,
    flatten,
    parse_override,
    read_yaml,
    render,
    resolve,
)
from whipray.platform.config.schema import known_keys
from whipray.trainers.config import Config
from whipray.trainers.errors import UsageProblem


class Ddpm(Config):
    name: Literal["ddpm"] = "ddpm"
    label_drop: float = Field(0.1, ge=0, le=1)


class Cbdm(Config):
    name: Literal["cbdm"] = "cbdm"
    label_drop: float = Field(0.2, ge=0, le=1)
    tau: float = Field(1.0, ge=0)
    label_set: Literal["train", "sqrt", "balanced"] = "train"


class Engine(Config):
    stage: int = Field(1, ge=0, le=3)
    micro_batch: int | Literal["auto"] = "auto"
    betas: tuple[float, float] = (0.9, 0.999)


class Toy(Config):
    objective: Annotated[Ddpm | Cbdm, Field(discriminator="name")] = Cbdm(tau=2.0)
    engine: Engine = Engine(stage=2)
    run_name: str = "toy"
    learning_rate: float = Field(2e-4, gt=0)
    images: int | None = Field(None, ge=1)
    limits: dict[str, float] = Field({})

    @model_validator(mode="after")
    def _fits(self) -> Toy:
        if self.images and self.images % 8:
            raise ValueError(f"images {self.images} is not a multiple of 8")
        return self


def toy(*overrides: str, file: dict[str, object] | None = None) -> Toy:
    layers = [Layer("exp.yaml", file or {}), *(parse_override(o) for o in overrides)]
    return resolve(Toy, layers).value


def test_later_layers_win_and_every_leaf_knows_its_origin() -> None:
    resolved = resolve(
        Toy,
        [
            Layer("recipe small", {"engine": {"stage": 0}, "learning_rate": 1e-3}),
            Layer("exp.yaml", {"learning_rate": 5e-4, "limits": {"few.kid": 2}}),
            parse_override("engine.betas=[0.5, 0.9]"),
        ],
    )
    assert resolved.value == Toy(
        engine=Engine(stage=0, betas=(0.5, 0.9)), learning_rate=5e-4, limits={"few.kid": 2}
    )
    assert resolved.origins == {
        "objective.name": "default",
        "objective.label_drop": "default",
        "objective.tau": "default",
        "objective.label_set": "default",
        "engine.stage": "recipe small",
        "engine.micro_batch": "default",
        "engine.betas": "command line",
        "run_name": "default",
        "learning_rate": "exp.yaml",
        "images": "default",
        "limits.few.kid": "exp.yaml",
    }
    assert list(resolved.origins) == list(flatten(resolved.value))


def test_a_part_of_a_section_keeps_the_rest_of_the_fields_default() -> None:
    assert toy("objective.label_set=sqrt").objective == Cbdm(tau=2.0, label_set="sqrt")
    assert toy("engine.micro_batch=4").engine == Engine(stage=2, micro_batch=4)


def test_another_variant_drops_only_what_it_lacks() -> None:
    given = {"objective": {"name": "cbdm", "tau": 3.0, "label_drop": 0.5}}
    assert toy("objective.name=ddpm", file=given).objective == Ddpm(label_drop=0.5)
    # A default of the old variant is nobody's wish: the new variant's own default holds.
    assert toy("objective.name=ddpm").objective == Ddpm(label_drop=0.1)


@pytest.mark.parametrize("order", [1, -1])
def test_one_layer_may_not_contradict_itself(order: int) -> None:
    overrides = ["objective.tau=2", "objective.name=ddpm"][::order]
    with pytest.raises(UsageProblem, match=r"objective\.tau.*not a key of objective when.*ddpm"):
        toy(*overrides)


@pytest.mark.parametrize(
    ("override", "what", "fix"),
    [
        ("objective.taau=1", r"unknown key objective\.taau \(command line\)", r"objective\.tau\?"),
        ("tau=1", "unknown key tau", r"did you mean objective\.tau\?"),
        ("objective.stage=1", r"objective\.stage", r"did you mean engine\.stage\?"),
        ("motor.stage=1", "unknown key motor", r"did you mean engine\.stage\?"),
        ("motor={stage: 1, betas: [0, 0]}", "unknown key motor", r"did you mean engine\?"),
        ("motor.rpm=1", "unknown key motor", "the keys at the top level are objective"),
        ("objective=ddpm", "'ddpm' given", r"^write objective\.name=ddpm on the command line$"),
        ("objective=dpm", "'dpm' given", r"^choose objective\.name of ddpm, cbdm on the command"),
        ("zzz=1", "unknown key zzz", "the keys at the top level are objective, engine"),
        ("objective.tau=-1", r"objective\.tau: -1 given, expected a number >= 0", "command line"),
        ("objective.tau=fast", r"'fast' given, expected a number >= 0", "command line"),
        ("images=1.5", r"images: 1\.5 given, expected a whole number >= 1", "command line"),
        ("learning_rate=.inf", r"learning_rate: inf given, expected a finite number", "command"),
        ("engine.micro_batch=x", r"'x' given, expected a whole number or 'auto'", "command line"),
        ("engine=3", r"engine: 3 given, expected a section of keys", "command line"),
        ("objective.name=cdbm", r"'cdbm' is not one", r"did you mean cbdm\? .* ddpm, cbdm"),
        ("objective.label_set=trian", "'trian' is not", r"mean train\? .* train, sqrt, balanced"),
        ("images=9", "^images 9 is not a multiple of 8$", "change"),
        ("=3", "'=3' is not key=value", "like objective.tau=1.5"),
        ("tau", "'tau' is not key=value", "like objective.tau=1.5"),
        ("engine..stage=3", "is not key=value", "like"),
        ("run_name=[1", "run_name line 1", "YAML"),
    ],
)
def test_a_mistake_is_one_line_and_a_way_out(override: str, what: str, fix: str) -> None:

    with pytest.raises(UsageProblem) as caught:
        toy(override)
    assert re.search(what, caught.value.what), caught.value.what
    assert re.search(fix, caught.value.fix), caught.value.fix
    assert "\n" not in str(caught.value)


def test_several_mistakes_are_all_named_each_with_its_layer() -> None:
    with pytest.raises(UsageProblem) as caught:
        toy("nonsense=1", "engine.stage=9", file={"objective": {"tau": "x"}})
    assert caught.value.what == (
        "(1) objective.tau: 'x' given, expected a number >= 0; "
        "(2) engine.stage: 9 given, expected a whole number >= 0 and <= 3; "
        "(3) unknown key nonsense (command line)"
    )
    assert re.fullmatch(
        r"\(1\) change it in exp\.yaml; \(2\) change it on the command line; \(3\) .*engine, .*",
        caught.value.fix,
    )
    with pytest.raises(UsageProblem, match=r"\(5\) unknown key z4 \(exp\.yaml\); and 35 more — "):
        toy(file={f"z{number}": 0 for number in range(40)})


@pytest.mark.parametrize(
    ("override", "level"), [("objective.tau=0.1,1,5", "train"), ("engine.stage= 1 , 2", "train")]
)
def test_several_values_of_a_key_are_for_a_sweep(override: str, level: str) -> None:
    key, _, values = override.partition("=")
    with pytest.raises(UsageProblem) as caught:
        toy(override)
    entry = f"`{key}: {{type: categorical, choices: [{values.strip()}]}}`"
    assert "whipray sweep" in caught.value.fix
    assert caught.value.fix.endswith(f"under {level}:, {entry}")


class Required(Config):
    images: int
    objective: Ddpm | Cbdm = Field(discriminator="name")


def test_what_was_written_wrong_comes_before_what_is_missing() -> None:
    with pytest.raises(
        UsageProblem, match=r"\(1\) unknown key imagse .*; \(2\) objective.* images\?;"
    ):
        resolve(Required, [parse_override("imagse=1")])
    with pytest.raises(UsageProblem, match=r"^\(1\) images is missing; .*\(1\) add it, as images="):
        resolve(Required, [])
    for overrides in ([], [parse_override("objective.tau=1")]):
        with pytest.raises(UsageProblem, match=r"^objective\.name is missing — .* ddpm, cbdm"):
            resolve(Required, [parse_override("images=1"), *overrides])


class Loop(Config):
    images: int
    batch_size: int = 64


class Recipe(Config):
    training: Loop


def test_a_missing_section_names_the_keys_that_it_needs() -> None:
    with pytest.raises(UsageProblem, match=r"^training is missing — add it, with training.images$"):
        resolve(Recipe, [])
    with pytest.raises(UsageProblem, match=r"^training.images is missing — add it, as training"):
        resolve(Recipe, [parse_override("training.batch_size=3")])


def test_yaml_files_mean_what_they_look_like(tmp_path) -> None:
    path = tmp_path / "exp.yaml"
    path.write_text("learning_rate: 1e-4\nrun_name: off\n")
    layer = read_yaml(path)
    assert layer == Layer("exp.yaml", {"learning_rate": 1e-4, "run_name": "off"})
    path.write_text("a: 1\nb:\n  c: 1\n  c: 2\n")
    with pytest.raises(UsageProblem, match="line 4: key 'c' is given twice"):
        read_yaml(path)
    path.write_text("- 1\n")
    with pytest.raises(UsageProblem, match="not a mapping"):
        read_yaml(path)
    with pytest.raises(UsageProblem, match="cannot be read"):
        read_yaml(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-4", 1e-4), ("-.5E3", -500.0), ("1_000", 1000), ("+1", 1), (".inf", float("inf"))),
        *(("017", 17), ("08", 8), ("0o17", 15), ("0x1f", 31), ("True", True), ("~", None)),
        *((word, word) for word in ("on", "No", "y", "2026-01-01", "1:30", "0b11", "=", "1.2.3")),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    (read,) = parse_override(f"limits={text}").values.values()
    assert read == value
    assert type(read) is type(value)


BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
NOT_A_CONFIG = {
    "a list as a key": ("[a]: 1", "line 1: a key is a list or a section"),
    "a section as a key": ("{{a: 1}: 2}", "line 1: a key is a list or a section"),
    "a list as a complex key": ("x: 1\n? [a, b]\n: 1", "line 2: a key is a list or a section"),
    "a section as a complex key": ("? {a: 1}\n: 1", "line 1: a key is a list or a section"),
    "an endless number": ("9" * 5000, ""),
    "code": ("!!python/name:os.system x", "line 1"),
    "deep lists": ("[" * 3000, "line 1: nested deeper than 32 levels"),
    "deep sections": ("a: 1\nb: " + "{a: " * 5000, "line 2: nested deeper than 32 levels"),
    "deep indentation": ("".join(f"{' ' * n}a:\n" for n in range(1000)), "line 33: nested deeper"),
    "aliases of aliases": (BOMB, "line 6: more than 100,000 values, with those of aliases"),
    "an alias in itself": ("a: &a [1, *a]", r"line 1: \*a is inside of what it names"),
    "a long key twice": (
        "{0}: 1\n{0}: 2".format("k" * 100),
        "line 2: key 'k+\\.\\.\\.k+' is given",
    ),
}


@pytest.mark.parametrize("case", NOT_A_CONFIG)
def test_yaml_that_cannot_be_a_config_is_one_line(tmp_path: Path, case: str) -> None:
    text, said = NOT_A_CONFIG[case]
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UsageProblem, match=rf"^{re.escape(str(path))} ?{said}") as caught:
        read_yaml(path)
    with pytest.raises(UsageProblem, match=rf"^limits ?{said}"):
        parse_override(f"limits={text}")
    assert "\n" not in str(caught.value)
    assert len(caught.value.what) < len(str(path)) + 120


def test_a_value_in_a_message_is_cut() -> None:
    nested = "{few: [1, [2, [3, [4, [5]]]]]}"
    long = [*("x" * 100_000, f"[{'x, ' * 2_000}]"), f"'{'x' * 100_000}'", nested, "1,2" * 10_000]
    for key in ("images", "objective.name", "objective.label_set", "limits", "objective"):
        for value in long:
            with pytest.raises(UsageProblem) as caught:
                toy(f"{key}={value}")
            assert len(str(caught.value)) < 600
    with pytest.raises(UsageProblem) as caught:
        parse_override("x" * 100_000)
    assert len(str(caught.value)) < 200


def test_a_file_that_is_no_config_is_refused_before_it_is_read_to_its_end(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="larger than 4 MiB"):
        read_yaml(Path("/dev/zero"))
    for name, reason in (("a\0b.yaml", "cannot be read"), ("x" * 300, "too long")):
        with pytest.raises(UsageProblem, match=reason):
            read_yaml(tmp_path / name)


def test_rendered_config_reads_back_and_shows_origins(tmp_path) -> None:
    texts = ["off", "1e-4", "a # b", "null", "2026-01-01", "é: 1", "1:30", "017", "0o17", "<<"]
    for text in texts:
        resolved = resolve(Toy, [Layer("exp.yaml", {"run_name": text, "learning_rate": 1e-6})])
        rendered = render(resolved)
        path = tmp_path / "again.yaml"
        path.write_text(rendered)
        assert resolve(Toy, [read_yaml(path)]).value == resolved.value
        assert yaml.safe_load(rendered) == resolved.value.model_dump(mode="json")
    lines = [line for line in rendered.splitlines() if not line.endswith(":")]
    assert len({line.index("  # ") for line in lines}) == 1
    assert next(line for line in lines if "learning_rate" in line).endswith("# exp.yaml")
    coloured = render(resolved, colour=True).splitlines()
    assert next(line for line in coloured if "tau" in line).startswith("\x1b[2m")
    assert "\x1b" not in next(line for line in coloured if "learning_rate" in line)


def test_known_keys_go_through_unions() -> None:
    assert known_keys(Toy) == [
        "objective.name",
        "objective.label_drop",
        "objective.tau",
        "objective.label_set",
        "engine.stage",
        "engine.micro_batch",
        "engine.betas",
        "run_name",
        "learning_rate",
        "images",
        "limits",
    ]
