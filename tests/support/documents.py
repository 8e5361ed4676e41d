"""The project's pages, and the commands in their console blocks."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(p for f in ("docs", "infra", "tests") for p in (ROOT / f).rglob("*.md"))]
)
CODE_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command line of a page's console block."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def read_commands(page: Path) -> list[Command]:
    """Return the commands after the prompts of a page, without comments and redirections."""
    commands = []
    for language, block in CODE_BLOCK.findall(page.read_text()):
        if language != "console":
            continue
        for line in re.sub(r"\\\n", " ", block).splitlines():
            if not line.startswith("$ "):
                continue
            try:
                words = shlex.split(line[2:], comments=True)
            except ValueError:  # a quote or a here-document that goes on in the next line
                continue
            end = next((i for i, word in enumerate(words) if word in (">", "|", "&&", "<")), None)
            commands.append(Command(str(page.relative_to(ROOT)), tuple(words[:end])))
    return commands
