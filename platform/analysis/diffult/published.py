"""What DiffuLT's authors published (Shao et al., NeurIPS 2024), and what is done otherwise here.

The numbers are of the class-balanced test sets, in [0, 1]. They come with one classifier each and no interval.
"""

from __future__ import annotations

from ....trainers.data.groups import GroupsConfig
from ...config.experiment import Experiment
from .content import ProtocolDifference, Published

MAIN = {
    ("cifar100", 100): {"overall": 0.507, "many": 0.686, "medium": 0.508, "few": 0.290},
    ("cifar100", 50): {"overall": 0.559},
    ("cifar100", 10): {"overall": 0.636},
    ("cifar10", 100): {"overall": 0.843},
    ("cifar10", 50): {"overall": 0.867},
    ("cifar10", 10): {"overall": 0.906},
}
"""Accuracy by data source and imbalance ratio."""
ABLATION = {
    "cross entropy on the real images": 0.383,
    "with images of DDPM": 0.438,
    "with images of CBDM": 0.456,
    "with images of DDPM, weighted": 0.465,
    "with images of CBDM, weighted": 0.484,
    "with images of CBDM, weighted and filtered": 0.507,
}
"""Accuracy over all classes on CIFAR-100-LT at ratio 100."""
BASELINES = {("cifar100", 100): 0.383, ("cifar10", 100): 0.704}
"""Of cross entropy on the real images alone."""
PER_CLASS = {"cifar10": 5000, "cifar100": 500, "list_files": 300}
"""N_t by data source."""
WEIGHTS = {"cifar10": 0.3, "cifar100": 0.3, "list_files": 0.5}
"""omega by data source."""
PAPERS_GROUPS = str(GroupsConfig(kind="thresholds"))
NAMES = {"cifar10": "CIFAR-10-LT", "cifar100": "CIFAR-100-LT"}
PAPER = "Shao et al. 2024"
NOT_STATED = "not stated"


def published_rows(experiment: Experiment) -> list[Published]:
    """Return the published accuracies on this experiment's data; none where there are none."""
    key = _key(experiment)
    if key not in MAIN:
        return []
    name = f"{NAMES[key[0]]}, ratio {key[1]}"
    rows = [Published(f"DiffuLT, {name}", f"{PAPER}, main results", MAIN[key])]
    if key in BASELINES:
        alone = {"overall": BASELINES[key]}
        rows.append(Published(f"cross entropy, {name}", f"{PAPER}, main results", alone))
    if key == ("cifar100", 100):
        rows += [
            Published(label, f"{PAPER}, ablation", {"overall": value})
            for label, value in ABLATION.items()
        ]
    return rows


def protocol_differences(
    experiment: Experiment, to: int, seeds: int, published: bool
) -> list[ProtocolDifference]:
    """Return all that is done otherwise than in the paper, or that the paper does not say.

    Args:
        to: N_t.
        seeds: classifiers of each arm.
        published: whether there are numbers of the paper on these data.
    """
    rows = _protocol(experiment, to)
    if published:
        rows["classifiers of a number"] = (
            NOT_STATED,
            f"mean of {seeds}, each after its last epoch",
        )
    return [
        ProtocolDifference(what, theirs, ours)
        for what, (theirs, ours) in rows.items()
        if theirs != ours
    ]


def _protocol(experiment: Experiment, to: int) -> dict[str, tuple[str, str]]:
    """Return the paper's and our settings, by subject."""
    source, classifier = experiment.data.source, experiment.effective_classification
    objective = experiment.objective.model_dump(mode="json")
    strengths = [f"{key} {objective[key]:g}" for key in ("tau", "gamma") if key in objective]
    length = f"of {classifier.epoch_of} images"
    rows = {
        "objective": ("cbdm, tau 1, gamma 0.25", ", ".join([objective["name"], *strengths])),
        "label set of its regulariser": ("train", objective.get("label_set", "none")),
        "diffusion model": (
            NOT_STATED,
            f"{experiment.model.name} and {experiment.process.name}, {experiment.training.images:,} images",
        ),
        "sampling": (NOT_STATED, experiment.effective_sampling.label),
        "filter": ("probability 5e-07", experiment.balancing.filter.label),
        "classifier's training": (
            NOT_STATED,
            f"{classifier.epochs} epochs {length}, batch {classifier.batch_size}, "
            + f"rate {classifier.lr:g}, loss {classifier.loss.name}",
        ),
        "classifier": ("resnet32", classifier.network),
        "groups": (PAPERS_GROUPS, str(experiment.evaluation.groups)),
    }
    if source not in PER_CLASS:
        return {"data": ("CIFAR-10-LT, CIFAR-100-LT, ImageNet-LT", source), **rows}
    if source == "list_files":
        size = f"{experiment.data.image_shape[1]} pixels"
        rows["diffusion model"] = (
            "ADM (guided-diffusion), no regulariser",
            f"{rows['diffusion model'][1]}, {size}",
        )
        rows["filter"] = ("no filter", rows["filter"][1])
        rows["classifier"] = ("resnet10 and resnet50", classifier.network)
        del rows["objective"], rows["label set of its regulariser"]
    weight = f"{classifier.generated_weight:g}"
    rows["images of each class after filling"] = (f"{PER_CLASS[source]:,}", f"{to:,}")
    rows["weight of a generated image"] = (f"{WEIGHTS[source]:g}", weight)
    return rows


def _key(experiment: Experiment) -> tuple[str, int]:
    data = experiment.data
    tail = data.long_tail
    return data.source, round(tail.ratio) if tail.kind == "exponential" else 0
