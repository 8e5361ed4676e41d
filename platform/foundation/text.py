"""Text that may be shown: without secrets, without terminal controls, exceptions in one line."""

from __future__ import annotations

import re
import reprlib

LINE_LENGTH = 300
"""Characters of an exception that are shown: three lines of a terminal."""
MESSAGE_LENGTH = 2000
"""Characters of an error's line that are shown; the lists of recipes and of keys have hundreds."""

_LONG_WORD = re.compile(r"\S{500,}")
"""Longer than a path is, but for those that are made to be."""

_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxtuple, _short.maxdict = 3, 8, 8, 8
_short.maxstring = _short.maxother = 80

# A password may hold a slash, a colon or an @ (SQLAlchemy and MLflow take them as they are), so a
# login with a password extends to the last @ before white space. Hiding too much does no harm.
_LOGIN = re.compile(r"://(?:[^:/@\s]*:\S*|[^:/@\s]+)@")
_SECRET_OPTION = re.compile(
    r"([?&][^=&\s]*(?:password|passwd|secret|token|signature|credential|key)[^=&\s]*=)[^&\s]*",
    re.IGNORECASE,
)

_ESCAPE_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, erase
    r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?"  # OSC and its like: title, clipboard, links
)
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    r"\u202a-\u202e\u2066-\u2069]"  # reversals of the direction of writing
)


def brief(value: object) -> str:
    """Return a value as Python writes it, without the middle of what is long."""
    return _short.repr(value)


def brief_name(name: str) -> str:
    """Return a key or a path, without the middle of one that is longer than any real one."""
    return name if len(name) <= LINE_LENGTH else _without_middle(name)


def _without_middle(word: str) -> str:
    return f"{word[:80]}...{word[-80:]}"


def cut(line: str) -> str:
    """Return a line without what is more than a message needs, whatever was put into it."""
    line = _LONG_WORD.sub(lambda word: _without_middle(word[0]), line)
    return line if len(line) <= MESSAGE_LENGTH else f"{line[:MESSAGE_LENGTH]} ... (cut)"


def printable(text: str) -> str:
    """Return a text of a server, job or file without what would control the terminal."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")  # a carriage return hides what was shown
    return _CONTROL.sub("", _ESCAPE_SEQUENCE.sub("", lines))


def redact(text: str) -> str:
    """Return a text without the logins and secret options of the addresses in it."""
    return _SECRET_OPTION.sub(r"\1***", _LOGIN.sub("://***@", text))


def without_login(address: str) -> str:
    """Return an address that can still be used, without the user and password in it."""
    return _LOGIN.sub("://", address)


def describe_exception(error: BaseException) -> str:
    """Return the type and the first line of an exception, without secrets."""
    lines = str(error).strip().splitlines()
    return _shown(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)


def last_line(error: object) -> str:
    """Return the last line of an exception's text, without secrets.

    Ray puts the remote traceback into an exception's text; its last line is the exception itself.
    """
    lines = str(error).strip().splitlines()
    return _shown(lines[-1] if lines else type(error).__name__)


def _shown(line: str) -> str:
    return redact(line)[:LINE_LENGTH]


def size_in_words(size: int) -> str:
    """Return bytes in the largest unit of which there is at least one: `3.2 MB`."""
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if size >= 1000**power:
            return f"{size / 1000**power:.1f} {unit}"
    return f"{size} B"
