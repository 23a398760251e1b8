"""Fill in figures/ARTIFACT.md: each row of its tables names a command, and gets what that command
prints (`make artifact`)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from corea.support.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "figures" / "ARTIFACT.md"
_ROW = re.compile(r"^\| (?P<item>.*?) \| (?P<value>.*?) \| `(?P<command>.*)` \|$")


def output(command: str) -> str:
    """What a command prints at the root of the checkout, lines joined by semicolons.

    Raises RuntimeError, with its last line, where it fails.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
    )
    if done.returncode:
        raise RuntimeError(
            f"`{command}` failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}"
        )
    return "; ".join(" ".join(line.split()) for line in done.stdout.splitlines() if line.strip())


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """(item, value, command) of each row with a command."""
    for line in text.splitlines():
        if found := _ROW.match(line):
            yield found["item"], found["value"], found["command"].replace(r"\|", "|")


def filled(text: str) -> str:
    """The page with every row's value as its command gives it now."""
    lines = []
    for line in text.splitlines():
        if found := _ROW.match(line):
            value = output(found["command"].replace(r"\|", "|")).replace("|", r"\|")
            line = f"| {found['item']} | {value} | `{found['command']}` |"
        lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Rewrite the page."""
    page = filled(PAGE.read_text())
    with atomic_write(PAGE) as file:
        file.write(page)


if __name__ == "__main__":
    main()
