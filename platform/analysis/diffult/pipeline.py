"""DiffuLT from end to end: only what the store lacks is made, one step after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from ...compute.ray_session import ray_session
from ...config.paths import with_absolute_paths
from ...foundation.durations import Clock
from ...foundation.job import in_cluster_job
from .content import Step as PageStep
from .content import StepState
from .materials import Materials
from .order import Order
from .result import DiffultResult, keep, make_document
from .steps import Classify, Existing, Fill, Report, Score, Step, Take, Train, TrainF0

log = logging.getLogger(__name__)


class Pipeline:
    """The steps of one order.

    Args:
        order: what is asked for.
        on_note: takes each line that is to stay.
        dry_run: nothing will be made.
    """

    def __init__(
        self,
        order: Order,
        on_note: Callable[[str], None] = log.warning,
        dry_run: bool = False,
    ) -> None:
        order = replace(order, experiment=with_absolute_paths(order.experiment))
        self.order, self.on_note = order, on_note
        self.materials = Materials(order, dry_run)
        kinds: list[type[Step]] = [Take if order.is_trained else Train, Fill, Classify]
        if order.experiment.balancing.filter.is_set:
            kinds[1:2] = [TrainF0, Fill, Score]
        self.steps = [kind(self.materials) for kind in kinds]
        self._clock, self._done = Clock(), 0.0
        self._phase: Callable[[], str] = lambda: "looking at what exists"

    def status(self) -> str:
        """Return where the pipeline stands, in one line."""
        return " · ".join(filter(None, (self._clock.elapsed(), self._clock.left(), self._phase())))

    def look(self) -> list[Existing]:
        """Return what the store has of each step.

        Raises:
            Problem: a step cannot be done as it is asked for.
        """
        return [step.look() for step in self.steps]

    def run(self) -> DiffultResult:
        """Make what is missing, and return the result; it is kept and recorded.

        Raises:
            Problem: what stopped a step; what was made until then is kept.
        """
        existing = self.look()
        ended: list[PageStep] = []
        with ExitStack() as stack:
            for number, step in enumerate(self.steps):
                # Looked at again, since an earlier step decides more of it.
                before = step.look() if existing[number].work else existing[number]
                later = sum(each.work for each in existing[number + 1 :])
                if not before.work:
                    ended.append(PageStep(step.name, before.about, "reused"))
                    continue
                if step.works_on_ray and self._uses_ray:
                    self._phase = lambda: "starting Ray"
                    stack.enter_context(ray_session())
                start = time.monotonic()
                step.make(self._report(number, self._done, before.work, later))
                self._done += before.work
                kind: StepState = "made" if before.state == "missing" else "partly reused"
                seconds = time.monotonic() - start
                ended.append(PageStep(step.name, step.look().about, kind, seconds))
            self._phase = lambda: "writing the result"
            document = make_document(self.materials, self.materials.measure().document)
        return keep(self.materials, document, ended)

    @property
    def _uses_ray(self) -> bool:
        return self.order.workers != 1 or in_cluster_job()

    def _report(self, number: int, earlier: float, work: float, later: float) -> Report:
        """Return the callbacks of one step.

        Args:
            earlier, work, later: operations of the steps before it in this call, of it and after it.
        """
        of_all = f"step {number + 1} of {len(self.steps)}"

        def show(line: str) -> None:
            self._phase = lambda: f"{of_all}: {line}"

        def follow(phase: Callable[[], str]) -> None:
            self._phase = lambda: f"{of_all}: {phase()}"

        def report(share: float) -> None:
            self._clock.report((earlier + share * work) / (earlier + work + later))

        show(self.steps[number].name)
        return Report(show, report, self.on_note, follow)
