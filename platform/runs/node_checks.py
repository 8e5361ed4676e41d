"""Whether the nodes of a cluster have what a training needs, before their GPUs are taken."""

from __future__ import annotations

import logging
import math
from functools import partial

from ...trainers.errors import combine
from ..compute.capacity import is_single_machine
from ..compute.node_facts import Needs, doubts, lacks
from ..compute.nodes import examine_nodes
from ..datasets.load import check_images
from .preflight import Subject

log = logging.getLogger(__name__)


def check_nodes(subject: Subject) -> None:
    """Check each node that workers may be put on; what may be too little is logged, in one line each.

    It has to be called within a Ray session. A machine of its own has been checked with the config.

    Raises:
        Problem: all that a node lacks.
    """
    if is_single_machine():
        return
    experiment = subject.experiment
    scaling = experiment.scaling
    subject.on_phase("checking the nodes")
    check = partial(check_images, experiment.data, subject.store.root)
    nodes = examine_nodes(scaling, check)
    needs = Needs(
        uses_gpus=scaling.gpus_per_worker > 0,
        several_nodes=scaling.workers > 1 and len(nodes) > 1,
        cache_bytes=_image_bytes(subject),
        scratch_bytes=subject.network_bytes[0],
    )
    for line in (line for node in nodes for line in doubts(node, needs)):
        log.warning("%s", line)
    if problems := [problem for node in nodes for problem in lacks(node, needs)]:
        raise combine(problems)


def _image_bytes(subject: Subject) -> int:
    """Return the bytes of the decoded images."""
    splits = subject.splits
    if splits is None:
        return 0
    return math.prod(splits.train.image_shape) * (
        len(splits.train.labels) + len(splits.reference.labels)
    )
