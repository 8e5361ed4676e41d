"""whipray classify: measure whether generated images help a classifier."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..consoles import next_commands, print_json, stderr_console, stdout_console
from ..options import Json, Overrides, Workers, workers_of
from ..stores import StoreOptions, with_store_options

if TYPE_CHECKING:  # imported on use, so that `--help` is quick
    from ...analysis.classify.result import RecordedClassification


Control = Annotated[
    bool,
    typer.Option(
        "--control/--no-control",
        help="Also train on as many copies of each class's real images. Balance alone helps: only a "
        "gain over the copies is due to the generated images. Takes three classifiers per seed "
        "instead of two.",
    ),
]


@with_store_options
def classify(
    target: Annotated[str, typer.Argument(help="A run, or SWEEP/TRIAL.", metavar="RUN")],
    store: StoreOptions,
    overrides: Overrides = None,
    per_class: Annotated[
        int | None, typer.Option("--per-class", help="Generate this many images of every class.")
    ] = None,
    fill_to: Annotated[
        int | None,
        typer.Option("--fill-to", help="Generate as many as each class lacks of this many images."),
    ] = None,
    control: Control = True,
    seeds: Annotated[int, typer.Option("--seeds", help="Classifiers of each kind.")] = 1,
    workers: Workers = "",
    as_json: Json = False,
) -> None:
    """Measure whether generated images help a classifier.

    It trains classifiers on real images, with and without generated ones, and tests on real images.
    Overrides may change classification.*, sampling.*, evaluation.groups.* and scaling.*. Images and
    classifiers that exist already are reused.
    """
    from ...analysis.classify.classify import classify_and_record
    from ...api.documents import classification_document
    from ..status_line import StatusLine

    with StatusLine(stderr_console, "looking for the run") as line:
        recorded = classify_and_record(
            store.open(),
            store.tracking,
            target,
            overrides or [],
            line.set,
            per_class=per_class,
            fill_to=fill_to,
            control=control,
            seeds=seeds,
            workers=workers_of(workers),
        )
    if recorded.note:
        stderr_console.print(recorded.note)
    if as_json:
        print_json(classification_document(recorded))
        return
    _print_result(recorded)
    given = [*(overrides or []), *store.words]
    count = ["--per-class", str(per_class)] if per_class else ["--fill-to", str(fill_to)]
    again = ["whipray", "classify", target, *count, *([] if control else ["--no-control"])]
    next_commands(
        [*again, "--seeds", str(max(5, 2 * seeds)), *given],
        [*again, "--seeds", str(seeds), *given, "classification.generated_weight=0.3"],
        ["whipray", "evaluate", target, *store.words],
    )


def _print_result(recorded: RecordedClassification) -> None:
    from ..tables import classifier_table

    result = recorded.result
    stdout_console.print(classifier_table(result.document))
    stderr_console.print(f"\n{_explain(result.document, result.trained)}")
    stderr_console.print(f"result  {recorded.uri}")


def _explain(document: dict[str, Any], trained: int) -> str:
    """Return what was compared, what the intervals cover, and the accuracy of the best epoch."""
    images, seeds = document["images"], len(document["seeds"])
    counts = (images["real"], images["added"]["generated"], images["test"])
    real, generated, test = (f"{sum(count):,}" for count in counts)
    known = " (known already)" if trained == 0 else ""
    more = f" ({seeds})" if seeds > 1 else "; --seeds 5 gives an interval of the difference"
    lines = [
        (
            f"{real} real and {generated} generated images, tested on {test}; "
            f"{document['classification']['epochs']} epochs{known}"
        ),
        f"{document['confidence']:.0%} intervals are {document['interval']}{more}",
    ]
    if document["headline"]:
        lines.append(document["headline"])
    best = []
    for arm, entry in document["arms"].items():
        accuracies = [each["best_accuracy_chosen_on_test"] for each in entry["trained"]]
        best.append(f"{arm} {fmean(accuracies):.3f}")
    lines.append(
        "accuracy at the best epoch, chosen on the test images and so too high: " + ", ".join(best)
    )
    return "\n".join(lines)
