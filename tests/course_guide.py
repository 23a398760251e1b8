"""The teacher's guide of the course, from end to end: every command of its page, with a small
class, some of whom cheat.

`make course-check` runs this.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from grading.assignments import COURSE, fill, kind_of, read, wrong_solutions
from grading.converters import build
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).resolve().parent.parent
GUIDE = COURSE / "README.md"
NAME = "06-open"


def hand_in(inbox: Path, student: str, notebook) -> None:
    (inbox / student).mkdir(parents=True)
    nbformat.write(notebook, inbox / student / f"{NAME}.ipynb")


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The folder in which the guide's commands ran, and what they printed."""
    folder = tmp_path_factory.mktemp("guide") / "course"
    (release,) = build(folder, [NAME])
    source, release, inbox = read(COURSE / NAME / f"{NAME}.ipynb"), read(release), folder / "inbox"
    hand_in(inbox, "ada", fill(release, source))
    hand_in(inbox, "bob", release)
    hand_in(inbox, "cyd", fill(release, source, wrong_solutions(NAME)["stated_confidence"]))
    claims = fill(release, source, wrong_solutions(NAME)["upside_down"])
    for cell in [cell for cell in claims.cells if kind_of(cell) == "test"]:
        marks = {**cell.metadata.nbgrader, "points": 50}
        claims.cells.append(
            new_code_cell("print('leaderboard: 0.0001')", metadata={"nbgrader": marks})
        )
    claims.cells += [new_code_cell("1", metadata={"nbgrader": {"grade": True}})]
    hand_in(inbox, "eve", claims)
    spy = fill(
        release, source, "def fit(table):\n    raise OSError('<b>' + open('/etc/passwd').read())"
    )
    spy.cells = [cell for cell in spy.cells if kind_of(cell) != "test"]
    hand_in(inbox, "mal", spy)
    (inbox / "wes").mkdir()
    (inbox / "wes" / f"{NAME}.ipynb").write_text("no notebook")
    commands = "".join(re.findall(r"```console\n(.*?)```", GUIDE.read_text(), re.DOTALL)).replace(
        "build/course", str(folder)
    )
    environment = {**os.environ, "COURSE": str(folder)}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder, done.stdout + done.stderr


def test_the_guide_leads_to_points(graded):
    folder, printed = graded
    table = pd.read_csv(folder / "grades.csv")
    points = table[table["assignment"] == NAME].set_index("student_id")["score"]
    assert points.to_dict() == {"ada": 15, "bob": 0, "cyd": 9, "eve": 6, "mal": 0, "wes": 0}
    assert "some were not graded: see above" in printed and "wes" in printed
    assert "the student version is" in printed and (folder / f"{NAME}.tar.gz").exists()


def test_the_leaderboard_lists_who_has_a_rule(graded):
    _, printed = graded
    places = re.findall(rf"{NAME} +(\d+) +(\w+) +(0\.\d+)", printed)
    assert [(place, student) for place, student, _ in places] == [
        ("1", "ada"),
        ("2", "cyd"),
        ("3", "eve"),
    ]
    assert all(float(cost) > 0.3 for *_, cost in places)


def test_feedback_names_the_mistake_and_hides_the_tests(graded):
    folder, _ = graded
    pages = {
        path.parent.parent.name: path.read_text()
        for path in folder.glob(f"feedback/*/{NAME}/*.html")
    }
    assert set(pages) == {"ada", "bob", "cyd", "eve", "mal"}
    assert "the stated confidence alone is no better than COREA" in pages["cyd"]
    assert "is a high score what should stand?" in pages["eve"]
    assert "No such file or directory" in pages["mal"] and "root:" not in pages["mal"]
    assert not any("held_out" in page or "HIDDEN TESTS" in page for page in pages.values())


def test_where_code_cannot_be_shut_in_nothing_is_graded(graded):
    """One line, and no copy left that nbgrader would take for graded; in a namespace that may make
    no others."""
    folder, _ = graded
    refuse = "echo 0 > /proc/sys/user/max_user_namespaces && exec nbgrader autograde 06-open --student=ada --force"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["unshare", "-Ur", "bash", "-c", refuse],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if "max_user_namespaces" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"namespaces cannot be refused here: {done.stderr.strip()}")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(
        "this machine cannot shut untrusted code in ("
    )
    assert not (folder / "autograded" / "ada" / NAME).exists()


def test_the_guide_is_a_page_and_names_every_assignment():
    text = GUIDE.read_text()
    assert len(text.splitlines()) < 90
    for path in sorted(COURSE.glob("0*/0*.ipynb")):
        points = sum(
            int(cell.metadata.nbgrader.points)
            for cell in read(path).cells
            if kind_of(cell) == "test"
        )
        assert f"| [{path.stem}]({path.stem}/{path.name}) | {points} |" in text
