"""What each node of the cluster has, found out on it before its GPUs are taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..config.scaling import ScalingConfig
from .capacity import count_fitting_workers
from .node_facts import NodeFacts, examine

ANSWER_S = 300
"""For how long a node may examine itself: a list of a hundred thousand files on a network's disk takes 40 s."""


def examine_nodes(
    scaling: ScalingConfig | None = None, check: Callable[[], None] = lambda: None
) -> list[NodeFacts]:
    """Return what the nodes have that workers may be put on; all of them without a scaling.

    A task without CPUs and GPUs runs on each, beside whatever it does. It has to be called within a Ray
    session. A node that is lost meanwhile, or does not answer, is left out.

    Args:
        scaling: of the training.
        check: a further check on each node, that pickles and raises a problem.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task: Any = ray.remote(examine)
    answers = []
    for node in ray.nodes():
        resources = node["Resources"]
        if not node["Alive"] or (scaling and not _fits(resources, scaling)):
            continue
        on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = {"num_cpus": 0, "scheduling_strategy": on_node, "max_retries": 0}
        gpus = int(resources.get("GPU", 0))
        answers.append(task.options(**options).remote(node["NodeManagerAddress"], gpus, check))
    ready, _late = ray.wait(answers, num_returns=len(answers), timeout=ANSWER_S)
    facts = []
    for answer in ready:
        try:
            facts.append(ray.get(answer))
        except RayError:  # lost; Ray Train finds another one, or waits for it
            continue
    return facts


def _fits(resources: dict[str, float], scaling: ScalingConfig) -> bool:
    return count_fitting_workers([resources], scaling.cpus_per_worker, scaling.gpus_per_worker) > 0
