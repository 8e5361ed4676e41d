"""Show a page of a store in the browser."""

from __future__ import annotations

import tempfile
import webbrowser
from pathlib import Path

from ..storage.store import Storage
from .consoles import stderr_console


def show_page(store: Storage, name: str) -> None:
    """Open a page in a browser; one in a bucket is downloaded first."""
    file = Path(store.path) / name
    if not store.is_folder:
        file = Path(tempfile.mkdtemp(prefix="whipray-")) / Path(name).name
        store.get_file(name, file)
    if not webbrowser.open(file.as_uri()):
        stderr_console.print(f"no browser was found: open {file}")
