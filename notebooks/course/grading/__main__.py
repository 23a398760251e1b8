"""`python -m grading build|check|leaderboard` (with notebooks/course on the path); see
notebooks/course/README.md."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from grading import proof
from grading.assignments import kind_of, read
from grading.converters import BUILT, build
from grading.sandbox import SandboxUnavailable

LEADERBOARD = "leaderboard: "  # what a test prints before the number by which students are ordered


def leaderboard(folder: Path = BUILT) -> pd.DataFrame:
    """Students by cost at COREA's Pass@1, from what the grader printed into the autograded
    notebooks."""
    found = []
    for path in sorted((folder / "autograded").glob("*/*/*.ipynb")):
        for cell in (c for c in read(path).cells if kind_of(c) == "test"):
            printed = "".join(output.get("text", "") for output in cell.outputs)
            if match := re.search(rf"^{LEADERBOARD}([0-9.]+)$", printed, re.MULTILINE):
                found.append((path.stem, path.parent.parent.name, float(match[1])))
    table = pd.DataFrame(found, columns=["assignment", "student", "cost"]).sort_values(
        ["assignment", "cost", "student"]
    )
    return table.assign(place=table.groupby("assignment")["cost"].rank(method="min").astype(int))[
        ["assignment", "place", "student", "cost"]
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; one clear line and exit status 1 where something is not as it should be."""
    cli = argparse.ArgumentParser(
        prog="python -m grading",
        description="Build the course, prove its grading, list the leaderboard.",
    )
    cli.add_argument("action", choices=("build", "check", "leaderboard"))
    cli.add_argument(
        "assignments", nargs="*", help="names such as 01-parse-and-grade; all where none is given"
    )
    cli.add_argument("--folder", type=Path, default=BUILT, help="nbgrader's course folder")
    cli.add_argument(
        "--not-isolated", action="store_true", help="check where the sandbox cannot be had"
    )
    given = cli.parse_intermixed_args(arguments)
    try:
        if given.action == "leaderboard":
            print(leaderboard(given.folder).to_string(index=False))
            return 0
        released = build(given.folder.resolve(), given.assignments)
        if given.action == "check":
            return 0 if proof.check(released, isolated=not given.not_isolated) else 1
        for path in released:
            print(path.parent)
        print(
            f"done: the student version is {given.folder.resolve()}/release, "
            "a folder to hand out for each assignment"
        )
    except (ValueError, RuntimeError, OSError, SandboxUnavailable) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
