"""The images of a source, wherever their pixels are: decoded in the store, or on this machine."""

from __future__ import annotations

import json
import logging
import sys
import time
from functools import cache

from ...trainers.data import DataConfig, Splits
from ...trainers.data.decoding import UNREAD
from ...trainers.data.files import Files
from ...trainers.data.locations import open_files
from ...trainers.data.packed_set import open_packed_set, read_description
from ...trainers.data.progress import OnPhase, quiet
from ...trainers.disk import cache_folder
from ...trainers.integrity import Altered, seal, unseal
from ..compute.ray_address import cluster_address
from ..foundation.durations import Clock
from ..foundation.job import in_cluster_job
from ..storage import layout
from ..storage.store import Storage
from .endpoint import use_endpoint
from .packing import OnPacking, find_whole, in_words, pack
from .source_state import config_key, is_packable, of_bucket, source_state

VERIFIED_S = 600.0
"""For how long a process takes a source for unchanged that it has listed."""

log = logging.getLogger(__name__)


def load_images(data: DataConfig, root: Storage, on_phase: OnPhase = quiet) -> Splits:
    """Return the images of a source: of its packed set in the store, or decoded on this machine.

    A source in a bucket, and every source that a job on a cluster begins with, is packed into the store when
    it is used first. Whoever begins a run makes sure by a listing that the set is of the source as it is now;
    workers of Ray take the set that was made sure of, and list nothing. Images of this machine that no
    cluster has used are decoded into its cache.

    Args:
        root: the store's top.
        on_phase: takes lines that say what is done.

    Raises:
        DataProblem: they cannot be used.
    """
    use_endpoint(root.config)
    files = packed_set_of(data, root, on_phase) if is_packable(data) else None
    return (
        data.load(cache_folder(), on_phase)
        if files is None
        else open_packed_set(files, cache_folder())
    )


def check_images(data: DataConfig, root: Storage) -> None:
    """Check that this machine can get at the images of a source; none is decoded.

    Args:
        root: as `load_images`.

    Raises:
        DataProblem: it cannot.
    """
    use_endpoint(root.config)
    known = (
        _pointed(root, layout.packed_set_pointer(config_key(data))) if is_packable(data) else None
    )
    if known is not None:
        read_description(_set(root, known))
    else:
        data.load(UNREAD)


def packed_set_of(data: DataConfig, root: Storage, on_phase: OnPhase) -> Files | None:
    """Return the packed set of a source in the store, made if need be; None where there is to be none.

    Raises:
        DataProblem: the images cannot be used.
    """
    pointer = layout.packed_set_pointer(config_key(data))
    known = _pointed(root, pointer)
    if in_ray_worker():
        return None if known is None else _set(root, known)
    is_shared = of_bucket(data) or in_cluster_job() or cluster_address() is not None
    if known is None and not is_shared:
        return None
    state = _state(data, root.config.endpoint_url, int(time.monotonic() / VERIFIED_S))
    files = _set(root, state)
    if known != state or find_whole(files, state) is None:
        if not is_shared:
            return None  # images of this machine, which have changed since a cluster used them
        _pack(data, files, root, state, on_phase)
        root.write_text(pointer, json.dumps(seal({"set": state, "source": in_words(data)})))
    return files


def in_ray_worker() -> bool:
    """Return whether this process is a task or an actor of Ray."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    return context.get_actor_id() is not None or context.get_task_id() is not None


def _pack(data: DataConfig, to: Files, root: Storage, state: str, on_phase: OnPhase) -> None:
    clock = Clock()
    said = ""

    def say(line: str) -> None:
        nonlocal said
        said = line
        on_phase(" · ".join(filter(None, (clock.left(), f"packing the images: {line}"))))

    def share(done: float) -> None:
        clock.report(done)
        say(said)

    packed = pack(data, to, cache_folder(), root.config, OnPacking(say, share), state)
    log.info("%s: %d shards in %s", in_words(data), len(packed.description.shards), to.uri)


def _set(root: Storage, state: str) -> Files:
    return open_files(root.uri_of(layout.packed_set_folder(state)))


def _pointed(root: Storage, pointer: str) -> str | None:
    """Return the state of the source whose set is in the store; None where there is none."""
    if not root.exists(pointer):
        return None
    try:
        return str(unseal(root.read_text(pointer))["set"])
    except (Altered, KeyError):
        return None


@cache
def _state(data: DataConfig, endpoint: str | None, _period: int) -> str:
    return source_state(data, endpoint)
