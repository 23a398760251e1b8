"""The proof that grading works: what the solution, the empty release and typical wrong solutions of
each assignment get."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from nbclient import NotebookClient
from nbformat import NotebookNode

from grading.assignments import COURSE, feedback_of, fill, read, wrong_solutions
from grading.marking import Mark, grade, total

ALL, NOTHING = "all", "none"
_LONGEST = 120.0  # seconds of a student's notebook


def check(released: Sequence[Path], isolated: bool = True) -> bool:
    """Grade the submissions of each assignment, print what each got, and say if all is as meant;
    released: their release notebooks."""
    began, good = time.monotonic(), True
    for path in released:
        source, release = read(COURSE / path.stem / path.name), read(path)
        seconds = run_as_a_student(fill(release, source), path.parent)
        good &= seconds < _LONGEST
        print(f"\n{path.stem}: a student's whole notebook, solved, runs in {seconds:.1f} s")
        for name, submission, wanted in submissions(path.stem, source, release):
            marks = grade(source, submission, isolated=isolated)
            fault = fault_of(marks, wanted)
            points, most = total(marks)
            said = fault or (
                ""
                if wanted in (ALL, NOTHING)
                else next(m.message for m in marks if wanted in m.message)
            )
            print(
                f"  {'BAD' if fault else 'ok '} {name:32} {points:3g} of {most:g}  {said}".rstrip(),
                flush=True,
            )
            good &= not fault
    print(f"\n{'all as meant' if good else 'NOT as meant'}, in {time.monotonic() - began:.0f} s")
    return good


def submissions(
    assignment: str, source: NotebookNode, release: NotebookNode
) -> Iterator[tuple[str, NotebookNode, str]]:
    """Name, notebook and what to expect: ALL, NOTHING, or the words that the feedback must hold."""
    yield "the solution", fill(release, source), ALL
    yield "the empty release", release, NOTHING
    for name, text in wrong_solutions(assignment).items():
        yield name, fill(release, source, text), feedback_of(text)


def fault_of(marks: Sequence[Mark], wanted: str) -> str:
    """What is not as it should be with these marks; empty where nothing is."""
    points, most = total(marks)
    messages = [mark.message for mark in marks if mark.message]
    if wanted == ALL:
        return "" if points == most else messages[0]
    if wanted == NOTHING:
        return "" if points == 0 else "an empty release has points"
    if not 0 < points < most:
        return f"points are not partial; {'; '.join(messages)}"
    return (
        ""
        if any(wanted in message for message in messages)
        else f"no message says {wanted!r}: {'; '.join(messages)}"
    )


def run_as_a_student(notebook: NotebookNode, folder: Path) -> float:
    """Execute a copy in a kernel, in `folder`, as a student would; seconds.  Raises nbclient's
    error where a cell fails."""
    began, place = time.monotonic(), {"metadata": {"path": str(folder)}}
    NotebookClient(
        copy.deepcopy(notebook),
        timeout=int(_LONGEST),
        kernel_name="python3",
        resources=place,
        extra_arguments=["--log-level=ERROR"],
    ).execute()
    return time.monotonic() - began
