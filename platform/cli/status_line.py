"""One line of progress on stderr: in place on a terminal, a line at each change in a log."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console

from ..foundation.durations import Clock
from ..foundation.logs import verbose

LOG_EVERY_S = 10.0
"""Least time between two lines of a log."""
LOG_SAME_EVERY_S = 60.0
"""Time after which a log has the same line again: the command is still there."""
TERMINAL_EVERY_S = 0.5
CLOCK = re.compile(r"\d+(:\d\d)+")
"""Time that has passed or is left, as `foundation.durations` writes it: its change is no news."""


class StatusLine:
    """Shows a text that changes, from a thread of its own: also while nothing is reported.

    Args:
        text: the text, or a function that returns the current one.
    """

    def __init__(self, console: Console, text: str | Callable[[], str]) -> None:
        self.console = console
        self._text, self._clock = text, Clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def set(self, text: str) -> None:
        """Show another text from now on."""
        self._text = text

    def report(self, done: float) -> None:
        """Take the share of the work that is done, in [0, 1]; the time left is shown from now on."""
        self._clock.report(done)

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

    def _current(self) -> str:
        if not isinstance(self._text, str):
            return self._text()
        return " · ".join(filter(None, (self._clock.left(), self._text)))

    def _show(self) -> None:
        if self.console.is_terminal and not verbose():
            # As a Text: Rich 15 reads markup in a status that is a `str`, whatever the console says.
            as_text = self.console.render_str
            with self.console.status(as_text(self._current())) as status:
                while not self._stop.wait(TERMINAL_EVERY_S):
                    status.update(as_text(self._current()))
            return
        last, said = "", 0.0
        while not self._stop.wait(TERMINAL_EVERY_S if verbose() else LOG_EVERY_S):
            text, now = self._current(), monotonic()
            news = CLOCK.sub("", text)
            if news != last or now - said >= LOG_SAME_EVERY_S:
                time = f"{datetime.now():%H:%M:%S} " if verbose() else ""
                self.console.print(f"{time}{text}", highlight=False, soft_wrap=True)
                last, said = news, now
