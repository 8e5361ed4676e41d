"""A search space as YAML: what a training is tried with, and what each finished one is tried with.

    description: one line
    base: {objective: {name: cbdm}}        # what every training of the space has
    train:                                  # parameters that need a training
      objective.tau: {type: float, low: 0.1, high: 5.0, log: true}
      objective.label_set: {type: categorical, choices: [train, sqrt, balanced]}
      objective.label_draws: {type: int, low: 1, high: 4, when: {objective.label_set: balanced}}
    sample:                                 # searched on each finished checkpoint, no training
      sampling.omega: {type: float, low: 0.0, high: 2.0, step: 0.5}
    seed_points:                            # tried first
      - {objective.tau: 1.0, objective.label_set: train}
    baselines:                              # trained beside the search
      - {name: ddpm, set: {objective.name: ddpm}}
    trunk: {share: 0.5, set: {objective.name: ddpm}}    # trained once, for all others to start from

Parameters are named by the dotted keys of the config that they set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

Scalar = str | int | float | bool | None
Values = dict[str, Any]
"""Parameter -> value, for the active parameters of one level."""
Level = Literal["train", "sample"]


class SpaceError(ValueError):
    """A search space that cannot be used.

    Args:
        what: one line, what is wrong.
        fix: one line, what to do about it.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what, fix)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what} — {self.fix}"


class Suggester(Protocol):
    """The part of an Optuna trial that a space draws from."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...
    def suggest_categorical(self, name: str, choices: list[Scalar]) -> Scalar: ...


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Parameter(_Part):
    when: dict[str, list[Scalar]] = {}
    """Active only where each of these parameters of the same level has one of these values."""

    @field_validator("when", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: v if isinstance(v, list) else [v] for name, v in value.items()}


class FloatParameter(_Parameter):
    """A number in [low, high], both inclusive; on a grid of `step` if given."""

    type: Literal["float"]
    low: float
    high: float
    log: bool = False
    step: float | None = Field(None, gt=0)

    def suggest(self, trial: Suggester, name: str) -> float:
        """Draw a value."""
        value = trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        return self.tidy(value)

    def tidy(self, value: float) -> float:
        """0.30000000000000004 -> 0.3 where there is a step; other values as they are."""
        return float(f"{value:.12g}") if self.step else float(value)

    def grid(self) -> list[Scalar] | None:
        """All values, or None where they cannot be counted."""
        if self.low == self.high:
            return [self.low]
        if self.step is None:
            return None
        steps = round((self.high - self.low) / self.step)
        return [self.tidy(self.low + i * self.step) for i in range(steps + 1)]

    def has(self, value: Any) -> bool:
        """Whether the value is one that `suggest` may give."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return (
            number
            and self.low <= value <= self.high
            and (self.step is None or _whole((value - self.low) / self.step))
        )

    def fault(self) -> str | None:
        """What is wrong with the range, if anything."""
        return _range_fault(self.low, self.high, self.log, self.step)


class IntParameter(_Parameter):
    """A whole number in [low, high], both inclusive, in steps of `step`."""

    type: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: int = Field(1, ge=1)

    def suggest(self, trial: Suggester, name: str) -> int:
        """Draw a value."""
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)

    def grid(self) -> list[Scalar] | None:
        """All values."""
        return list(range(self.low, self.high + 1, self.step))

    def has(self, value: Any) -> bool:
        """Whether the value is one that `suggest` may give."""
        number = isinstance(value, int) and not isinstance(value, bool)
        return number and value in range(self.low, self.high + 1, self.step)

    def fault(self) -> str | None:
        """What is wrong with the range, if anything."""
        return _range_fault(self.low, self.high, self.log, self.step if self.step > 1 else None)


class CategoricalParameter(_Parameter):
    """One of some values."""

    type: Literal["categorical"]
    choices: list[Scalar]

    def suggest(self, trial: Suggester, name: str) -> Scalar:
        """Draw a value."""
        return trial.suggest_categorical(name, self.choices)

    def grid(self) -> list[Scalar] | None:
        """All values."""
        return list(self.choices)

    def has(self, value: Any) -> bool:
        """Whether the value is a choice; true is not 1."""
        return any(value == choice and type(value) is type(choice) for choice in self.choices)

    def fault(self) -> str | None:
        """What is wrong with the choices, if anything."""
        if not self.choices:
            return "choices is empty"
        for i, choice in enumerate(self.choices):
            if choice in self.choices[:i]:
                return f"choice {choice!r} is there twice"
            if isinstance(choice, str) and _number_as_text(choice):
                return f"choice {choice!r} is text in YAML; write it with a point, as 1.0e-4"
        return None


Parameter = Annotated[
    FloatParameter | IntParameter | CategoricalParameter, Field(discriminator="type")
]


class Baseline(_Part):
    """A training to compare with, outside the search."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    set: dict[str, Any]
    """Overrides, by dotted key or nested; they come after the space's `base`."""

    def values(self) -> Values:
        """What it sets, by dotted key."""
        return _dotted(self.set)


class Trunk(_Part):
    """A training done once, from whose model every other one of the space starts.

    N branches cost N times their own part, not N whole trainings.
    """

    share: float = Field(gt=0, lt=1)
    """Of `training.images`; each branch trains the rest."""
    set: dict[str, Any]
    """Overrides, by dotted key or nested; they come after the space's `base`."""

    def images_of(self, whole: int) -> int:
        """How many images the trunk sees where a whole training is of so many."""
        return round(whole * self.share)

    def values(self, images: int) -> Values:
        """What the trunk sets, by dotted key, where a whole training is of so many images."""
        return {**_dotted(self.set), "training.images": self.images_of(images)}

    def branch_values(self, images: int, model: str) -> Values:
        """What every training sets that starts from it."""
        return {"start.model": model, "training.images": images - self.images_of(images)}


class Space(_Part):
    """A search space; built by `load_space` or `parse_space`, which check it."""

    description: str
    base: dict[str, Any] = {}
    train: dict[str, Parameter]
    sample: dict[str, Parameter] = {}
    seed_points: list[Values] = []
    baselines: list[Baseline] = []
    trunk: Trunk | None = None

    def level(self, level: Level) -> dict[str, Any]:
        """The parameters of a level, each after those that its `when` names."""
        parameters: dict[str, Any] = self.train if level == "train" else self.sample
        order = TopologicalSorter({name: list(p.when) for name, p in parameters.items()})
        return {name: parameters[name] for name in order.static_order()}

    def suggest(self, trial: Suggester, level: Level) -> Values:
        """Draw the active parameters of a level, define-by-run."""
        values: Values = {}
        for name, parameter in self.level(level).items():
            if _active(parameter, values):
                values[name] = parameter.suggest(trial, name)
        return values

    def read(self, stored: Mapping[str, Any]) -> Values:
        """A training's values from where Optuna keeps them, as `suggest` gave them."""
        values = dict(stored)
        for name, parameter in self.train.items():
            if name in values and isinstance(parameter, FloatParameter):
                values[name] = parameter.tidy(values[name])
        return values

    def size(self, level: Level) -> int | None:
        """How many points a level has, or None where they cannot be counted."""
        parameters = list(self.level(level).items())
        named = {name for _, parameter in parameters for name in parameter.when}

        def count(i: int, values: Values) -> int:
            if i == len(parameters):
                return 1
            name, parameter = parameters[i]
            if not _active(parameter, values):
                return count(i + 1, values)
            grid = parameter.grid()
            if name not in named:
                return len(grid) * count(i + 1, values)
            return sum(count(i + 1, {**values, name: value}) for value in grid)

        return count(0, {}) if self.is_finite(level) else None

    def is_finite(self, level: Level) -> bool:
        """Whether the points of a level can be counted."""
        return all(parameter.grid() is not None for parameter in self.level(level).values())

    def grid(self, level: Level) -> Iterator[Values]:
        """Every point of a finite level, one after the other.

        Raises:
            ValueError: the level is not finite.
        """
        if not self.is_finite(level):
            raise ValueError(f"the {level} level has no grid: it is not finite")
        parameters = list(self.level(level).items())

        def extend(i: int, values: Values) -> Iterator[Values]:
            if i == len(parameters):
                yield values
                return
            name, parameter = parameters[i]
            if not _active(parameter, values):
                yield from extend(i + 1, values)
                return
            for value in parameter.grid():
                yield from extend(i + 1, {**values, name: value})

        return extend(0, {})

    def check(self, known_keys: Iterable[str]) -> None:
        """Check that everything the space sets is a key of the config.

        Args:
            known_keys: all dotted leaf keys that a config can have.

        Raises:
            SpaceError: naming the first key that is not, and the nearest that is.
        """
        known = list(known_keys)
        named = [("train", name) for name in self.train]
        named += [("sample", name) for name in self.sample]
        named += [("base", name) for name in _dotted(self.base)]
        named += [(f"baseline {b.name}", name) for b in self.baselines for name in b.values()]
        named += [("trunk", name) for name in (_dotted(self.trunk.set) if self.trunk else ())]
        for where, name in named:
            if not any(name == key or name.startswith(f"{key}.") for key in known):
                raise SpaceError(f"{where}: unknown key {name}", _did_you_mean(name, known))

    @model_validator(mode="after")
    def _consistent(self) -> Space:
        if not self.train:
            raise SpaceError("train has no parameters", "search at least one")
        _check_level("train", self.train)
        _check_level("sample", self.sample)
        for name in self.train:
            if name in self.sample:
                raise SpaceError(f"{name} is in train and in sample", "keep one of the two")
            if name in _dotted(self.base):
                raise SpaceError(f"{name} is in base and in train", "keep one of the two")
        for number, point in enumerate(self.seed_points, 1):
            self._check_seed_point(f"seed point {number}", point)
        names = [baseline.name for baseline in self.baselines]
        for name in names:
            if names.count(name) > 1:
                raise SpaceError(f"two baselines are named {name}", "rename one")
        return self

    def _check_seed_point(self, where: str, point: Values) -> None:
        values: Values = {}
        for name, parameter in self.level("train").items():
            if not _active(parameter, values):
                continue
            if name not in point:
                raise SpaceError(f"{where}: {name} is missing", "give every parameter a value")
            if not parameter.has(point[name]):
                raise SpaceError(
                    f"{where}: {name} = {point[name]!r} is not in the space",
                    f"give one of {_shown(parameter)}",
                )
            values[name] = point[name]
        for name in point:
            if name in self.train and name not in values:
                raise SpaceError(f"{where}: {name} is not active there", "remove it")
            if name not in self.train:
                hint = _did_you_mean(name, list(self.train))
                raise SpaceError(f"{where}: unknown parameter {name}", hint)


def in_words(values: Mapping[str, Any]) -> str:
    """A point in a few words: `tau=0.53 label_set=train`, `objective=call base=oc`."""
    words = []
    for key, value in values.items():
        *_, section, name = ("", *key.split("."))
        shown = f"{value:.3g}" if isinstance(value, float) else value
        words.append(f"{section if name == 'name' else name}={shown}")
    return " ".join(words)


def load_space(name_or_path: str | Path) -> Space:
    """Read a space that comes with the package by its name, or any by its path.

    Raises:
        SpaceError: no such space, or a space that contradicts itself.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        try:
            return parse_space(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise SpaceError(f"{path}: cannot be read ({reason})", "give a YAML file") from error
    packaged = {
        entry.name.removesuffix(".yaml"): entry
        for entry in files("whipray.search_spaces").iterdir()
        if entry.name.endswith(".yaml")
    }
    if path.name not in packaged:
        near = get_close_matches(path.name, packaged, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise SpaceError(
            f"no search space is named {path.name}",
            f"{hint}there are {', '.join(sorted(packaged))}, or give a .yaml file",
        )
    return parse_space(packaged[path.name].read_text(encoding="utf-8"), path.name)


def parse_space(text: str, where: str) -> Space:
    """Read a space from YAML; `where` names it in errors.

    Raises:
        SpaceError: not YAML, an unknown key, a wrong value, or a space that contradicts itself.
    """
    try:
        return Space.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "not YAML"
        raise SpaceError(f"{where}{line}: {reason}", "write it as YAML") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, SpaceError):
            raise SpaceError(f"{where}: {cause.what}", cause.fix) from error
        place = ".".join(str(p) for p in first["loc"] if p not in ("float", "int", "categorical"))
        reason = first["msg"].removeprefix("Input should be ")
        what = f"{where}: {place or 'the space'}: {first['input']!r} given, expected {reason}"
        if first["type"] == "extra_forbidden":
            what = f"{where}: unknown key {place}"
        elif first["type"] == "missing":
            what = f"{where}: {place} is missing"
        raise SpaceError(what, "see search_spaces/cbdm.yaml for the format") from error


def _check_level(level: str, parameters: Mapping[str, Any]) -> None:
    for name, parameter in parameters.items():
        if fault := parameter.fault():
            raise SpaceError(f"{level}: {name}: {fault}", "correct the range")
        for other, wanted in parameter.when.items():
            if other not in parameters:
                raise SpaceError(
                    f"{level}: {name}: when: {other} is not a parameter of {level}",
                    _did_you_mean(other, list(parameters)),
                )
            for value in wanted:
                if not parameters[other].has(value):
                    raise SpaceError(
                        f"{level}: {name}: when: {other} is never {value!r}",
                        f"give one of {_shown(parameters[other])}",
                    )
    try:
        TopologicalSorter({name: list(p.when) for name, p in parameters.items()}).prepare()
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise SpaceError(f"{level}: when goes in a circle: {circle}", "break it") from error


def _active(parameter: Any, values: Values) -> bool:
    return all(
        name in values and any(_same(values[name], wanted) for wanted in choices)
        for name, choices in parameter.when.items()
    )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) or isinstance(b, float):
        return isinstance(a, int | float) and isinstance(b, int | float) and math.isclose(a, b)
    return bool(a == b) and type(a) is type(b)


def _range_fault(low: float, high: float, log: bool, step: float | None) -> str | None:
    if low > high:
        return f"low {low:g} is above high {high:g}"
    if log and low <= 0:
        return f"low {low:g} has no logarithm; log needs low > 0"
    if log and step is not None:
        return "log and step exclude each other"
    if step is not None and not _whole((high - low) / step):
        return f"high {high:g} is not low {low:g} plus whole steps of {step:g}"
    return None


def _shown(parameter: Any) -> str:
    grid = parameter.grid()
    if isinstance(parameter, CategoricalParameter) or (grid and len(grid) <= 12):
        return ", ".join(map(str, grid))
    return f"{parameter.low:g} to {parameter.high:g}"


def _did_you_mean(name: str, known: list[str]) -> str:
    same = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    near = get_close_matches(name, known, n=1) or same
    return f"did you mean {near[0]}?" if near else "remove it, or correct its name"


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _number_as_text(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.strip().lower().lstrip("+-") not in ("inf", "infinity", "nan")


def _whole(number: float) -> bool:
    return abs(number - round(number)) < 1e-8
