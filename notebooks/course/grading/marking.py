"""Marks of a submission: tests run in this process, the student's functions in `grading.sandbox`,
called through it.

Nothing of a submission is executed here: tests and setup are the source's own, found by their grade
id.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nbformat import NotebookNode

from grading.assignments import functions_of, grade_id, kind_of
from grading.records import DATA, calibration_table
from grading.sandbox import CodeError, CodeStopped, Limits, Sandbox, SandboxUnavailable


@dataclass(frozen=True, slots=True)
class Mark:
    """One test cell: points of those it gives, why there are none (empty where it passed), and what
    the test printed."""

    cell: str
    points: float
    most: float
    message: str
    printed: str


def grade(
    source: NotebookNode,
    submission: NotebookNode,
    *,
    limits: Limits = Limits(),  # noqa: B008
    isolated: bool = True,
    files: dict[str, str] | None = None,
) -> list[Mark]:
    """Marks of a submission, one for each test cell of the source.

    Setup cells run on both sides; solution cells, and cells that the student added, in the sandbox
    alone.  files: text by name, beside the notebook; the calibration table where None.  Raises
    SandboxUnavailable where the code cannot be shut in and `isolated` asks for it.
    """
    files = {DATA: calibration_table()} if files is None else files
    code = _Code(_cells_of(source, submission), limits, files, isolated)
    names: dict[str, object] = {"__name__": "tests"}
    marks = []
    with tempfile.TemporaryDirectory(prefix="corea-") as folder, contextlib.closing(code):
        for name, text in files.items():
            (Path(folder) / name).write_text(text)
        with contextlib.chdir(folder):
            for cell in source.cells:
                if kind_of(cell) == "setup":
                    exec(compile(cell.source, grade_id(cell), "exec"), names)
                elif kind_of(cell) == "solution":
                    names |= {
                        function: _called(code, function) for function in functions_of(cell.source)
                    }
                elif kind_of(cell) == "test":
                    marks.append(_mark(cell, names))
    return marks


def total(marks: Sequence[Mark]) -> tuple[float, float]:
    """Points had, and points there are."""
    return sum(mark.points for mark in marks), sum(mark.most for mark in marks)


def _cells_of(source: NotebookNode, submission: NotebookNode) -> list[tuple[str, str]]:
    """What runs in the sandbox, named for messages: the source's setup, then the submission's own
    code in its order."""
    setup = [(f"cell of {grade_id(c)}", c.source) for c in source.cells if kind_of(c) == "setup"]
    known = {c.source.strip() for c in source.cells if kind_of(c) != "solution"} | {""}
    ours = {grade_id(c) for c in source.cells if kind_of(c) in ("test", "setup")}
    own = []
    for number, cell in enumerate(submission.cells, start=1):
        if cell.cell_type != "code" or cell.source.strip() in known or grade_id(cell) in ours:
            continue
        lines = [
            "" if line.lstrip().startswith(("%", "!")) else line
            for line in cell.source.splitlines()
        ]
        own.append((f"cell {number}", "\n".join(lines)))
    return setup + own


class _Code:
    """The student's cells in a sandbox that is started again, without the cell that hung, when its
    process is lost."""

    def __init__(
        self,
        cells: Sequence[tuple[str, str]],
        limits: Limits,
        files: dict[str, str],
        isolated: bool,
    ):
        self._cells, self._limits, self._files, self._isolated = (
            list(cells),
            limits,
            files,
            isolated,
        )
        self._left = limits.together
        self._sandbox: Sandbox | None = None
        self._lost: set[str] = set()
        self.problems: dict[str, str] = {}

    def call(self, function: str, *arguments, **named):
        with self._clock():
            sandbox = self._sandbox or self._start()
            try:
                return sandbox.call(function, *arguments, **named)
            except CodeStopped:
                self.close()
                raise

    def _start(self) -> Sandbox:
        ends = time.monotonic() + self._left
        while True:
            left = ends - time.monotonic()
            if left <= 0:
                raise CodeStopped(
                    f"stopped: the notebook has used its {self._limits.together:g} seconds"
                )
            self._sandbox = Sandbox(
                replace(self._limits, together=left), self._files, isolated=self._isolated
            )
            if self._run_cells(self._sandbox):
                return self._sandbox
            self.close()

    def _run_cells(self, sandbox: Sandbox) -> bool:
        """Run every cell but those that hung before; False where one hangs now."""
        for name, source in self._cells:
            if name in self._lost:
                continue
            try:
                sandbox.run(source, name)
            except CodeStopped as error:
                self._lost.add(name)
                self.problems[name] = f"{name}: {error}"
                return False
            except CodeError as error:
                self.problems[name] = f"{name}: {error}"
        return True

    @contextlib.contextmanager
    def _clock(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._left -= time.monotonic() - began

    def close(self) -> None:
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None


def _called(code: _Code, function: str) -> Callable:
    """The student's function as tests see it; an error names it, and what hindered its
    definition."""

    def call(*arguments, **named):
        try:
            return code.call(function, *arguments, **named)
        except CodeError as error:
            message = f"`{function}`: {error}"
            if "there is no function" in message and code.problems:
                message += f"; {next(iter(code.problems.values()))}"
            raise CodeError(message) from None

    return call


def _mark(cell: NotebookNode, names: dict) -> Mark:
    most, printed, message = float(cell.metadata.nbgrader.points), io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(cell.source, grade_id(cell), "exec"), names)
    except SandboxUnavailable:
        raise
    except Exception as error:  # whatever a test makes of what the student's function gave
        said = str(error).splitlines()
        message = (said[0] if said else "") or "a test failed without a word"
        if not isinstance(error, (AssertionError, CodeError)):
            message = f"{type(error).__name__}: {message}"
    return Mark(grade_id(cell), 0.0 if message else most, most, message[:600], printed.getvalue())
