"""The course: assignments keep their form, grading tells right from wrong, and code that attacks
the grader gets nothing.

`make course-check` proves the same for every wrong solution, and walks the teacher's guide
(tests/course_guide.py).
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from grading import inside, sandbox
from grading.assignments import (
    assignments,
    feedback_of,
    fill,
    grade_id,
    kind_of,
    read,
    wrong_solutions,
)
from grading.converters import build, released, restored
from grading.marking import Mark, grade, total
from grading.proof import ALL, NOTHING, fault_of, submissions
from grading.records import RECORDS, calibration_table, prices, rows
from grading.sandbox import CHECKOUT, CodeError, CodeStopped, Limits, Sandbox, SandboxUnavailable
from nbformat.v4 import new_code_cell, new_notebook

from corea import cascade
from corea.paper.profiles import load_profile
from corea.records import read_records

ROOT = Path(__file__).resolve().parent.parent
SOURCES = assignments()
SECRET = "a secret of the grader's"
IDS = [path.stem for path in SOURCES]


@pytest.fixture(scope="module", autouse=True)
def shut_in():
    """Whether this machine lets a process shut itself in; else all of this is skipped, with its
    reason."""
    try:
        Sandbox().close()
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def releases(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("course")
    return {path.stem: read(path) for path in build(folder)}


# --- the assignments ------------------------------------------------------------------------------


def test_there_are_six_in_order():
    assert [path.stem[:2] for path in SOURCES] == ["01", "02", "03", "04", "05", "06"]
    assert all(path.parent.name == path.stem for path in SOURCES)
    with pytest.raises(ValueError, match="no assignment '07-none'; there are 01-parse-and-grade, "):
        assignments(["07-none"])


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_an_assignment_keeps_its_form(path):
    """A story, short cells, points that agree with the headings, seen and hidden tests, and no
    outputs."""
    notebook = read(path)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].source.startswith(f"# Assignment {int(path.stem[:2])} · ")
    assert "## The toy table" in text or "## The toy group" in text
    for cell in code:
        lines = cell.source.splitlines()
        assert len(lines) <= 36 and max(map(len, lines)) <= 84 and not cell.outputs, cell.source
    points = [cell.metadata.nbgrader.points for cell in code if kind_of(cell) == "test"]
    assert sum(map(int, re.findall(r"\((\d+) points", text))) == sum(points) >= 15
    hidden = ["BEGIN HIDDEN TESTS" in cell.source for cell in code if kind_of(cell) == "test"]
    assert hidden.count(True) >= 4 and hidden.count(False) >= 2
    assert all("### BEGIN SOLUTION" in cell.source for cell in code if kind_of(cell) == "solution")
    names = [grade_id(cell) for cell in code if grade_id(cell)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_a_release_holds_no_solution_no_hidden_test_and_needs_no_library(path, releases):
    release = releases[path.stem]
    shown = "\n".join(cell.source for cell in release.cells if cell.cell_type == "code")
    for marker in ("BEGIN SOLUTION", "HIDDEN TESTS", "corea", "grading"):
        assert marker not in shown.replace("corea_pass1", ""), marker
    for cell, original in zip(release.cells, read(path).cells, strict=True):
        if kind_of(cell) == "solution":
            assert "raise NotImplementedError" in cell.source and cell.source != original.source
    assert [cell.source for cell in released(read(path)).cells] == [
        cell.source for cell in release.cells
    ], "what the site shows"


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_there_are_typical_wrong_solutions_and_each_says_its_mistake(path):
    wrong = wrong_solutions(path.stem)
    assert len(wrong) >= 3
    assert all(len(feedback_of(text)) > 8 for text in wrong.values())


def test_the_measure_of_the_open_assignment_is_the_librarys():
    """Its price, its threshold, and its cost at equal Pass@1 against `corea.cascade`, for scores
    with ties and with gaps."""
    names: dict = {"table": None}
    for cell in read(SOURCES[-1]).cells:
        if kind_of(cell) == "setup":
            exec(cell.source.replace('pd.read_csv("calibration.csv")', "None"), names)
    profile, real = load_profile("cpu"), rows("weave", "shopping")
    assert (
        pytest.approx(prices().slm.prompt, abs=5e-4) == names["PRICE"]
        and prices().llm.prompt == 1e0
    )
    llm = read_records([RECORDS / "LLM" / "calibration.parquet"])
    assert (
        pytest.approx(cascade.llm_pass1(llm), abs=1e-3) == names["THRESHOLD"]
        and profile.name == "cpu"
    )
    small, large = names["costs"](real)
    for scores in (
        real["confidence"],
        real["mean_probability"].round(2),
        real["answer_probability"],
    ):
        curve = cascade.sweep(scores, real["correct"], real["llm_correct"], small, large)
        target = names["corea_pass1"](real)
        best = curve[curve["pass1"] >= target - 1e-12]["cost"].min() / large.mean()
        assert names["cost_of"](scores, real) == pytest.approx(best, rel=1e-9)
    kept = cascade.keeps(real["confidence"], names["THRESHOLD"])
    assert names["corea_pass1"](real) == np.where(kept, real["correct"], real["llm_correct"]).mean()


# --- grading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_solution_release_and_a_wrong_solution_get_what_they_should(path, releases):
    source = read(path)
    for name, submission, wanted in list(submissions(path.stem, source, releases[path.stem]))[:3]:
        assert not fault_of(grade(source, submission), wanted), name


def test_what_is_not_as_meant_is_found(releases):
    """The proof can fail: a solution with an error, a release with points, feedback that names
    another mistake."""
    passed, failed = Mark("a", 1, 1, "", ""), Mark("b", 0, 2, "the mean over samples", "")
    assert (
        not fault_of([passed], ALL) and fault_of([passed, failed], ALL) == "the mean over samples"
    )
    assert (
        not fault_of([failed], NOTHING)
        and fault_of([passed, failed], NOTHING) == "an empty release has points"
    )
    assert not fault_of([passed, failed], "over samples") and "no message says 'ties'" in fault_of(
        [passed, failed], "ties"
    )
    assert "not partial" in fault_of([passed], "ties") and "not partial" in fault_of(
        [failed], "over samples"
    )
    with pytest.raises(ValueError, match="no solution defines nothing_of_it"):
        fill(releases[IDS[0]], read(SOURCES[0]), "def nothing_of_it(): pass")
    with pytest.raises(ValueError, match="needs a line `Feedback"):
        feedback_of('"""Wrong."""')


def solved(release, source, grade_id_of_cell: str, code: str):
    """A submission with the solution's cells, but for one."""
    made = fill(release, source)
    for cell in made.cells:
        if grade_id(cell) == grade_id_of_cell:
            cell.source = textwrap.dedent(code)
    return made


def messages(marks) -> dict[str, str]:
    return {mark.cell: mark.message for mark in marks if mark.message}


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def pass_at_1(question_ids, right):\n    while True: pass", "stopped after 0.5 seconds: an endless loop?"),
        ("while True: pass", "there is no function 'pass_at_1'; cell 22: stopped after 2 seconds: an endless loop?"),
        ("import os; os._exit(0)", "there is no function 'pass_at_1'; cell 22: its process ended"),
        ("def pass_at_1(question_ids, right):\n    return Always()\nclass Always:\n    def __eq__(self, other): return True",
         "a value of type Always; use numbers, text"),
        ("def pass_at_1(question_ids", "there is no function 'pass_at_1'; cell 22: SyntaxError"),
        ("!ls\n%time\ndef pass_at_1(question_ids, right):\n    return 0.75", "take the mean over questions"),
    ],
    ids=["loops", "loops at the top", "exits", "equals all", "no Python", "magics"],
)  # fmt: skip
def test_one_bad_cell_costs_its_own_points_and_the_feedback_says_why(code, says, releases):
    source = read(SOURCES[0])
    number = 1 + [grade_id(cell) for cell in source.cells].index("pass_at_1")
    marks = grade(
        source, solved(releases[IDS[0]], source, "pass_at_1", code), limits=Limits(cell=2, call=0.5)
    )
    said = messages(marks)
    assert set(said) <= {"pass_at_1_seen", "pass_at_1_hidden"}
    assert says.replace("cell 22", f"cell {number}") in said["pass_at_1_hidden"]
    assert "\n" not in "".join(said.values())


CHEATS = {
    "patches what tests compare with": """
        import builtins, numpy
        numpy.allclose = numpy.isclose = lambda *a, **k: True
        builtins.abs = lambda x: 0
    """,
    "writes replies of its own": """
        import os
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, b'{"value": true}\\n' * 20)
            except OSError:
                pass
    """,
    "prints what a grader might read": """
        print('{"value": true}'); print("leaderboard: 0.0001")
        raise ValueError("leaderboard: 0.0001")
    """,
    "forges replies, and listens no more": """
        import os, threading, time
        def forge():
            while True:
                for descriptor in (3, 4, 5, 6):
                    try:
                        os.write(descriptor, b'{"value": true}\\n')
                    except OSError:
                        pass
                time.sleep(0.01)
        threading.Thread(target=forge).start()
        time.sleep(60)
    """,
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_gets_no_more_than_code_that_returns_nonsense(cheat, releases):
    """Of the empty release with a cell of the student's own in front; True is what a forged reply
    says."""
    path = SOURCES[5] if "prints" in cheat else SOURCES[2]
    made = new_notebook(
        cells=[new_code_cell(textwrap.dedent(CHEATS[cheat])), *releases[path.stem].cells]
    )
    marks = grade(read(path), made, limits=Limits(cell=1, call=1, together=2))
    assert total(marks)[0] == 0, messages(marks)
    assert not any(mark.printed for mark in marks)


def test_a_submission_cannot_claim_points_or_take_tests_away(releases):
    source, release = read(SOURCES[0]), releases[IDS[0]]
    tests = [cell for cell in source.cells if kind_of(cell) == "test"]
    claimed = [cell.copy() for cell in release.cells if kind_of(cell) == "test"]
    for cell in claimed:
        cell.source, cell.metadata.nbgrader = (
            "print('leaderboard: 0.1')",
            {**cell.metadata.nbgrader, "points": 50},
        )
    odd = new_code_cell("1", metadata={"nbgrader": {"grade_id": {"a": 1}, "grade": True}})
    odder = new_code_cell("2", metadata={"nbgrader": ["mine"]})
    for cells in ([], [odd, odder], release.cells, claimed + release.cells + claimed):
        found = [
            cell
            for cell in restored(cells, source.cells)
            if cell.metadata.get("nbgrader", {}).get("grade")
        ]
        assert sorted(c.source for c in found) == sorted(c.source for c in tests)
        assert sum(cell.metadata.nbgrader.points for cell in found) == 15


# --- the sandbox ----------------------------------------------------------------------------------

FILES = """
    import os
    {secrets}
    def attack():
        found = []
        for path in secrets:
            try:
                found.append(open(path, "rb").read(10))
            except OSError:
                pass
        for folder, folders, files in os.walk("/"):
            if folder.endswith("site-packages"):
                folders.clear()
            found += [f for f in files if f.endswith((".ipynb", ".parquet")) or f in names]
        return found
"""

ATTACKS = {
    "the frames and objects of this process": ("""
        import gc, sys
        def attack():
            frame, seen = sys._getframe(), []
            while frame:
                seen.append(repr(frame.f_locals))
                frame = frame.f_back
            seen += [repr(o)[:10000] for o in gc.get_objects() if type(o) in (dict, list, tuple)]
            return "s'redarg eht fo terces a"[::-1] in "".join(seen)
    """, False),
    "the environment": ("import os\ndef attack(): return 'COREA_TEST_SECRET' in os.environ", False),
    "the process table": ("import os\ndef attack(): return os.listdir('/proc')", "FileNotFoundError"),
    "its parent": ("import os\ndef attack(): return os.getppid()", 0),
    "memory of others": ("""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        def attack():
            found = libc.ptrace(16, 1, 0, 0), libc.process_vm_readv(1, None, 0, None, 0, 0)
            return [found, ctypes.get_errno()]
    """, [[-1, -1], 1]),
    "a socket": ("import socket\ndef attack(): socket.create_connection(('127.0.0.1', 80), 1)", "PermissionError"),
    "a socket in the file system": ("import socket\ndef attack(): socket.socket(socket.AF_UNIX)", "PermissionError"),
    "a fork": ("import os\ndef attack(): os.fork()", "PermissionError"),
    "a command": ("import os\ndef attack(): return os.system('true') == 0", False),
    "another program": ("import subprocess\ndef attack(): subprocess.run(['/bin/true'])", "PermissionError"),
    "becoming one": ("import os\ndef attack(): os.execv('/bin/true', ['true'])", "PermissionError"),
    "a signal": ("import os\ndef attack(): os.kill(1, 9)", "PermissionError"),
    "a group of its own": ("import os\ndef attack(): os.setsid()", "PermissionError"),
    "outliving the grader": ("import ctypes\ndef attack(): return ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)", -1),
    "more memory": ("import resource as r\ndef attack(): r.setrlimit(r.RLIMIT_AS, (-1, -1))", "ValueError: not allowed to raise"),
    "memory": ("import numpy as np\ndef attack(): np.ones(1 << 29)", "out of memory|MemoryError"),
    "a new namespace": ("import ctypes\ndef attack(): return ctypes.CDLL(None).unshare(0x10000000)", -1),
    "a mount": ("import ctypes\ndef attack(): return ctypes.CDLL(None).mount(b'/usr', b'/scratch', None, 4096, None)", -1),
    "a program's place": ("import os\ndef attack(): open(os.__file__, 'a')", "Read-only file system"),
    "the disk": ("""
        def attack():
            for n in range(100):
                with open(f"{n}", "wb") as file:
                    file.write(bytes(10 << 20))
    """, "No space left on device"),
    "a large file": ("def attack(): open('a', 'wb').write(bytes(20 << 20))", "File too large"),
    "all of its files": ("def attack(): return [open('/dev/null') for n in range(100)]", "Too many open files"),
    "a deep reply": ("""
        def attack():
            found = []
            for n in range(100000): found = [found]
            return found
    """, "RecursionError"),
    "a long reply": ("def attack(): return 'x' * (5 << 20)", "its reply is too long"),
    "a number that is none": ("class N(float):\n    def __eq__(self, o): return True\ndef attack(): return N(1)", "a value of type N"),
    "a function": ("def attack(): return attack", "a value of type function"),
    "an exit": ("import sys\ndef attack(): sys.exit(0)", "SystemExit: 0"),
    "an end": ("import os\ndef attack(): os._exit(0)", "its process ended"),
    "a crash": ("import ctypes\ndef attack(): ctypes.string_at(0)", "its process ended"),
}  # fmt: skip


def attempt(code: str, seconds: float = 3, **options):
    """What `attack` of this code gives, or the error's line."""
    with Sandbox(Limits(cell=seconds, call=seconds), {"own.csv": "a,b"}, **options) as box:
        box.run(textwrap.dedent(code), "cell 1")
        try:
            return box.call("attack")
        except CodeError as error:
            return str(error)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_gets_nothing(attack, monkeypatch):
    monkeypatch.setenv("COREA_TEST_SECRET", SECRET)
    code, expected = ATTACKS[attack]
    found = attempt(code)
    if isinstance(expected, str):
        assert re.search(expected, str(found)), found
    else:
        assert found == expected


def test_no_file_of_the_course_can_be_read(tmp_path):
    """By its path or by looking everywhere: solutions, tests, records, this machine's users, what
    others handed in."""
    (tmp_path / "other.txt").write_text(SECRET)
    secrets = [
        *map(str, SOURCES),
        str(RECORDS / "L1-SLM" / "weave.parquet"),
        sandbox.__file__,
        "/etc/passwd",
        "/proc/self/maps",
        f"/proc/{os.getpid()}/environ",
        str(Path.home() / ".bashrc"),
        str(tmp_path / "other.txt"),
        str(ROOT / "README.md"),
    ]
    names = f"secrets = {secrets!r}\n    names = ('marking.py', 'records.py', 'other.txt', 'gradebook.db')"
    # Walking the whole file system takes seconds on a busy machine.
    assert attempt(FILES.replace("{secrets}", names), seconds=50) == []
    assert attempt("def attack(): return open('own.csv').read()") == "a,b"


def test_a_checkout_below_python_is_hidden_and_its_environment_shown_again(monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "CHECKOUT", Path(os.path.realpath(sys.prefix)).parent)
    (tmp_path / "site-packages").symlink_to(sandbox.CHECKOUT.parent)
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    view = sandbox._view()
    assert (
        str(sandbox.CHECKOUT) in view["hidden"]
        and os.path.realpath(sys.prefix) in view["shown_again"]
    )
    assert attempt(
        f"import os, numpy\ndef attack(): return os.listdir({str(sandbox.CHECKOUT)!r})"
    ) == [Path(sys.prefix).name]


def test_replies_of_its_own_are_values_or_nothing():
    """Code writes to the very descriptor of replies: this side reads a value that might as well
    have been returned, or an error."""
    code = """
        import os
        def attack(text, times):
            for descriptor in range(3, 64):
                try:
                    os.write(descriptor, text.encode() * times)
                except OSError:
                    pass
            return "returned"
    """
    for text in (
        '{"value": 7}\n',
        '{"value": {"#table": 5}}\n',
        '{"error": "x"}\n',
        "[]\n",
        "[" * 5000 + "\n",
        "\xff\n",
        "{}\n",
    ):
        with Sandbox() as box:
            box.run(textwrap.dedent(code), "cell 1")
            for times in (1, 1, 3):
                try:
                    assert box.call("attack", text, times) in (7, "returned")
                except CodeError as error:
                    assert "\n" not in str(error)


def test_code_that_takes_no_calls_is_stopped():
    """It forges one reply and sleeps: the next, larger than a pipe holds, must not hold the
    grader."""
    code = """
        import os, time
        def attack(*_):
            for descriptor in range(3, 64):
                try:
                    os.write(descriptor, b'{"value": 1}\\n')
                except OSError:
                    pass
            time.sleep(60)
    """
    began = time.monotonic()
    with Sandbox(Limits(call=1)) as box:
        box.run(textwrap.dedent(code), "cell 1")
        assert box.call("attack") == 1
        with pytest.raises(CodeStopped):
            box.call("attack", "x" * (4 << 20))
    assert time.monotonic() - began < 5


def test_nothing_is_left_when_it_is_closed():
    with Sandbox(Limits(call=0.3)) as box:
        folder, group = box._folder, box._process.pid
        box.run(
            "import time\ndef attack():\n    open('a', 'w').write('x')\n    time.sleep(60)",
            "cell 1",
        )
        with pytest.raises(CodeStopped):
            box.call("attack")
    assert not os.path.exists(folder)
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)  # not even as processes that nobody waits for


def test_values_keep_their_kind():
    import pandas as pd

    for value in (1, 0.5, True, None, "é", [1, [2]], {"a": {"b": 1}}, float("inf")):
        assert inside.decoded(inside.encoded(value)) == value and type(
            inside.decoded(inside.encoded(value))
        ) is type(value)
    assert np.isnan(inside.decoded(inside.encoded(float("nan"))))
    assert inside.decoded(inside.encoded(np.float64(0.5))) == 0.5
    np.testing.assert_array_equal(inside.decoded(inside.encoded(np.arange(3))), np.arange(3))
    table = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    assert inside.decoded(inside.encoded(table)).equals(table)
    with pytest.raises(TypeError, match="a value of type set"):
        inside.encoded({1})


# --- where it cannot be had -----------------------------------------------------------------------


def test_a_kernel_that_refuses_is_one_line_and_the_opt_out_works():
    """In a namespace that may make no others, where there is `unshare`."""
    code = """
        from grading.sandbox import Sandbox, SandboxUnavailable
        try:
            Sandbox()
        except SandboxUnavailable as error:
            print(error)
        with Sandbox(isolated=False) as box:
            box.run("import socket\\ndef f(x): return [x, 1]\\ndef g(): socket.socket()", "cell 1")
            print(box.call("f", 2))
            try:
                box.call("g")
            except Exception as error:
                print(error)
    """
    inner = f"echo 0 > /proc/sys/user/max_user_namespaces && exec {sys.executable} -c '{textwrap.dedent(code)}'"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "notebooks" / "course")}
    done = subprocess.run(
        ["unshare", "-Ur", "bash", "-c", inner], capture_output=True, text=True, env=environment
    )
    if "max_user_namespaces" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"namespaces cannot be refused here: {done.stderr.strip()}")
    refused, value, filtered = done.stdout.splitlines()
    assert refused.startswith(
        "this machine cannot shut untrusted code in (the kernel refuses new namespaces: "
    )
    assert (
        "What the sandbox holds" in refused
        and "## What the sandbox holds" in (ROOT / "notebooks/course/README.md").read_text()
    )
    assert value == "[2, 1]" and "PermissionError" in filtered


def test_another_system_is_one_line(monkeypatch, tmp_path):
    """As a Mac would say it: the code of the inner side with another name of the system."""
    text = (
        Path(inside.__file__)
        .read_text()
        .replace('_IS_LINUX = sys.platform == "linux" and', "_IS_LINUX = False and")
    )
    (tmp_path / "inside.py").write_text(text)
    monkeypatch.setattr(inside, "__file__", str(tmp_path / "inside.py"))
    with pytest.raises(
        SandboxUnavailable, match=r"\(it needs Linux on x86_64 or aarch64, this is "
    ):
        Sandbox()
    with Sandbox(isolated=False) as box:
        box.run("def f(): return 3", "cell 1")
        assert box.call("f") == 3


def test_the_inner_side_needs_the_standard_library_alone():
    """It is executed outside every environment of this side; NumPy and pandas are imported where
    code has brought them."""
    tree = ast.parse(Path(inside.__file__).read_text())
    top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert top <= sys.stdlib_module_names and not any(
        isinstance(node, ast.ImportFrom) for node in tree.body
    )
    assert CHECKOUT == ROOT and calibration_table().count("\n") > 400
