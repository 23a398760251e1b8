"""nbgrader with two parts of its own: student code runs in the sandbox instead of a kernel, and feedback hides hidden tests."""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

from nbconvert.preprocessors import Preprocessor
from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.apps import NbGraderAPI
from nbgrader.converters.base import NbGraderException
from traitlets import Bool, Unicode
from traitlets.config import Config

from grading.assignments import COURSE, assignments, grade_id, kind_of, read
from grading.marking import Mark, grade
from grading.records import DATA, calibration_table
from grading.sandbox import CHECKOUT, SandboxUnavailable

BUILT = CHECKOUT / "build" / "course"
CONFIG = f'''"""nbgrader's settings of this course: student code runs in a sandbox, not in a kernel beside the tests."""

import os
import sys
from pathlib import Path

sys.path.insert(0, {str(COURSE)!r})
os.environ["PATH"] = f"{{Path(sys.executable).parent}}{{os.pathsep}}{{os.environ['PATH']}}"  # nbgrader calls alembic by name
c = get_config()
c.CourseDirectory.course_id = "corea"
c.CourseDirectory.root = str(Path(__file__).resolve().parent)
c.ExecuteApart.source = c.CourseDirectory.root + "/source"
# c.ExecuteApart.isolated = False  # only for code that you trust, where the sandbox cannot be had
c.Autograde.autograde_preprocessors = [
    "grading.converters.ExecuteApart",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.GenerateFeedback.preprocessors = [
    "grading.converters.HideTests",
    "nbgrader.preprocessors.GetGrades",
    "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
]
'''


class ExecuteApart(Preprocessor):
    """Puts marks where a kernel would have put outputs: an error where a test failed, nothing else where it passed."""

    source = Unicode(help="folder of the sources, an assignment each").tag(config=True)
    isolated = Bool(True, help="whether code that cannot be shut in is refused").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: Mapping) -> tuple[NotebookNode, Mapping]:
        """Grade a submission that nbgrader has put the source's tests back into."""
        names = resources["nbgrader"]
        source = read(Path(self.source) / names["assignment"] / f"{names['notebook']}.ipynb")
        try:
            marks = {mark.cell: mark for mark in grade(source, nb, isolated=self.isolated)}
        except SandboxUnavailable as error:
            self.log.error("%s", error)
            raise NbGraderException(str(error)) from None
        nb.cells = marked(nb.cells, source.cells, marks)
        return nb, resources


def marked(cells: Sequence[NotebookNode], originals: Sequence[NotebookNode], marks: Mapping[str, Mark]) -> list[NotebookNode]:
    """A submission's cells with outputs that say its marks.

    Every test of the original is among them once, as the original has it: nbgrader counts what cells say of themselves, so
    that a copy of a test cell, or one with a name of the student's own, would be a way to points.
    """
    by_name = {grade_id(cell): cell for cell in originals if grade_id(cell)}
    found, seen = [], set()
    for cell in map(copy.deepcopy, cells):
        name = grade_id(cell)
        if name in marks and name not in seen:
            cell = _with_mark(by_name[name], marks[name])
        elif name in seen or name not in by_name:
            cell.metadata.pop("nbgrader", None)
        if cell.cell_type == "code" and name not in marks:
            cell.outputs = []
        seen.add(name)
        found.append(cell)
    return found + [_with_mark(by_name[name], mark) for name, mark in marks.items() if name not in seen]


def _with_mark(test: NotebookNode, mark: Mark) -> NotebookNode:
    cell = copy.deepcopy(test)
    cell.outputs = [new_output("stream", name="stdout", text=mark.printed)] if mark.printed else []
    if mark.message:
        said = f"{mark.points:g} of {mark.most:g} points: {mark.message}"
        cell.outputs.append(new_output("error", ename="", evalue=said, traceback=[said]))
    return cell


class HideTests(Preprocessor):
    """Leaves hidden tests out of the feedback; what they found stands in the output."""

    def preprocess_cell(self, cell: NotebookNode, resources: Mapping, index: int) -> tuple[NotebookNode, Mapping]:
        """A test cell without its hidden part."""
        if kind_of(cell) == "test":
            cell.source = re.sub(r"### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS\n?", "", cell.source, flags=re.DOTALL)
        return cell, resources


def build(folder: Path = BUILT, names: Sequence[str] = ()) -> list[Path]:
    """Make an nbgrader course in `folder` and the student version of each assignment; returns the release notebooks.

    Raises ValueError for an assignment that is not there, and RuntimeError with nbgrader's own words where it refuses one.
    """
    chosen = assignments(names)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nbgrader_config.py").write_text(CONFIG)
    for path in chosen:
        source = folder / "source" / path.stem
        source.mkdir(parents=True, exist_ok=True)
        (source / path.name).write_bytes(path.read_bytes())
        (source / DATA).write_text(calibration_table())
    config = Config()
    config.CourseDirectory.root, config.CourseDirectory.course_id = str(folder), "corea"
    api, released, home = NbGraderAPI(config=config), [], Path(sys.executable).parent
    for path in chosen:
        with mock.patch.dict(os.environ, PATH=f"{home}{os.pathsep}{os.environ['PATH']}"):  # nbgrader calls alembic by name
            done = api.generate_assignment(path.stem)
        if not done["success"]:
            raise RuntimeError(f"nbgrader refuses {path.stem}: {done.get('log') or done.get('error')}")
        released.append(folder / "release" / path.stem / path.name)
    return released
