"""When a training reports and saves: by images, and no more often than a clock allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from .trainer_config import LoopConfig

REPORTS, SAVES = 200, 20
"""The first reports and checkpoints of a training come by images alone, so that a short one has all of them."""


class Cadence:
    """When one worker reports and saves; at the same images as all others.

    Args:
        plan: multiples of images, and least seconds.
        batch: images of a step.
        agree: returns worker 0's answers on every worker. It is asked only where a multiple of images has passed
            and the clock decides.
        clock: seconds.
    """

    def __init__(
        self,
        plan: LoopConfig,
        agree: Callable[[Sequence[bool]], list[bool]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._agree, self._clock = plan, agree, clock
        self._reported = self._saved = clock()

    def due(self, images_seen: int, done: bool) -> tuple[bool, bool]:
        """Return whether to report, and whether to save, after the step that ends at `images_seen`.

        A checkpoint has a report with it; the end of the training has both.
        """
        plan = self._plan
        report = done or passed(images_seen, plan.report_every_images, plan.batch_size)
        save = done or passed(images_seen, plan.checkpoint_every_images, plan.batch_size)
        if not (report or save):
            return False, False
        free = (
            done or _is_free(images_seen, plan.report_every_images, plan.report_every_s, REPORTS),
            done
            or _is_free(images_seen, plan.checkpoint_every_images, plan.checkpoint_every_s, SAVES),
        )
        now = self._clock()
        wanted = [
            report and (free[0] or now - self._reported >= plan.report_every_s),
            save and (free[1] or now - self._saved >= plan.checkpoint_every_s),
        ]
        if (report and not free[0]) or (save and not free[1]):  # the same on every worker
            wanted = self._agree(wanted)
        report, save = wanted
        if report or save:
            self._reported = now
        if save:
            self._saved = now
        return report or save, save


def _is_free(images_seen: int, every_images: int, every_s: float, first: int) -> bool:
    """Return whether no clock decides: none is asked for, or it is one of the first."""
    return every_s == 0 or images_seen // every_images <= first


def passed(images_seen: int, every: int, batch: int) -> bool:
    """Return whether the last batch passed a multiple of `every`."""
    return images_seen // every > (images_seen - batch) // every
