"""The course: assignments cut from the library, built by nbgrader, graded where the student's code cannot look.

An assignment is a folder `notebooks/course/NN-name/` with one notebook in nbgrader's format and, in `wrong/`, typical wrong
solutions: each a file whose functions stand in for the solution's and whose docstring ends in `Feedback: what the grader says`.

Tests run in this process; the student's functions run in `corea.sandbox` and are called through it.  Nothing of a submission
is ever executed here: tests are the source's own, found by their grade id.

`python -m corea.course build|check|leaderboard`; see notebooks/course/README.md.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import io
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat
import pandas as pd

from corea.costs import PriceList
from corea.records import read_records
from corea.sandbox import CodeError, CodeStopped, Limits, Sandbox, SandboxUnavailable

ROOT = Path(__file__).resolve().parent.parent
COURSE = ROOT / "notebooks" / "course"
RECORDS = ROOT / "data" / "reference" / "cpu" / "records"
BUILT = ROOT / "build" / "course"
DATA = "calibration.csv"
LEADERBOARD = "leaderboard: "
_KEY = ["dataset", "question_id", "sample"]
_SHOWN = [
    "question_id", "sample", "text", "answer", "gold", "answer_type", "correct", "confidence",
    "mean_probability", "answer_probability", "prompt_tokens", "completion_tokens",
    "llm_correct", "llm_prompt_tokens", "llm_completion_tokens",
]  # fmt: skip


# --- what tests and assignments read --------------------------------------------------------------


def rows(*datasets: str, slm: str = "L1-SLM") -> pd.DataFrame:
    """Tracked records of an SLM, and of the LLM on the same samples as columns `llm_...`; all test sets where none is named."""
    datasets = datasets or tuple(sorted(p.stem for p in (RECORDS / slm).glob("*.parquet") if p.stem != "calibration"))
    ours, theirs = (read_records([RECORDS / system / f"{name}.parquet" for name in datasets]) for system in (slm, "LLM"))
    kept = ["correct", "prompt_tokens", "completion_tokens"]
    theirs = theirs[_KEY + kept].rename(columns={name: f"llm_{name}" for name in kept})
    return ours.merge(theirs, on=_KEY, how="inner", validate="one_to_one")


@cache
def prices() -> PriceList:
    """The prices of the tracked run, by parameter counts."""
    from corea import models, profiles  # torch-free, but not needed to build

    profile = profiles.load_profile("cpu")
    return PriceList.from_parameters(*(models.architecture_of(folder).parameters for folder in (profile.slm, profile.llm)))


def calibration_table() -> str:
    """The calibration split as the CSV that is handed out with every assignment."""
    return rows("calibration")[_SHOWN].to_csv(index=False)


# --- notebooks ------------------------------------------------------------------------------------


def assignments() -> list[Path]:
    """The source notebooks, in order."""
    return sorted(COURSE.glob("[0-9][0-9]-*/[0-9][0-9]-*.ipynb"))


def read(path: Path):
    """A notebook, as nbformat gives it."""
    return nbformat.read(path, as_version=4)


def kind_of(cell) -> str:
    """"solution", "test", "setup" (locked code that both sides run) or "other" (text, demonstrations)."""
    marks = cell.metadata.get("nbgrader", {})
    if cell.cell_type != "code" or not marks:
        return "other"
    if marks.get("solution"):
        return "solution"
    return "test" if marks.get("grade") else "setup"


def grade_id(cell) -> str | None:
    """The name that nbgrader knows a cell by."""
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def functions_of(source: str) -> list[str]:
    """Names of the functions that a piece of code defines at its top."""
    return [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]


def fill(release, source, replaced: str = ""):
    """A submission: the release with the source's solutions, and where it defines a function of theirs, with `replaced`."""
    solutions = {grade_id(c): c.source for c in source.cells if kind_of(c) == "solution"}
    made, ours = copy.deepcopy(release), set(functions_of(replaced))
    used: set[str] = set()
    for cell in made.cells:
        if kind_of(cell) != "solution":
            continue
        cell.source = solutions[grade_id(cell)]
        defined = ours & set(functions_of(cell.source))
        if defined:
            cell.source, used = f"{cell.source}\n\n{replaced}", used | defined
    if ours - used and not used:
        raise ValueError(f"no solution defines {', '.join(sorted(ours))}")
    return made


# --- grading --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mark:
    """One test cell: points of those it gives, and why there are none (empty where it passed)."""

    cell: str
    points: float
    most: float
    message: str
    printed: str


class _Code:
    """The student's cells in a sandbox that is started again, without the cell that hung, when its process is lost."""

    def __init__(self, cells: Sequence[tuple[str, str]], limits: Limits, files: dict[str, str], isolated: bool):
        self._cells, self._limits, self._files, self._isolated = list(cells), limits, files, isolated
        self._left, self._sandbox = limits.together, None
        self.problems: dict[str, str] = {}

    def call(self, function: str, *arguments, **named):
        with self._clock():
            if self._sandbox is None:
                self._start()
            try:
                return self._sandbox.call(function, *arguments, **named)
            except CodeStopped:
                self.close()
                raise

    def _start(self) -> None:
        """Run every cell; one after which the process is gone is left out of the next try."""
        while self._sandbox is None:
            if self._left <= 0:
                raise CodeStopped(f"stopped: the notebook has used its {self._limits.together:g} seconds")
            limits = Limits(self._limits.cell, self._limits.call, self._left, self._limits.memory)
            self._sandbox = Sandbox(limits, self._files, isolated=self._isolated)
            for name, source in [c for c in self._cells if "stopped" not in self.problems.get(c[0], "")]:
                try:
                    self._sandbox.run(source, name)
                except CodeStopped as error:
                    self.problems[name] = f"{name}: stopped, as {error}"
                    self.close()
                    break
                except CodeError as error:
                    self.problems[name] = f"{name}: {error}"

    @contextlib.contextmanager
    def _clock(self):
        began = time.monotonic()
        try:
            yield
        finally:
            self._left -= time.monotonic() - began

    def close(self) -> None:
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None


def grade(
    source, submission, *, limits: Limits = Limits(), isolated: bool = True, files: dict[str, str] | None = None  # noqa: B008
) -> list[Mark]:
    """Marks of a submission, a test cell of the source each.

    Setup cells run on both sides; solution cells, and cells that the student added, in the sandbox alone.  Raises
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
                    names |= {function: _called(code, function) for function in functions_of(cell.source)}
                elif kind_of(cell) == "test":
                    marks.append(_mark(cell, names, code))
    return marks


def _cells_of(source, submission) -> list[tuple[str, str]]:
    """What runs in the sandbox, named for messages: the source's setup, then the submission's own code in its order."""
    setup = [(f"cell of {grade_id(c)}", c.source) for c in source.cells if kind_of(c) == "setup"]
    known = {c.source.strip() for c in source.cells if kind_of(c) != "solution"} | {""}
    trusted = {grade_id(c) for c in source.cells if kind_of(c) in ("test", "setup")}
    own = []
    for number, cell in enumerate(submission.cells, start=1):
        if cell.cell_type != "code" or cell.source.strip() in known or grade_id(cell) in trusted:
            continue
        lines = ["" if line.lstrip().startswith(("%", "!")) else line for line in cell.source.splitlines()]
        own.append((f"cell {number}", "\n".join(lines)))
    return setup + own


def _called(code: _Code, function: str) -> Callable:
    def call(*arguments, **named):
        try:
            return code.call(function, *arguments, **named)
        except CodeError as error:
            message = f"`{function}`: {error}"
            if "there is no function" in message and code.problems:
                message += f"; {next(iter(code.problems.values()))}"
            raise CodeError(message) from None

    return call


def _mark(cell, names: dict, code: _Code) -> Mark:
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


def total(marks: Sequence[Mark]) -> tuple[float, float]:
    """Points had, and points there are."""
    return sum(mark.points for mark in marks), sum(mark.most for mark in marks)


# --- nbgrader's folders ---------------------------------------------------------------------------

CONFIG = '''"""nbgrader's settings of this course: student code runs in corea's sandbox, not in a kernel beside the tests."""

c = get_config()
c.CourseDirectory.course_id = "corea"
c.Autograde.autograde_preprocessors = [
    "corea.autograde.ExecuteApart",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.GenerateFeedback.preprocessors = [
    "corea.autograde.HideTests",
    "nbgrader.preprocessors.GetGrades",
    "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
]
'''


def build(folder: Path = BUILT, names: Sequence[str] = ()) -> list[Path]:
    """Make an nbgrader course in `folder` and the student version of each assignment; returns the release notebooks.

    Raises ValueError for an assignment that is not there, and RuntimeError with nbgrader's own line where it refuses one.
    """
    chosen = [path for path in assignments() if not names or path.stem in names]
    if unknown := sorted(set(names) - {path.stem for path in chosen}):
        raise ValueError(f"no assignment {unknown[0]!r}; there are {', '.join(p.stem for p in assignments())}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nbgrader_config.py").write_text(CONFIG)
    data = calibration_table()
    for path in chosen:
        source = folder / "source" / path.stem
        source.mkdir(parents=True, exist_ok=True)
        (source / path.name).write_bytes(path.read_bytes())
        (source / DATA).write_text(data)
    from corea.autograde import generate

    return [generate(folder, path.stem) for path in chosen]


# --- the proof that grading works -----------------------------------------------------------------


def check(folder: Path = BUILT, names: Sequence[str] = ()) -> bool:
    """Grade solution, empty release and wrong solutions of each assignment, print what each got, and say if all is as meant."""
    began, good = time.monotonic(), True
    for release in build(folder, names):
        source = read(COURSE / release.stem / release.name)
        seconds = run_as_a_student(source, release.parent)
        print(f"\n{release.stem}: the whole notebook, solved, runs in {seconds:.1f} s")
        for name, submission, wanted in _submissions(source, read(release)):
            marks = grade(source, submission)
            fault = _fault(marks, wanted)
            points, most = total(marks)
            said = "; ".join(m.message for m in marks if m.message and wanted) if wanted else ""
            print(f"  {'ok  ' if not fault else 'BAD '} {name:34} {points:g} of {most:g}  {fault or said[:160]}", flush=True)
            good = good and not fault
    print(f"\n{'all as meant' if good else 'NOT as meant'}, in {time.monotonic() - began:.0f} s")
    return good


def _submissions(source, release):
    """Name, notebook and what to expect: "all", "none", or the words that the feedback must hold."""
    yield "solution", fill(release, source), "all"
    yield "empty release", release, "none"
    for path in wrong_solutions(source.metadata.corea.assignment):
        text = path.read_text()
        yield f"wrong/{path.name}", fill(release, source, text), feedback_of(text)


def wrong_solutions(assignment: str) -> list[Path]:
    """The files of typical wrong solutions."""
    return sorted((COURSE / assignment / "wrong").glob("*.py"))


def feedback_of(text: str) -> str:
    """What the docstring of a wrong solution says the grader must say; ValueError where it says nothing."""
    found = re.search(r"^Feedback: (.+)$", ast.get_docstring(ast.parse(text)) or "", re.MULTILINE)
    if found is None:
        raise ValueError("a wrong solution's docstring needs a line `Feedback: ...`")
    return found[1].strip()


def _fault(marks: Sequence[Mark], wanted: str) -> str:
    points, most = total(marks)
    if wanted == "all":
        return "" if points == most else next(m.message for m in marks if m.message)
    if wanted == "none":
        return "" if points == 0 else "an empty release has points"
    if not 0 < points < most:
        return f"points are not partial; {'; '.join(m.message for m in marks if m.message)}"
    named = any(wanted in m.message for m in marks)
    return "" if named else f"no message says {wanted!r}: {'; '.join(m.message for m in marks if m.message)}"


def run_as_a_student(notebook, folder: Path) -> float:
    """Execute a copy in a kernel, in `folder`, as a student would; seconds.  Raises nbclient's error where a cell fails."""
    from nbclient import NotebookClient

    began = time.monotonic()
    NotebookClient(
        copy.deepcopy(notebook), timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return time.monotonic() - began


# --- the leaderboard ------------------------------------------------------------------------------


def leaderboard(folder: Path = BUILT) -> pd.DataFrame:
    """Students by cost at COREA's Pass@1, from what the grader printed into the autograded notebooks."""
    found = []
    for path in sorted((folder / "autograded").glob("*/*/*.ipynb")):
        for cell in read(path).cells:
            printed = "".join(o.get("text", "") for o in cell.get("outputs", []) if o.output_type == "stream")
            if kind_of(cell) == "test" and (match := re.search(rf"^{LEADERBOARD}([0-9.]+)$", printed, re.MULTILINE)):
                found.append((path.parent.parent.name, path.stem, float(match[1])))
    table = pd.DataFrame(found, columns=["student", "assignment", "cost"]).sort_values(["assignment", "cost", "student"])
    return table.reset_index(drop=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; one clear line and exit status 1 where something is not as it should be."""
    cli = argparse.ArgumentParser(prog="python -m corea.course", description="The course: build it, prove its grading.")
    cli.add_argument("action", choices=("build", "check", "leaderboard"))
    cli.add_argument("assignments", nargs="*", help="names such as 01-parse-and-grade; all where none is given")
    cli.add_argument("--folder", type=Path, default=BUILT, help="nbgrader's course folder")
    given = cli.parse_args(arguments)
    try:
        if given.action == "check":
            return 0 if check(given.folder, given.assignments) else 1
        if given.action == "leaderboard":
            print(leaderboard(given.folder).to_string(index=False))
            return 0
        for release in build(given.folder, given.assignments):
            print(release)
    except (ValueError, RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
