"""A proposal: which recipe suits some images, a machine and a time, and what to expect of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.experiment import Experiment
from ..config.layers import Layer, resolve
from ..foundation.names import LONGEST, is_name
from ..inspection.facts import ClassFacts, Inspection
from .expectations import expect, textures_from
from .machine import Machine
from .measure import Speed
from .networks import Choice, choices
from .schedule import PER_CLASS, Schedule, divide

CPU_MINUTES, GPU_MINUTES = 10.0, 240.0
"""Budgets where none is given."""
SIZES = (64, 32, 16)
"""Sizes that are proposed by themselves; `--size` may be any other."""
LEAST = 32
"""Size below which larger images are not reduced for lack of time: too little would be left of them."""
FEW_PIXELS = 8
STEPS = 15
"""Calls of the network for an image by UniPC, which was then not worse than 50 of DDIM."""
UNBALANCED = 10.0
"""Largest over smallest class from which something is done about it."""
LONG_RUN = 2_000_000
"""Images of training from which CBDM is proposed: a tenth of the papers' 300,000 steps of 64."""
MANY_REAL = 300
"""Real images from which FID, precision and recall, and a classifier's agreement mean something."""
OVERFITTED = 200
"""Times that a long run sees each image from which it is augmented."""

Measure = Callable[[Experiment, int, int], Speed]
"""(experiment, number of classes, a worker's rows of a batch) -> times; as `measure.measure`."""


@dataclass(frozen=True)
class Proposal:
    """A recipe with reasons.

    Args:
        name: of the model and its run.
        values: the recipe, nested.
        why: reasons, by dotted key or section.
        schedule: what the run does in its time.
        speed: as measured; None on a cluster.
        machine: that it is for.
        inspection: of the images.
        warnings: what not to expect.
    """

    name: str
    values: dict[str, Any]
    why: Mapping[str, str]
    schedule: Schedule
    speed: Speed | None
    machine: Machine
    inspection: Inspection
    warnings: tuple[str, ...]

    @property
    def layer(self) -> Layer:
        """The recipe as a layer of a config."""
        return Layer(f"proposed for {self.name}", self.values)

    @property
    def times(self) -> str:
        """How long it takes, in one line."""
        if self.schedule.times is None or self.speed is None:
            return f"{self.calls:,} calls of the network; no step was measured on {self.machine}"
        return f"{self.schedule.times} (measured: {self.speed.step:.2g} s a step)"

    @property
    def calls(self) -> int:
        """How often the network predicts an image, in training and for the evaluation."""
        generated = self.schedule.per_class * len(self.inspection.classes)
        return self.schedule.images + generated * STEPS


def propose(
    inspection: Inspection,
    name: str,
    machine: Machine,
    measure: Measure,
    *,
    minutes: float | None = None,
    size: int | None = None,
) -> Proposal:
    """Propose a recipe.

    Args:
        inspection: of the images.
        name: of the folder or file, from which the model's name is made.
        machine: that trains.
        measure: measures a step; not called for a cluster.
        minutes: the budget; None for the machine's default.
        size: side of the images, None to choose it.

    Raises:
        Problem: nothing can be trained on these images.
    """
    if (problem := inspection.problem()) is not None:
        raise problem
    minutes = minutes or (GPU_MINUTES if machine.gpus else CPU_MINUTES)
    largest, why_size = _size(inspection)
    sizes = [size] if size else [largest, *(s for s in SIZES if LEAST <= s < largest)]
    if size:
        why_size = "as given"
    maker = _Maker(inspection, model_name(name), machine, measure, minutes)
    for side in sizes:
        proposal = maker.make(side, why_size)
        if proposal.speed is None or proposal.schedule.images >= textures_from(side):
            break
        why_size = f"in this time there would be nothing but noise and blotches at {side} px"
    return proposal


def model_name(text: str) -> str:
    """Return a name for a model and its run, from that of a folder or file."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:LONGEST]
    return slug if is_name(slug) else "pictures"


def _size(inspection: Inspection) -> tuple[int, str]:
    """Return the size that three quarters of the images have at least, of those proposed, and why."""
    if inspection.sizes is None:
        return SIZES[0], "their sizes are not known"
    quarter, median = inspection.sizes.short_sides[1], inspection.sizes.short_sides[2]
    for side in SIZES:
        if quarter >= side:
            return side, f"half of the images are {median} px or more"
    side = max(FEW_PIXELS, quarter // 4 * 4)
    return side, f"the images are as small as {quarter} px"


@dataclass(frozen=True)
class _Maker:
    inspection: Inspection
    name: str
    machine: Machine
    measure: Measure
    minutes: float

    def make(self, size: int, why_size: str) -> Proposal:
        """Return the proposal for an image size."""
        for choice in choices(self.machine, size):
            values = self._values(choice, size, "ddpm")
            schedule, speed = self._schedule(values, choice)
            if schedule.images >= choice.least_images:
                break
        unbalanced = self._ratio >= UNBALANCED
        objective = "cbdm" if unbalanced and schedule.images >= LONG_RUN else "ddpm"
        if objective == "cbdm":
            values = self._values(choice, size, objective)
            schedule, speed = self._schedule(values, choice)
        long = schedule.images >= LONG_RUN
        augmented = long and schedule.images / self._seen > OVERFITTED
        if augmented:
            values["augmentation"] = {"name": "ada", "probability": 0.15}
            values["data"]["flip"] = False
        if unbalanced and objective == "ddpm":
            values["data"]["class_sampling"] = "sqrt"
        why = {
            "data.image_size": why_size,
            "data.class_sampling": f"the largest class has {self._ratio:.0f} times the images of the smallest",
            "data.flip": _why_flip(values["data"]["flip"], augmented),
            "model": choice.why,
            "process": "EDM, with the spread of these images' pixels as it is measured",
            "objective": _why_objective(objective, unbalanced),
            "augmentation": "each image is seen more than 200 times: shifts, turns and colours against copies",
            "optimizer": "a twentieth and a tenth of the run: they end before it does",
            "training": f"each image is seen {_times(schedule.images / self._seen)}",
            "sampling": f"{STEPS} calls of the network an image",
            "evaluation": self._why_metrics(),
            "scaling": str(self.machine),
        }
        self._finish(values, schedule)
        return Proposal(
            self.name,
            values,
            why,
            schedule,
            speed,
            self.machine,
            self.inspection,
            tuple(expect(self.inspection, schedule, size, self.machine, self.minutes, self._seen)),
        )

    # -- the parts ----------------------------------------------------------------------------------

    def _values(self, choice: Choice, size: int, objective: str) -> dict[str, Any]:
        data = {**self.inspection.source, "image_size": size, "flip": _may_flip(self._classes)}
        if set(self.inspection.modes) <= GREY and self.inspection.modes:
            data["channels"] = 1
        gpus = self.machine.gpus
        scaling: dict[str, Any] = {"workers": gpus, "gpus_per_worker": 1}
        if not gpus:  # one process is quicker than several on the cores of one machine
            cores, is_one = self.machine.cores, self.machine.cluster is None
            scaling = {"workers": 1 if is_one else cores, "cpus_per_worker": cores if is_one else 1}
        return {
            "name": self.name,
            "data": data,
            **{key: dict(value) for key, value in choice.values.items()},
            "objective": {"name": objective, "label_drop": 0.1},
            "engine": {"precision": "bf16" if gpus else "fp32"},
            "scaling": scaling,
        }

    def _schedule(self, values: dict[str, Any], choice: Choice) -> tuple[Schedule, Speed | None]:
        """Return the schedule of a choice and the times that it rests on."""
        classes = len(self._classes)
        if self.machine.cluster:
            return Schedule(10 * LONG_RUN, choice.batch, _per_class(classes)), None
        trial = {**values, "training": {"images": choice.batch, "batch_size": choice.batch}}
        workers = values["scaling"]["workers"]
        experiment = resolve(Experiment, [Layer("proposal", trial)]).value
        speed = self.measure(experiment, classes, choice.batch // workers)
        schedule = divide(
            60 * self.minutes,
            batch=choice.batch,
            step=speed.step,
            image=speed.call * STEPS,
            classes=classes,
            real=self._real,
        )
        return schedule, speed

    def _finish(self, values: dict[str, Any], schedule: Schedule) -> None:
        """Add what follows from the schedule."""
        values["optimizer"] |= {
            "warmup_images": schedule.warmup,
            "ema_half_life_images": schedule.half_life,
        }
        values["training"] = {
            "images": schedule.images,
            "batch_size": schedule.batch,
            "report_every_images": schedule.report_every,
            "checkpoint_every_images": schedule.checkpoint_every,
        }
        values["sampling"] = {
            "sampler": {"name": "unipc", "steps": STEPS},
            "guidance": {"omega": 0.0},
            "clip_x0": False,
        }
        metrics = ["kid", "memorisation"]
        if self._real >= MANY_REAL:
            metrics[1:1] = ["fid", "precision_recall", "agreement"]
        values["evaluation"] = {
            "images_per_class": schedule.per_class,
            "metrics": metrics,
            "groups": {"kind": self._groups},
        }

    # -- facts of the images ------------------------------------------------------------------------

    @property
    def _classes(self) -> tuple[ClassFacts, ...]:
        return self.inspection.classes

    @property
    def _seen(self) -> int:
        """Images that the network sees."""
        return sum(c.remaining for c in self._classes)

    @property
    def _real(self) -> int:
        """Real images that generated ones are compared with."""
        return sum(c.reference or c.held_out or c.remaining for c in self._classes)

    @property
    def _ratio(self) -> float:
        counts = [c.remaining for c in self._classes]
        return max(counts) / max(1, min(counts))

    @property
    def _groups(self) -> str:
        """`thresholds` where each of the three groups has a class, else `thirds`."""
        counts = [c.remaining for c in self._classes]
        has_all = (
            any(n > 100 for n in counts)
            and any(n < 20 for n in counts)
            and any(20 <= n <= 100 for n in counts)
        )
        return "thresholds" if has_all else "thirds"

    def _why_metrics(self) -> str:
        if self._real >= MANY_REAL:
            return f"{self._real:,} real images to compare with"
        return f"with {self._real} real images to compare with, FID and others say nothing"


GREY = frozenset({"grey", "grey with transparency", "black and white"})
"""Kinds of pixels without colour."""


def _per_class(classes: int) -> int:
    return max((n for n in PER_CLASS if n * classes <= 10_000), default=PER_CLASS[0])


def _may_flip(classes: tuple[ClassFacts, ...]) -> bool:
    """Return whether mirrored images are images of the class: not where classes look like characters."""
    return not all(len(c.name) == 1 or c.name.isdigit() for c in classes)


def _why_flip(flip: bool, augmented: bool) -> str:
    if augmented:
        return "ada mirrors"
    if flip:
        return "set false where left and right differ, as in writing"
    return "the classes are called as characters, which are not mirrored"


def _why_objective(objective: str, unbalanced: bool) -> str:
    if objective == "cbdm":
        return "for a long tail, in a training that is long enough"
    if unbalanced:
        return "cbdm costs 1.75 times as much a step, and short runs did not gain by it"
    return "the classes are balanced enough"


def _times(number: float) -> str:
    return (
        f"{number:,.0f} times"
        if number >= 1.5
        else "about once"
        if number >= 0.7
        else "at most once"
    )


def name_of(paths: list[Path]) -> str:
    """Return the name of the folder or first file that was named."""
    path = paths[0].expanduser().absolute()
    return path.name if path.is_dir() else path.stem
