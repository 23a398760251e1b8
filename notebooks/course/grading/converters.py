"""nbgrader with parts of its own: student code runs in the sandbox instead of a kernel, and
feedback hides hidden tests."""

from __future__ import annotations

import copy
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from nbgrader.apps import NbGraderAPI
from nbgrader.preprocessors import ClearHiddenTests, ClearSolutions, GetGrades, NbGraderPreprocessor
from traitlets import Bool, Unicode
from traitlets.config import Config

from grading.assignments import COURSE, assignments, grade_id, kind_of, read
from grading.marking import Mark, grade
from grading.records import DATA, calibration_table
from grading.sandbox import CHECKOUT, SandboxUnavailable

BUILT = CHECKOUT / "build" / "course"
CONFIG = f'''"""nbgrader's settings of this course: student code runs in a sandbox."""

import os
import sys
import warnings
from pathlib import Path

# of nbgrader's, about its own database
warnings.filterwarnings("ignore", message="Object of type <Submitted")
sys.path.insert(0, {str(COURSE)!r})
# nbgrader calls alembic by name
os.environ["PATH"] = f"{{Path(sys.executable).parent}}{{os.pathsep}}{{os.environ['PATH']}}"
c = get_config()
c.CourseDirectory.course_id = "corea"
c.CourseDirectory.root = str(Path(__file__).resolve().parent)
c.Restore.source = c.ExecuteApart.source = c.CourseDirectory.root + "/source"
# c.ExecuteApart.isolated = False  # only for code that you trust, where the sandbox cannot be had
c.Autograde.sanitize_preprocessors = [
    "grading.converters.Restore",
    "nbgrader.preprocessors.ClearOutput",
    "nbgrader.preprocessors.OverwriteCells",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.Autograde.autograde_preprocessors = [
    "grading.converters.ExecuteApart",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.GenerateFeedback.preprocessors = [
    "grading.converters.HideTests",
    "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
]
'''


class Restore(NbGraderPreprocessor):
    """Puts the source's tests and metadata back before nbgrader reads a submission.

    nbgrader counts what cells say of themselves, so that a copy of a test cell, or a cell with
    other points, would be a way to marks; and metadata that is malformed stops it for the whole
    class.
    """

    source = Unicode(help="folder of the sources, an assignment each").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: Mapping) -> tuple[NotebookNode, Mapping]:
        """The student's cells, and the source's for the rest."""
        original = source_of(self.source, resources)
        nb.cells, nb.metadata = restored(nb.cells, original.cells), copy.deepcopy(original.metadata)
        return nb, resources


class ExecuteApart(NbGraderPreprocessor):
    """Puts marks where a kernel would have put outputs: an error where a test failed, none where it
    passed."""

    source = Unicode(help="folder of the sources, an assignment each").tag(config=True)
    isolated = Bool(True, help="whether code that cannot be shut in is refused").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: Mapping) -> tuple[NotebookNode, Mapping]:
        """Grade a submission that `Restore` has seen."""
        try:
            marks = {
                mark.cell: mark
                for mark in grade(source_of(self.source, resources), nb, isolated=self.isolated)
            }
        except SandboxUnavailable as error:
            shutil.rmtree(
                resources["metadata"]["path"]
            )  # of nbgrader's copy, or it is taken for graded the next time
            sys.exit(str(error))
        for cell in nb.cells:
            if grade_id(cell) in marks:
                cell.outputs = _outputs(marks[grade_id(cell)])
        return nb, resources


class HideTests(GetGrades):
    """Grades for the feedback, and no hidden tests in it: what they found stands in the output."""

    def preprocess(self, nb: NotebookNode, resources: Mapping) -> tuple[NotebookNode, Mapping]:
        """The notebook without the hidden part of its test cells."""
        for cell in nb.cells:
            if kind_of(cell) == "test":
                cell.source = re.sub(
                    r"### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS\n?",
                    "",
                    cell.source,
                    flags=re.DOTALL,
                )
        return super().preprocess(nb, resources)


def source_of(folder: str, resources: Mapping) -> NotebookNode:
    """The source of the notebook that nbgrader is at."""
    names = resources["nbgrader"]
    return read(Path(folder) / names["assignment"] / f"{names['notebook']}.ipynb")


def restored(
    cells: Sequence[NotebookNode], originals: Sequence[NotebookNode]
) -> list[NotebookNode]:
    """A submission's cells: of known ones the student's part alone, every test once, and no claim
    of points elsewhere."""
    missing = {grade_id(cell): cell for cell in originals if grade_id(cell)}
    made = []
    for cell in cells:
        if (original := missing.pop(grade_id(cell), None)) is None:
            found = (
                new_code_cell(cell.source)
                if cell.cell_type == "code"
                else new_markdown_cell(cell.source)
            )
        else:
            found = copy.deepcopy(original)
            if kind_of(original) == "solution":
                found.source = cell.source
        made.append(found)
    made += [copy.deepcopy(cell) for cell in missing.values() if kind_of(cell) == "test"]
    for number, cell in enumerate(made, start=1):
        cell.id = f"cell-{number}"
    return made


def _outputs(mark: Mark) -> list[NotebookNode]:
    printed = [new_output("stream", name="stdout", text=mark.printed)] if mark.printed else []
    if not mark.message:
        return printed
    said = f"{mark.points:g} of {mark.most:g} points: {mark.message}"
    return [*printed, new_output("error", ename="", evalue=said, traceback=[said])]


def released(notebook: NotebookNode) -> NotebookNode:
    """What students get of a source: no solutions and no hidden tests; to look at, as nbgrader's
    book does not know of it."""
    found = copy.deepcopy(notebook)
    for preprocessor in (ClearSolutions(), ClearHiddenTests()):
        found, _ = preprocessor.preprocess(found, {"language": "python"})
    return found


def build(folder: Path = BUILT, names: Sequence[str] = ()) -> list[Path]:
    """Make an nbgrader course in `folder` and the student version of each assignment; returns the
    release notebooks.

    Raises ValueError for an assignment that is not there, and RuntimeError with nbgrader's own
    words where it refuses one.
    """
    chosen = assignments(names)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "nbgrader_config.py").exists():  # a teacher's changes stay
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
        with mock.patch.dict(
            os.environ, PATH=f"{home}{os.pathsep}{os.environ['PATH']}"
        ):  # nbgrader calls alembic by name
            done = api.generate_assignment(path.stem)
        if not done["success"]:
            raise RuntimeError(
                f"nbgrader refuses {path.stem}: {done.get('log') or done.get('error')}"
            )
        released.append(folder / "release" / path.stem / path.name)
    return released
