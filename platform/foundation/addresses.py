"""Addresses in a config, which is stored with every run and shown by many commands."""

from __future__ import annotations

import re

from ...trainers.errors import UsageProblem
from .text import without_login

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:?//")  # a forgotten colon does not hide a login


def check_no_secret(address: str, key: str, fix: str) -> str:
    """Return an address or a folder.

    Args:
        address: what was given.
        key: that it was given for.
        fix: where a login or an option belongs.

    Raises:
        UsageProblem: it is an address with user info, a query or a fragment, any of which may hold a
            secret; the error does not repeat it. It is no ValueError, since pydantic would show the
            value.
    """
    if not _ADDRESS.match(address):
        return address
    rest = "://" + address.partition("//")[2]
    if without_login(rest) != rest or re.search(r"[?#]", rest):
        raise UsageProblem(f"{key} holds a login, options or a fragment", fix)
    return address
