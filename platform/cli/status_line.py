"""What a person sees while things run: one line with progress and time left, nothing else.

On a terminal the line stays in place; in a log it comes once in a while. It goes to stderr.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console

LOG_EVERY_S = 10.0


TERMINAL_EVERY_S = 0.5


class StatusLine:
    """Shows `text()` regularly from a thread of its own, also while nothing is reported."""

    def __init__(self, console: Console, text: Callable[[], str]) -> None:
        self.console, self.text = console, text
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _show(self) -> None:
        if self.console.is_terminal:
            with self.console.status(self.text()) as status:
                while not self._stop.wait(TERMINAL_EVERY_S):
                    status.update(self.text())
            return
        while not self._stop.wait(LOG_EVERY_S):
            self.console.print(self.text(), highlight=False, soft_wrap=True)
