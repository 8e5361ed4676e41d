"""whipray classify: does training on the generated images help a classifier?"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..options import Endpoint, Json, Overrides, StorageUri, TrackingUri
from ..output import next_commands, print_json, stderr_console, stdout_console

if TYPE_CHECKING:
    from rich.table import Table

TITLES = {
    "real": "real",
    "real_repeated": "real + repeated",
    "real_and_generated": "real + generated",
    "difference": "difference",
    "difference_to_repeated": "beyond repetition",
}


def classify(
    target: Annotated[str, typer.Argument(help="A run, or SWEEP/TRIAL.", metavar="RUN")],
    overrides: Overrides = None,
    per_class: Annotated[
        int | None, typer.Option("--per-class", help="Generate so many images of every class.")
    ] = None,
    fill_to: Annotated[
        int | None,
        typer.Option("--fill-to", help="Generate what each class lacks of so many real images."),
    ] = None,
    control: Annotated[
        bool,
        typer.Option(
            "--control/--no-control",
            help="Also train on as many copies of each class's real images, because balance alone "
            "helps: only what generated images gain beyond these is theirs. Three classifiers a "
            "seed instead of two.",
        ),
    ] = True,
    seeds: Annotated[int, typer.Option("--seeds", help="Classifiers of each kind.")] = 1,
    workers: Annotated[
        int, typer.Option("--workers", help="Processes at once; more than 1 run on Ray.")
    ] = 1,
    storage: StorageUri = None,
    endpoint: Endpoint = None,
    tracking: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Train ResNet-32 on the real images, and on real and generated ones; test all on real ones.

    Overrides may change classification.*, sampling.*, evaluation.groups.* and scaling.*. What was
    drawn or trained before is not done again.
    """
    from ....trainers.errors import UsageProblem
    from ...analysis.classify.classify import classify as run_classification
    from ...analysis.classify.summary import ARMS
    from ...config.experiment import TrackingConfig
    from ...runs.find_run import find_run
    from ...tracking.mlflow_runs import Tracker
    from ..status_line import StatusLine
    from ..stores import open_storage

    root = open_storage(storage, endpoint)
    state = {"line": "looking for the run"}

    def phase(line: str) -> None:
        state["line"] = line

    with StatusLine(stderr_console, lambda: state["line"]):
        place = find_run(root, target)
        config = TrackingConfig(uri=tracking) if tracking else place.experiment.tracking
        tracker = Tracker(
            config, root
        )  # a server that is down is better known before hours of work
        found = run_classification(
            place,
            overrides or [],
            per_class=per_class,
            fill_to=fill_to,
            seeds=seeds,
            workers=workers,
            arms=[arm for arm in ARMS if control or arm != "real_repeated"],
            phase=phase,
        )
        try:
            found.record(tracker.find(place.key))
        except UsageProblem as nothing:
            stderr_console.print(f"not recorded in MLflow: {nothing.what}", markup=False)
    where = place.store.uri_of(f"{found.folder}/result.json")
    if as_json:
        print_json({**found.document, "classifiers_trained": found.trained, "result": where})
        return
    stdout_console.print(figures_table(found.document))
    stderr_console.print(f"\n{about(found.document, found.trained)}", markup=False)
    stderr_console.print(f"result  {where}", markup=False)
    count = f"--per-class {per_class}" if per_class else f"--fill-to {fill_to}"
    count += "" if control else " --no-control"
    next_commands(
        f"whipray classify {target} {count} --seeds {max(5, 2 * seeds)}",
        f"whipray classify {target} {count} --seeds {seeds} classification.generated_weight=0.3",
        f"whipray evaluate {target}",
    )


def figures_table(document: dict[str, Any]) -> Table:
    """A line a figure; all kinds of classifier and their differences, with intervals."""
    from rich.table import Table

    from ...analysis.classify.summary import DIFFERENCES

    table = Table(box=None, pad_edge=False)
    arms = document["arms"]
    differences = {name: document[name] for name in DIFFERENCES if name in document}
    for name in ("", *(TITLES[part] for part in (*arms, *differences))):
        table.add_column(name, no_wrap=not name)
    for name in next(iter(arms.values()))["figures"]:
        cells = [cell(found["figures"][name]) for found in arms.values()]
        for difference in differences.values():
            verdict = {True: " within noise", False: "", None: ""}[difference[name]["within_noise"]]
            cells.append(cell(difference[name], "+") + verdict)
        table.add_row(name.replace("/", " "), *cells)
    return table


def cell(entry: dict[str, Any], sign: str = "") -> str:
    """`0.512 [0.498, 0.526]`, or the value alone where there is no interval."""
    value = f"{entry['value']:{sign}.3f}"
    if entry["low"] is None:
        return value
    return f"{value} [{entry['low']:{sign}.3f}, {entry['high']:{sign}.3f}]"


def about(document: dict[str, Any], trained: int) -> str:
    """What was compared, how sure it is, and what papers that stop at the best epoch would say."""
    images, seeds = document["images"], len(document["seeds"])
    real, generated, test = (f"{sum(images[of]):,}" for of in ("real", "generated", "test"))
    known = " (known already)" if trained == 0 else ""
    more = f" ({seeds})" if seeds > 1 else "; --seeds 5 says how sure the difference is"
    lines = [
        f"{real} real and {generated} generated images, tested on {test}; "
        + f"{document['classification']['epochs']} epochs{known}",
        f"{document['confidence']:.0%} intervals are {document['interval']}{more}",
    ]
    if "real_repeated" in document["arms"]:
        lines.append(
            "beyond repetition: less what as many copies of each class's real images gain, "
            "which show nothing new"
        )
    best = []
    for arm, found in document["arms"].items():
        of_seeds = [one["best_accuracy_chosen_on_test"] for one in found["trained"]]
        best.append(f"{TITLES[arm]} {fmean(of_seeds):.3f}")
    lines.append(
        f"accuracy at the epoch that is best on the test images, too good: {', '.join(best)}"
    )
    return "\n".join(lines)
