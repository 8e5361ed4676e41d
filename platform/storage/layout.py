"""Where everything is kept: the folders and files of a store, the keys, tags and files of MLflow.

No other module spells these names (`tests/unit/test_layout.py` looks for it). Whoever changes what
a file means raises the FORMAT beside the code that writes it. A store (`storage.uri`) holds:

    runs/NAME/                              a run
        pretrained.json                       what it started from, if anything
        checkpoints/images-000000012800/      manifest.json exists: the checkpoint is whole;
                                              averages.json alone: its averages are
        samples/HASH/                         generated images, their features, nearest images and scores
        evaluations/HASH/                     result.json exists: the evaluation is whole
        guidance/HASH.html                    a page of `whipray guidance`
        classification/HASH/result.json       what `whipray classify` measured
        balancing/HASH.html                   a datasheet of `whipray balance`
        diffult/HASH/result.json, HASH.html   what `whipray diffult` measured, and its page
        previews/images-000000012800.png      images of a moment of the training
        preview.html                          ... and all of them on a page
        writer.lock, writer/                  which process trains it: in a folder, in a bucket
    sweeps/NAME/                            a sweep
        sweep.json                            its experiment and search space
        study.journal                         Optuna's study in a folder ...
        study/                                ... or in a bucket
        pretrain/                             a run: the shared pre-training
        trials/0007/                          a run: trial 7
        champion.png                          images of the registered model
    pretrained/HASH/                        models that runs started from, and guides, by content
    references/HASH/                        features of real images
    extractors/KEY/HASH/                    feature networks trained on the reference images
    classifiers/HASH.json                   outcome of one classifier
    classifiers/HASH.safetensors            weights of f_0, by which generated images are filtered
    comparisons/HASH.html                   a page of `whipray compare`
    data/HASH/                              a packed set: images, decoded, of a source as it was
    data/HASH.json                          which of them a data section stands for
    mlflow.db, artifacts/                   MLflow's, where no server is named

HASH depends on everything that the content depends on, so nothing is computed twice and nothing
is mistaken for something else. Files inside of a checkpoint and of an exported model are named by
`trainers/checkpoint.py` and `trainers/export.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ...trainers.checkpoint_names import MANIFEST

# -- runs and sweeps -----------------------------------------------------------------------------

RUNS, SWEEPS, TRIALS = "runs", "sweeps", "trials"
PRETRAIN = "pretrain"
"""The shared pre-training of a sweep: its folder, its target `SWEEP/pretrain` and its kind."""

PRETRAINED_RECORD = "pretrained.json"
CHECKPOINTS = "checkpoints"
PREVIEWS = "previews"
PREVIEW_PAGE = "preview.html"
AVERAGES = "averages.json"
"""Of what stays of an old checkpoint: a manifest of its power-function averages alone."""
DAMAGED_MANIFEST = "manifest.damaged.json"
"""A damaged checkpoint's manifest, once the run went on from an earlier one."""

MOVING = "moving.json"
"""In the folder of a run that `whipray runs mv` is moving: from which name to which."""

SWEEP_IDENTITY = "sweep.json"
CHAMPION_GRID = "champion.png"
STUDY_JOURNAL = "study.journal"
STUDY_VARIABLE = "WHIPRAY_STUDY_URL"
"""A database for the studies, in place of the store."""
STUDY = "study"


@dataclass(frozen=True)
class RunAddress:
    """Where a run is kept."""

    key: str
    """Of its MLflow run."""
    folder: str
    """In the store."""


def run_address(target: str) -> RunAddress:
    """Return where a run is kept: `NAME`, `SWEEP/NUMBER` of a trial, or `SWEEP/pretrain`."""
    sweep, _, member = target.partition("/")
    if member == PRETRAIN:
        return RunAddress(f"sweep/{target}", f"{SWEEPS}/{target}")
    if member.isdigit():
        return trial_address(sweep, int(member))
    return RunAddress(f"run/{target}", f"{RUNS}/{target}")


def trial_address(sweep: str, number: int) -> RunAddress:
    """Return where a trial is kept."""
    return RunAddress(f"sweep/{sweep}/{number}", f"{SWEEPS}/{sweep}/{TRIALS}/{number:04d}")


def sweep_address(sweep: str) -> RunAddress:
    """Return where a sweep is kept; its MLflow run is the parent of its trials' runs."""
    return RunAddress(f"sweep/{sweep}", f"{SWEEPS}/{sweep}")


def pretrain_target(sweep: str) -> str:
    """Return the target of a sweep's shared pre-training."""
    return f"{sweep}/{PRETRAIN}"


def trial_target(sweep: str, number: int) -> str:
    """Return the target of a trial."""
    return f"{sweep}/{number}"


def sweeps_in(names: Iterable[str]) -> list[str]:
    """Return the sweeps among files of a store, by their identities."""
    parts = (name.split("/") for name in names)
    return [p[1] for p in parts if len(p) == 3 and (p[0], p[2]) == (SWEEPS, SWEEP_IDENTITY)]


def belongs_to_sweep(target: str) -> bool:
    """Return whether a target is a trial or the shared pre-training of a sweep."""
    sweep, _, member = target.partition("/")
    return bool(sweep) and (member == PRETRAIN or member.isdigit())


def sweep_of_trial(folder: str) -> str | None:
    """Return the folder of the sweep that a trial's folder is in, None for any other run."""
    parts = folder.split("/")
    return "/".join(parts[:2]) if len(parts) == 4 and parts[2] == TRIALS else None


def run_target(folder: str) -> str | None:
    """Return the target of the run that is kept in a folder, None for any other folder."""
    match folder.split("/"):
        case [top, name] if top == RUNS:
            return name
        case [top, sweep, member] if (top, member) == (SWEEPS, PRETRAIN):
            return f"{sweep}/{member}"
        case [top, sweep, members, number] if (top, members) == (
            SWEEPS,
            TRIALS,
        ) and number.isdigit():
            return f"{sweep}/{int(number)}"
    return None


def owner(name: str) -> tuple[str, str] | None:
    """Return target and folder of the run or the sweep that a file of a store is of; None of a shared one."""
    parts = name.split("/")
    for length in (4, 3, 2):
        folder = "/".join(parts[:length])
        if len(parts) > length and (target := run_target(folder)):
            return target, folder
    return (parts[1], "/".join(parts[:2])) if len(parts) > 2 and parts[0] == SWEEPS else None


def runs_in(names: Iterable[str]) -> set[str]:
    """Return the targets of the runs that have a checkpoint among files of a store."""
    folders = {n.partition(f"/{CHECKPOINTS}/")[0] for n in names if n.endswith(f"/{MANIFEST}")}
    return {target for folder in folders if (target := run_target(folder))}


def lock_files(names: Iterable[str]) -> list[str]:
    """Return the files that a process holds, or writes again and again, while it trains or drives a sweep."""
    ends = (f"/{WRITER_LOCK}", DRIVER_LOCK, holder_file(""))
    return [name for name in names if f"/{name}".endswith(ends)]


def has_checkpoint(files: Iterable[str]) -> bool:
    """Return whether a checkpoint is among the files of a run or a sweep, damaged ones included."""
    return any(f"/{CHECKPOINTS}/" in f"/{file}" for file in files)


# -- locks, and a study in a bucket: see `writer_lock.py` and `tuning/study_in_bucket.py` ----------

WRITER_LOCK = "writer.lock"
"""The lock file of a run in a folder."""
DRIVER_LOCK = ".driver"
"""How the name of the lock file of a sweep in a folder ends."""
WRITER = "writer"
"""The lock's folder of a run in a bucket."""


def claim_file(number: int) -> str:
    """Return the file that the `number`th holder of a lock wrote first, below the lock's folder."""
    return f"{number:05d}.jsonl"


def holder_file(token: str) -> str:
    """Return the file that exists while the holder of a lock lives."""
    return f"{token}/driver.json"


def study_entry(token: str, number: int) -> str:
    """Return the file of a driver's `number`th append, below `study/`."""
    return f"{token}/{number:08d}.jsonl"


# -- evaluations -----------------------------------------------------------------------------------

EVALUATIONS = "evaluations"
EVALUATION_RESULT = "result.json"
"""Written last: an evaluation exists when its result does."""
EVALUATION_PAGE = "report.html"
EVALUATION_REPORT = "report.json"
PER_CLASS_TABLE = "per_class.parquet"
REPLICATES = "replicates.npz"
SAMPLES_FACT = "samples"
"""Key of an evaluation's provenance: the HASH of its generated images' folder."""
SAMPLE_GRID = "grid.png"
SAMPLE_TILES = "pictures.npz"
CLASSIFICATION_RESULT = "result.json"
CLASSIFIERS = "classifiers"
PACKED_SETS = "data"

EXTRACTOR_WEIGHTS = "network.safetensors"
EXTRACTOR_INFO = "info.json"
"""Written last: a feature network exists when this file does."""


def evaluation_folder(content: str) -> str:
    """Return the folder of an evaluation, in its run's."""
    return f"{EVALUATIONS}/{content}"


def evaluations_in(names: Iterable[str]) -> list[str]:
    """Return the folders of finished evaluations among files of a run."""
    return [
        folder
        for folder, _, file in (name.rpartition("/") for name in names)
        if folder.startswith(f"{EVALUATIONS}/") and file == EVALUATION_RESULT
    ]


def preview_strip(images_seen: int) -> str:
    """Return the picture of a moment of the training, in its run's folder; names sort by moment."""
    return f"{PREVIEWS}/images-{images_seen:012d}.png"


def above(folder: str, file: str) -> str:
    """Return the address of a run's file as a page in one of its folders links it."""
    return f"{'../' * (folder.count('/') + 1)}{file}"


def guidance_page(content: str) -> str:
    """Return the page of a guidance curve, in its run's folder and its MLflow run."""
    return f"guidance/{content}.html"


def datasheet_page(content: str) -> str:
    """Return the page of a balanced set, in its run's folder and its MLflow run."""
    return f"balancing/{content}.html"


def classification_folder(content: str) -> str:
    """Return the folder of a comparison of classifiers, in its run's."""
    return f"classification/{content}"


def diffult_result(content: str) -> str:
    """Return the document of a result of `whipray diffult`, in its run's folder."""
    return f"diffult/{content}/{CLASSIFICATION_RESULT}"


def diffult_page(content: str) -> str:
    """Return the page of the same, in its run's folder and its MLflow run."""
    return f"diffult/{content}.html"


def samples_folder(run: str, content: str) -> str:
    """Return the folder of generated images, from the store's top.

    Args:
        run: the run's folder.
    """
    return f"{run}/samples/{content}".lstrip("/")


def samples_folder_of(name: str) -> str | None:
    """Return the folder of generated images that a file of a run is in, None of other files."""
    parts = name.split("/")
    return "/".join(parts[:2]) if len(parts) == 3 and parts[0] == "samples" else None


def is_made_of_samples(name: str) -> bool:
    """Return whether a file of a run is of a command that uses generated images of its own choice."""
    return name.startswith(("balancing/", "classification/", "diffult/"))


def shard_images(stem: str) -> str:
    """Return the file with a shard's images."""
    return f"{stem}.images.safetensors"


def shard_features(stem: str, extractor: str) -> str:
    """Return the file with a shard's features by the extractor of this hash."""
    return f"{stem}.{extractor}.safetensors"


def shard_nearest(stem: str, training: str) -> str:
    """Return the file with a shard's nearest training images.

    Args:
        training: what the training images are known by.
    """
    return f"{stem}.nearest-{training}.safetensors"


_SCORES = re.compile(r"\.scores-([0-9a-f]+)-[0-9a-f]+\.safetensors$")


def shard_scores(stem: str, classifier: str, content: str) -> str:
    """Return the file with the scores of a shard's images, which filters read.

    Args:
        classifier: what `classifier_weights` knows f_0 by.
        content: a hash of all that they depend on.
    """
    return f"{stem}.scores-{classifier}-{content}.safetensors"


def classifiers_of_scores(names: Iterable[str]) -> set[str]:
    """Return the classifiers that images were scored by, among files of a store."""
    return {match[1] for name in names if (match := _SCORES.search(name))}


# -- shared by all runs ----------------------------------------------------------------------------


def pretrained_folder(sha256: str) -> str:
    """Return the folder of a model that runs start from or are guided by, by the hash of its weights file."""
    return f"pretrained/{sha256[:16]}"


def reference_folder(fingerprint: str) -> str:
    """Return the folder with features of these real images."""
    return f"references/{fingerprint}"


def extractor_folder(key: str) -> str:
    """Return the folder of the feature networks that were trained alike; one of them is used."""
    return f"extractors/{key}"


@dataclass(frozen=True)
class SharedFolders:
    """Folders that all runs share: name -> what their content is known by."""

    networks: dict[str, str]
    references: dict[str, str]
    pretrained: dict[str, str]
    classifiers: dict[str, str]
    """Files of weights."""


def shared_folders(names: Iterable[str]) -> SharedFolders:
    """Return the shared folders among files of a store."""
    shared = SharedFolders({}, {}, {}, {})
    for name in names:
        match name.split("/"):
            case ["extractors", key, content, _]:
                shared.networks[f"extractors/{key}/{content}"] = content
            case ["references", content, *_]:
                shared.references[f"references/{content}"] = content
            case ["pretrained", content, *_]:
                shared.pretrained[f"pretrained/{content}"] = content
            case ["classifiers", file] if file.endswith(".safetensors"):
                shared.classifiers[name] = file.partition(".")[0]
    return shared


def may_name_models(name: str) -> bool:
    """Return whether a file may name a model that is kept by content: a record, a manifest, a result, a study."""
    if name.startswith("pretrained/"):
        return False
    file = name.rpartition("/")[2]
    known = (
        PRETRAINED_RECORD,
        MANIFEST,
        AVERAGES,
        EVALUATION_RESULT,
        SWEEP_IDENTITY,
        STUDY_JOURNAL,
    )
    return file in known or f"/{STUDY}/" in name


def classifier_file(content: str) -> str:
    """Return the file with the outcome of one classifier."""
    return f"{CLASSIFIERS}/{content}.json"


def classifier_weights(content: str) -> str:
    """Return the file with the weights of one classifier."""
    return f"{CLASSIFIERS}/{content}.safetensors"


def packed_set_folder(state: str) -> str:
    """Return the folder of a packed set, by what its source was when it was packed."""
    return f"{PACKED_SETS}/{state}"


def packed_set_pointer(config: str) -> str:
    """Return the file that says which packed set holds the images of a data section."""
    return f"{PACKED_SETS}/{config}.json"


def packed_sets(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return the folders of packed sets among files of a store, by their states, and the pointers."""
    folders: dict[str, str] = {}
    pointers = []
    for name in names:
        match name.split("/"):
            case [top, file] if top == PACKED_SETS and file.endswith(".json"):
                pointers.append(name)
            case [top, state, *_] if top == PACKED_SETS:
                folders[state] = f"{PACKED_SETS}/{state}"
    return folders, pointers


def comparison_page(content: str) -> str:
    """Return the page of a comparison of runs."""
    return f"comparisons/{content}.html"


# -- MLflow ----------------------------------------------------------------------------------------

MLFLOW_DATABASE = "mlflow.db"
MLFLOW_ARTIFACTS = "artifacts"
LOGGED_MODELS = f"{MLFLOW_ARTIFACTS}/models/*/artifacts/MLmodel"
"""Pattern of the files in which MLflow 3 describes the models that were logged."""


COMMIT_TAG = "mlflow.source.git.commit"
NOTE_TAG = "mlflow.note.content"
"""Of MLflow runs: the description in Markdown, on their pages."""
FOLDER_TAG = "whipray.folder"
"""Of MLflow experiments in SQLite: the folder in which the database was when it was made."""


def artifact_page(experiment: str, run: str, artifact: str) -> str:
    """Return the address of a run's file in MLflow's pages, relative to the server."""
    return f"#/experiments/{experiment}/runs/{run}/artifacts/{artifact}"


class Tag:
    """Tags of MLflow runs."""

    KEY = "whipray.key"
    """`RunAddress.key`: a run is found again by it."""
    KIND = "whipray.kind"
    """`run`, `sweep`, `pretrain`, `trial` or `baseline`."""
    SWEEP = "whipray.sweep"
    TRIAL = "whipray.trial"
    BEST_TRIAL = "whipray.best_trial"
    OUTCOME = "whipray.outcome"
    """Of a trial: `finished`, `stopped` or `failed`."""
    PROBLEM = "whipray.problem"
    CODE = "whipray.code"
    """`as committed` or `changed`."""
    CHANGED = "whipray.changed"
    """Config values that a resumed run changed."""
    STORE = "whipray.store"
    EVALUATION = "whipray.evaluation"
    """Address of the best evaluation's folder."""
    REBUILT = "whipray.rebuilt"
    """When the run was made again from the store, after MLflow's database was lost."""
    WARNINGS = "whipray.warnings"
    """What to know before believing the latest evaluation, a line each; `none`."""
    STEP = "whipray.step"
    """What the time of a training step depends on; see `runs/speed.py`."""

    @staticmethod
    def pretrained(fact: str) -> str:
        """Return the tag for a fact about the model that a run started from."""
        return f"whipray.pretrained.{fact}"


class VersionTag:
    """Tags of registered model versions."""

    MODEL = "whipray.model"
    """Checkpoint and sampling, so that registering the same again finds the version."""
    SWEEP = Tag.SWEEP
    TRIAL = Tag.TRIAL
    RUN = "whipray.run"
    """The run that it is of, of no sweep."""
    RANK_BY = "whipray.rank_by"
    SAMPLING = "whipray.sampling"
    PROVENANCE = "whipray.provenance"
    """How its score was measured."""

    @staticmethod
    def score(rank_by: str) -> str:
        """Return the tag for the metric that versions are ranked by; MLflow wants no slash."""
        return f"whipray.{rank_by.replace('/', '.')}"


class Artifact:
    """Files and folders of MLflow runs."""

    EXPERIMENT = "experiment.yaml"
    CODE_DIFF = "code.diff"
    DATASET = "dataset.json"
    PRETRAINED = PRETRAINED_RECORD
    PROBLEM = "problem.json"
    """The traceback of a trial that failed unexpectedly."""
    SPACE = "space.yaml"
    SWEEP = "sweep.json"
    """A finished sweep's trials."""
    CHAMPION = "champion"
    EVALUATION = "evaluation"
    """Folder of the best evaluation's files."""
    GUIDANCE_CURVE = f"{EVALUATION}/guidance.json"
    PROVENANCE = "provenance.json"
    """In an evaluation's folder."""
    MODEL = "model"
    """Folder of the exported model, in a registered version."""
    MODEL_CARD = "README.md"
    """What the model is, in Markdown, beside its weights."""


KIND_RUN, KIND_SWEEP, KIND_TRIAL, KIND_BASELINE = "run", "sweep", "trial", "baseline"
