"""A training as one worker of a process group, from checkpoint to checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from ...trainers.checkpointing import check_same_data, check_same_run
from ...trainers.data.identity import DataIdentity
from ...trainers.errors import DivergenceProblem
from ...trainers.hooks import Progress
from ...trainers.loop import Training
from ...trainers.memory import naming_lack_of_memory
from ..compute.gpus import check_workers_gpus
from ..compute.peers import Peers
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
    peers: Peers | None = None,
) -> TrainingResult:
    """Train as one worker of a process group, from the run's last checkpoint if any.

    The group begins once every worker has its images, its model and its checkpoint.

    Args:
        experiment: what to train.
        run: the run's folder in the store.
        on_report: see `hooks.StoreHooks`.
        preemption_noticed: see `hooks.StoreHooks`.
        flush_metrics: see `hooks.StoreHooks`.
        on_strip: takes each preview that is kept, on a thread.
        peers: the workers. None: those of the group that this process has joined, or it alone.

    Raises:
        Problem: as `trainers.loop.Training`, or what is wrong with the store.
        UsageProblem: a GPU is asked for, and this process has none.
    """
    import torch

    from ...trainers.deepspeed_setup import quiet_deepspeed
    from ...trainers.devices import (
        choose_device,
        ignored_variables,
        limit_collectives,
        limit_memory,
    )
    from ..compute.peers import GroupPeers, run_on_all_or_raise
    from .hooks import StoreHooks
    from .previews import PreviewPage
    from .resume import resume_point

    if not torch.cuda.is_available():
        torch.set_num_threads(experiment.scaling.cpus_per_worker)
    store = CheckpointStore(run, experiment.keep_checkpoints)
    record = experiment.model_dump(mode="json")
    ignored = [] if peers else ignored_variables()
    peers = peers or GroupPeers()
    check_workers_gpus(experiment.scaling.gpus_per_worker, peers)
    check_alike(peers.all_gather(local_versions()))
    with resume_point(store, peers) as (resume, notes):
        if ignored:
            notes = [
                *notes,
                f"ignored in the environment, of another launcher: {', '.join(ignored)}",
            ]
        if resume:
            check_same_run(flatten(resume.manifest.config), flatten(record), CHANGEABLE_ON_RESUME)
            notes = [*notes, f"resumed from {resume.manifest.images_seen:,} images"]
        saved = resume.manifest if resume else None
        pretrained = run_on_all_or_raise(
            peers, lambda: load_pretrained(run, experiment.pretrained, saved)
        )
        data = run_on_all_or_raise(peers, lambda: load_images(experiment.data, run.root))
        if saved:
            now = DataIdentity.of(data.train)
            run_on_all_or_raise(peers, lambda: check_same_data(saved.data, now))
        quiet_deepspeed()  # its import takes longer on a host with slow disks
        peers.begin_group()
        with _naming_lack_of_memory(peers):
            device = choose_device()
            limit_memory(device, experiment.scaling.gpus_per_worker or 1)
            training = Training(experiment, data, device, resume, pretrained)
        limit_collectives(experiment.scaling.timeout_s)
    page = PreviewPage(run)
    hooks = StoreHooks(
        store,
        on_report,
        preemption_noticed,
        flush_metrics,
        lambda preview: on_strip(page.add(preview)),
        peers,
    )
    if note := training.previews.note:
        notes = [*notes, note]
    try:
        with _naming_lack_of_memory(peers):
            progress = training.run(hooks, record)
    except DivergenceProblem:  # all workers' at once; the checkpoint before it is worth keeping
        hooks.wait_for_uploads()
        raise
    finally:
        training.close()
    last = store.latest()
    assert last is not None  # a training ends with a checkpoint
    return TrainingResult(last, progress.images_seen, notes)


def _naming_lack_of_memory(peers: Peers) -> AbstractContextManager[None]:
    """Return a context that names a lack of memory, for one worker.

    Of several, one that runs out of memory must fail as a process does: the others wait for it.
    """
    return naming_lack_of_memory(LESS_MEMORY) if peers.size == 1 else nullcontext()
