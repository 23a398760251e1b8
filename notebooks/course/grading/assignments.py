"""The assignments as they stand in the checkout, and submissions made from them.

An assignment is a folder `notebooks/course/NN-name/` with one notebook in nbgrader's format and, in
`wrong/`, typical wrong solutions: each a file whose functions stand in for the solution's and whose
docstring ends in `Feedback: what the grader says`.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

COURSE = Path(__file__).resolve().parent.parent


def assignments(names: Sequence[str] = ()) -> list[Path]:
    """The source notebooks with these names, or all, in order; ValueError for a name that is
    none."""
    found = sorted(COURSE.glob("[0-9][0-9]-*/[0-9][0-9]-*.ipynb"))
    if unknown := sorted(set(names) - {path.stem for path in found}):
        raise ValueError(
            f"no assignment {unknown[0]!r}; there are {', '.join(path.stem for path in found)}"
        )
    return [path for path in found if not names or path.stem in names]


def read(path: Path) -> NotebookNode:
    """A notebook, as nbformat gives it."""
    return nbformat.read(path, as_version=4)


def kind_of(cell: NotebookNode) -> str:
    """ "solution", "test", "setup" (locked code that both sides run) or "other" (text,
    demonstrations)."""
    marks = _marks(cell)
    if cell.cell_type != "code" or not marks:
        return "other"
    if marks.get("solution"):
        return "solution"
    return "test" if marks.get("grade") else "setup"


def grade_id(cell: NotebookNode) -> str:
    """The name that nbgrader knows a cell by; empty where it knows it by none."""
    name = _marks(cell).get("grade_id")
    return name if isinstance(name, str) else ""


def _marks(cell: NotebookNode) -> Mapping:
    """What nbgrader wrote into a cell; in a submission it may be anything."""
    marks = cell.metadata.get("nbgrader")
    return marks if isinstance(marks, Mapping) else {}


def functions_of(source: str) -> list[str]:
    """Names of the functions that a piece of code defines at its top."""
    return [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]


def fill(release: NotebookNode, source: NotebookNode, replaced: str = "") -> NotebookNode:
    """A submission: the release with the source's solutions; functions that `replaced` defines
    stand in for theirs.

    Raises ValueError where no solution defines one of them.
    """
    solutions = {grade_id(c): c.source for c in source.cells if kind_of(c) == "solution"}
    made, ours = copy.deepcopy(release), set(functions_of(replaced))
    used: set[str] = set()
    for cell in made.cells:
        if kind_of(cell) != "solution":
            continue
        cell.source = solutions[grade_id(cell)]
        if theirs := ours & set(functions_of(cell.source)):
            cell.source, used = f"{cell.source}\n\n{replaced}", used | theirs
    if ours and not used:
        raise ValueError(f"no solution defines {', '.join(sorted(ours))}")
    return made


def wrong_solutions(assignment: str) -> dict[str, str]:
    """The typical wrong solutions, by the name of their file."""
    return {
        path.stem: path.read_text() for path in sorted((COURSE / assignment / "wrong").glob("*.py"))
    }


def feedback_of(text: str) -> str:
    """What the docstring of a wrong solution says the grader must say; ValueError where it says
    nothing."""
    found = re.search(r"^Feedback: (.+)$", ast.get_docstring(ast.parse(text)) or "", re.MULTILINE)
    if found is None:
        raise ValueError("a wrong solution's docstring needs a line `Feedback: ...`")
    return found[1].strip()
