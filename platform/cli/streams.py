"""stdout and stderr that neither lose a character's neighbours nor end the work.

A terminal may not know a character, a disk may be full, whoever reads a pipe may have gone: none of it is a
reason to lose what a command has done, or to give another exit code than that of the work.
"""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

SIMILAR = {"–": "-", "—": "-", "…": "...", "×": "x", "·": "*", "’": "'"}
"""What is shown where a terminal's encoding lacks a character; for all others, a question mark."""
ERRORS = "whipray-similar"


def _similar(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(SIMILAR.get(character, "?") for character in lacking), error.end


codecs.register_error(ERRORS, _similar)


class Output:
    """A stream that drops what can no longer be written, and remembers why."""

    def __init__(self, stream: TextIO) -> None:
        """Wrap a stream; a character that its encoding lacks is replaced from now on."""
        self.stream = stream
        self.lost: OSError | None = None
        """The first error of writing."""
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ERRORS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        try:
            return self.stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        try:
            self.stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        """Write nowhere from now on: what is still buffered would fail again when Python ends."""
        self.lost = self.lost or error
        with suppress(OSError, ValueError):  # no file: pytest's, a notebook's
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Inside, output that cannot be written or shown ends nothing; one line says so at the end.

    A closed pipe is not worth a line: whoever closed it has read enough.
    """
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    out, err = Output(sys.stdout), Output(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield
    finally:
        out.flush()
        if out.lost is not None and out.lost.errno != errno.EPIPE:
            reason = os.strerror(out.lost.errno or errno.EIO)
            err.write(
                f"the output could not be written ({reason}); what was done is not affected\n"
            )
        err.flush()
        sys.stdout, sys.stderr = before


def output_is_lost() -> bool:
    """Return whether what is written to stdout no longer arrives anywhere."""
    return isinstance(sys.stdout, Output) and sys.stdout.lost is not None


def _open_closed_descriptors() -> None:
    """Open what a shell's `>&-` has closed: the next file would get its number, and the output."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
