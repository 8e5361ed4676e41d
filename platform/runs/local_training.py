"""A training as one worker of a process group, from checkpoint to checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from ...trainers.checkpointing import check_same_data, check_same_run
from ...trainers.data.identity import DataIdentity
from ...trainers.errors import DivergenceProblem
from ...trainers.hooks import Progress
from ...trainers.loop import Training
from ...trainers.memory import naming_lack_of_memory
from ...trainers.scratch import Scratch
from ..compute.gpus import check_gpus
from ..config.experiment import CHANGEABLE_ON_RESUME, Experiment
from ..config.layers import flatten
from ..datasets.load import load_images
from ..evaluation.pages.content import PreviewStrip
from ..foundation.versions import check_alike, local_versions
from ..storage.checkpoints import CheckpointStore
from ..storage.pretrained import load_pretrained
from ..storage.store import Storage

LESS_MEMORY = "lower training.micro_batch, or the size of the model or the images"

OnStrip = Callable[[PreviewStrip], None]
ReportCallback = Callable[[Progress], bool]
"""Takes each report; True asks the training to stop."""


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training."""

    checkpoint: str
    """Name of the last checkpoint."""
    images_seen: int
    notes: list[str]
    """Lines to show, such as a damaged checkpoint that was skipped."""


def train_in_process_group(
    experiment: Experiment,
    run: Storage,
    on_report: ReportCallback,
    preemption_noticed: Callable[[], bool] = lambda: False,
    flush_metrics: Callable[[], None] = lambda: None,
    on_strip: OnStrip = lambda _strip: None,
) -> TrainingResult:
    """Train as one worker of the current process group, from the run's last checkpoint if any.

    Without a process group that this process has joined it is the only worker.

    Args:
        experiment: what to train.
        run: the run's folder in the store.
        on_report: see `hooks.StoreHooks`.
        preemption_noticed: see `hooks.StoreHooks`.
        flush_metrics: see `hooks.StoreHooks`.
        on_strip: takes each preview that is kept, on a thread.

    Raises:
        Problem: as `trainers.loop.Training`, or what is wrong with the store.
        UsageProblem: a GPU is asked for, and this process has none.
    """
    import torch

    from ...trainers.devices import choose_device, ignored_variables, join_workers
    from .hooks import StoreHooks, all_gather, resume_point, run_on_all_or_raise
    from .previews import PreviewPage

    check_gpus(experiment.scaling.gpus_per_worker)
    device = choose_device()
    if device.type == "cpu":
        torch.set_num_threads(experiment.scaling.cpus_per_worker)
    store = CheckpointStore(run, experiment.keep_checkpoints)
    record = experiment.model_dump(mode="json")
    ignored = ignored_variables()
    join_workers(device)
    check_alike(all_gather(local_versions()))
    with Scratch() as scratch:
        resume, notes = resume_point(store, Path(scratch))
        if ignored:
            notes = [
                *notes,
                f"ignored in the environment, of another launcher: {', '.join(ignored)}",
            ]
        if resume:
            check_same_run(flatten(resume.manifest.config), flatten(record), CHANGEABLE_ON_RESUME)
            notes = [*notes, f"resumed from {resume.manifest.images_seen:,} images"]
        saved = resume.manifest if resume else None
        pretrained = run_on_all_or_raise(lambda: load_pretrained(run, experiment.pretrained, saved))
        data = run_on_all_or_raise(lambda: load_images(experiment.data, run.root))
        if saved:
            now = DataIdentity.of(data.train)
            run_on_all_or_raise(lambda: check_same_data(saved.data, now))
        with _naming_lack_of_memory():
            training = Training(experiment, data, device, resume, pretrained)
    page = PreviewPage(run)
    hooks = StoreHooks(
        store,
        on_report,
        preemption_noticed,
        flush_metrics,
        lambda preview: on_strip(page.add(preview)),
    )
    if note := training.previews.note:
        notes = [*notes, note]
    try:
        with _naming_lack_of_memory():
            progress = training.run(hooks, record)
    except DivergenceProblem:  # all workers' at once; the checkpoint before it is worth keeping
        hooks.wait_for_uploads()
        raise
    finally:
        training.engine.close()
    last = store.latest()
    assert last is not None  # a training ends with a checkpoint
    return TrainingResult(last, progress.images_seen, notes)


def _naming_lack_of_memory() -> AbstractContextManager[None]:
    """Return a context that names a lack of memory, for one worker.

    Of several, one that runs out of memory must fail as a process does: the others wait for it.
    """
    import torch.distributed as dist

    return naming_lack_of_memory(LESS_MEMORY) if dist.get_world_size() == 1 else nullcontext()
