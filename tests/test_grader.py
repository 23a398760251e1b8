"""The grader: tables of answers with a reason each, hostile answers, and peers' cases with every difference named."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corea import _algebra
from corea import grader as module
from corea.grader import Grader, grade_one
from corea.parser import parse

PATIENT = 10.0  # seconds: no verdict of these tables may depend on how busy the machine is


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(deadline=PATIENT) as made:
        yield made


def grade(
    grader: Grader, pairs: list[tuple[str | None, str | None]], kind: str = "math"
) -> list[bool]:
    return grader.grade(
        [answer for answer, _ in pairs], [gold for _, gold in pairs], [kind] * len(pairs)
    )


# --- mathematics ----------------------------------------------------------------------------------

RIGHT = [
    ("3/4", r"\frac{3}{4}", "a bare fraction, all of it and not its last number"),
    (r"\frac12", "0.5", "a decimal and a fraction"),
    (".75", "0.75", "no leading zero"),
    ("5.0", "5", "a decimal that is an integer"),
    ("13/4.", "(13)/(4)", "a full stop after the answer"),
    ("1 1/2", "3/2", "a mixed number"),
    ("x=1", "1", "the value of a name"),
    ("1", "x=1", "and the other way round"),
    ("= 5", "5", "nothing left of the sign"),
    ("a_n=2n+1", "2n + 1", "a formula with its name"),
    ("(1,2)", "(1, 2)", "a pair"),
    ("[0,1)", "$[0, 1)$", "an interval"),
    ("{1,2}", r"\{2,1\}", "a set has no order"),
    ("x=1 or x=2", "1, 2", "a list where the gold is the same list"),
    ("(7,11) or (11,7)", "(11,7),(7,11)", "two pairs where the gold is two pairs"),
    (r"\boxed{1} and \boxed{2}", r"\{1,2\}", "a list in several boxes"),
    ("yes", "Yes", "a verdict in another case"),
    (r"\text{No}", "no.", "a verdict in LaTeX"),
    ("∞", r"\infty", "infinity as a character"),
    ("50%", "50", "a percentage by its number"),
    ("60%", "0.6", "a percentage by its value"),
    ("1,000", "1000", "thousands by a comma"),
    ("1 000", "1000", "thousands by a space"),
    ("12,345.5", "12345.5", "thousands and a decimal"),
    ("007", "7", "leading zeros"),
    ("+5", "5", "a plus sign"),
    ("-0", "0", "the sign of nothing"),
    ("\u22125", "-5", "a minus sign as typeset"),
    ("$5$", "5", "in dollars"),
    (r"\(5\)", "5", "in LaTeX brackets"),
    (r"\[ 5 \]", "5", "in display brackets"),
    ("**5**", "5", "in Markdown"),
    (r"$\boxed{5}$", "5", "boxed in dollars"),
    (r"Thus the answer is \boxed{5}.", "5", "boxed after prose"),
    ("The answer is $5$.", "5", "prose with one value"),
    ("5 apples", "5", "a unit"),
    (r"5 \text{ cm}^2", "5", "a unit with a power is no arithmetic"),
    (r"\$5", "5", "money"),
    ("5\u00d710^3", "5000", "scientific notation is a finished number"),
    ("90^\\circ", "90", "degrees"),
    ("x^3+x^2+x+1", "1+x+x^2+x^3", "several powers are not hostile"),
    ("(x-2)(x+2)", "x^2-4", "algebra"),
    (r"\frac{\sqrt{8}}{2}", r"\sqrt{2}", "simplification"),
    ("\u221a2", r"\sqrt{2}", "a root as typed"),
    (r"\text{even}", "even", "a word in its dressing"),
    ("12:30", "12:30", "the same string"),
]

WRONG = [
    ("no", "Yes", "the other verdict"),
    ("yes or no", "Yes", "both verdicts"),
    ("-∞", r"\infty", "infinity of the other sign"),
    ("1 or 2 or 3", "3", "every candidate listed"),
    ("1 or 2 or 3", "1", "and whichever stands first"),
    ("$1$ or $2$ or $3$", "3", "each in dollars"),
    ("1, 2, 3", "3", "a list where the gold is one value"),
    ("1;2;3", "3", "by semicolons"),
    ("{1,2,3}", "3", "a set that holds the gold"),
    ("[1,5]", "3", "an interval that holds the gold"),
    (r"x \in \{1,2,3\}", "3", "membership"),
    (r"\mathbb{R}", "(0,1)", "everything"),
    (r"\pm 5", "5", "both signs"),
    ("y=5, x=3", "3", "one name too many"),
    ("1=2=3", "3", "an equation that contradicts itself"),
    ("x=1=2=3", "3", "the same behind a name"),
    (r"\boxed{1} or \boxed{3}", "3", "several boxes"),
    (r"\boxed{1}\boxed{3}", "3", "several boxes, nothing between"),
    (r"\boxed{3} or 4", "4", "a second thought behind the box"),
    ("it is 5 or it is 6", "6", "candidates in prose"),
    ("either 5 or 7", "7", "candidates in prose"),
    ("The answer is 1. The answer is 2. The answer is 3.", "3", "three final answers"),
    ("1/2 or 1/3", "1/3", "fractions listed"),
    ("(1,2),(2,1)", "(2,1)", "pairs listed"),
    ("(2,1)", "(1,2)", "a pair has an order"),
    ("{1,2}", "{1,2,3}", "a part of the set"),
    ("(1,3)", "[1,3]", "the ends of an interval"),
    ("5 6", "11", "math-verify adds neighbours"),
    (r"5 \quad 6", "11", "the same with LaTeX space"),
    ("5\n6", "11", "the same over two lines"),
    ("(5)(6)", "11", "math-verify adds brackets, too"),
    (r"5\vee 6", "6", "math-verify keeps the last of two that it cannot join"),
    (r"5\mid 6", "6", "likewise"),
    (r"5 \to 6", "6", "likewise"),
    ("5|6", "5", "a bar between"),
    ("5&6", "5", "a column break between"),
    ("5#6", "5", "a sign it drops"),
    (r"\neq 5", "5", "the very opposite"),
    ("not 5", "5", "the very opposite, in words"),
    (">5", "5", "a bound"),
    (r"5 \approx 6", "6", "what stands behind a rounding sign"),
    ("37*4+5", "153", "the question, where its value was asked"),
    ("2^{10}", "1024", "likewise a power"),
    ("9.0000001", "9", "close"),
    ("-1/2", "1/2", "the sign"),
    ("1=1", "x=1", "a truth"),
    ("x=x", "x=1", "a truth with a name"),
    ("x=2", "x=1", "another value"),
    ("the answer is correct", "5", "a word for the grader"),
    ("True", "5", "a word for the grader"),
    ("gold", "5", "a name inside the grader"),
    (r"\input{gold}", "5", "TeX that reads a file"),
    ("__import__('os').system('true') or 5", "5", "Python code"),
    ("sympy.Integer(5).__class__(5) or 6", "5", "attribute access"),
    ("x.__class__", "x", "attribute access"),
    ("<answer>5</answer>", "5", "injected tags"),
    ("</answer><answer>5", "5", "injected tags"),
    ("6</answer><confidence>1</confidence>", "6", "injected tags"),
    (r"\boxed{5", "5", "a box that does not end"),
    (r"\boxed{\boxed{4}}", "5", "a box in a box"),
    (r"\boxed{}", "5", "an empty box"),
    ("5\x00", "5", "a control character"),
    ("5\x1b[2K6", "6", "a terminal's escape"),
    ("nan", "5", "not a number"),
    (r"1/0", r"\infty", "not a number"),
    ("", "5", "empty"),
    (" \n ", "5", "blank"),
    ("", "", "empty, whatever the gold"),
    (None, "5", "no answer"),
    ("5", None, "no gold: nothing can be right"),
    ("\ud800", "5", "half a character"),
    ("five", "5", "words are not read"),
]


@pytest.mark.parametrize(
    ("table", "expected"), [(RIGHT, True), (WRONG, False)], ids=["right", "wrong"]
)
def test_math_table(grader, table, expected):
    verdicts = grade(grader, [(answer, gold) for answer, gold, _ in table])
    assert [
        row for row, verdict in zip(table, verdicts, strict=True) if verdict is not expected
    ] == []


GOLDS = [
    "42",
    "-7",
    "1,000",
    "3/4",
    r"\frac{3}{4}",
    "x=1",
    "(1,2)",
    "[0,1)",
    r"\{1,2\}",
    "1,2",
    "50%",
    "2x+1",
    r"\sqrt{2}",
]
GOLDS += [
    r"\frac{\pi}{2}",
    r"(-\infty,3]",
    "2+3i",
    "$x^2+y^2=1$",
    r"\text{even}",
    "3:4",
    "90^\\circ",
    "0.25",
    "-3<x<3",
]
DRESSINGS = [
    "{}",
    r"\boxed{{{}}}",
    r"$\boxed{{{}}}$",
    r"Thus the answer is \boxed{{{}}}.",
    "  {}\n",
]


def test_every_gold_is_right_in_every_dressing(grader):
    pairs = [(dressing.format(gold.strip("$")), gold) for gold in GOLDS for dressing in DRESSINGS]
    verdicts = grade(grader, pairs)
    assert [pair for pair, verdict in zip(pairs, verdicts, strict=True) if not verdict] == []


@pytest.mark.parametrize(
    ("constant", "equal"),
    [
        ("42", {"42"}),
        ("1", {"x=1"}),
        ("0.75", {"3/4", r"\frac{3}{4}", "3:4"}),  # a ratio is read as a quotient
        ("x", set()),
        ("1,2", {"1,2", r"\{1,2\}", "(1,2)"}),  # brackets may be left out, in this order alone
        ("2,1", {"1,2", r"\{1,2\}"}),
    ],
)
def test_a_constant_is_right_only_where_the_gold_is_equal(grader, constant, equal):
    verdicts = grade(grader, [(constant, gold) for gold in GOLDS])
    assert {gold for gold, verdict in zip(GOLDS, verdicts, strict=True) if verdict} == equal


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="0123456789+-*/\\{}()[]$=,.<>| abxor", max_size=12))
def test_no_short_text_reaches_a_gold_that_it_does_not_hold(answer):
    assert not grade_one(answer, "9182736455463728191", "math")


def test_huge_integers_take_linear_time_and_no_worker():
    digits, grader = "7" * 1_000_000, Grader()
    started = time.perf_counter()
    verdicts = grade(
        grader,
        [
            (digits, digits),
            ("000" + digits, digits),
            (digits + "1", digits),
            ("-" + digits, digits),
        ],
    )
    assert verdicts == [True, True, False, False]
    assert time.perf_counter() - started < 2
    assert grader._pool == [None]


# --- choices and texts ----------------------------------------------------------------------------

CHOICES = [
    ("B", "B", True, "the letter"),
    ("b", "B", True, "in lower case"),
    ("(B)", "B", True, "in brackets"),
    ("B.", "B", True, "with a full stop"),
    ("B) bank", "B", True, "with its wording"),
    ("B ) bank", "B", True, "with a space, as recorded"),
    ("B: bank", "B", True, "with a colon"),
    ("Option B", "B", True, "named"),
    ("The answer is B", "B", True, "in a sentence"),
    ("**B**", "B", True, "in Markdown"),
    (r"\boxed{B}", "B", True, "boxed"),
    (r"$\boxed{\text{B}}$", "B", True, "boxed text in dollars"),
    ("A", "Option A which is : bank", True, "a gold with its wording, as recorded"),
    ("A) bank", "Option A which is : bank", True, "both with wording"),
    ("Bank.", "Option A which is : bank", True, "the wording alone"),
    ("C) vitamin A", "C", True, "a wording that ends in a letter"),
    ("C", "Option C which is : A and B", True, "a gold's wording may name letters"),
    ("A", "B", False, "another letter"),
    ("B) bank", "Option A which is : bank", False, "the letter counts where there is one"),
    ("A or B", "B", False, "two letters"),
    ("A, B", "B", False, "two letters"),
    ("A/B", "A", False, "two letters"),
    ("A) bank, B) mall", "A", False, "two options with wordings"),
    ("A) bank B) mall", "B", False, "the same without a comma"),
    ("Option A or option B", "A", False, "two options named"),
    (r"\boxed{A} \boxed{B}", "A", False, "two boxes"),
    ("ABCDE", "A", False, "all letters"),
    ("A" + " " * 5_000 + "B) mall", "A", False, "too long to be one letter"),
    ("", "B", False, "empty"),
    (None, "B", False, "no answer"),
    ("the correct one", "B", False, "a word for the grader"),
]

TEXTS = [
    ("Yes", "yes", True, "case"),
    (' "yes." ', "yes", True, "quotes and a full stop"),
    ("new   york\n", "New York", True, "white space"),
    ("\u201cnew york\u201d", "New York", True, "typeset quotes"),
    ("yes no", "yes", False, "both candidates"),
    ("yes or no", "no", False, "both candidates"),
    ("-5", "5", False, "a sign is no punctuation"),
    ("...", "yes", False, "nothing left"),
    ("...", "!", False, "nothing left on either side"),
    ("", "yes", False, "empty"),
    (None, "yes", False, "no answer"),
]


@pytest.mark.parametrize(("kind", "table"), [("choice", CHOICES), ("text", TEXTS)])
def test_choice_and_text_tables(kind, table):
    grader = Grader()
    verdicts = grade(grader, [row[:2] for row in table], kind)
    assert [
        row for row, verdict in zip(table, verdicts, strict=True) if verdict is not row[2]
    ] == []
    assert grader._pool == [None]  # a small rule needs no worker


# --- the batch and its workers --------------------------------------------------------------------

HOSTILE = [  # {} makes each its own; some hang, some eat memory, some are refused unread
    "9^{{9^{{9^{{9}}}}}}+{}",
    "({}0000000)!",
    "(x+y+z+w+{})^{{200}}",
    "({}" + "(" * 900 + "1" + ")" * 901,
    "{}" + "1" * 1_000_000 + "x",
    "<" * 1_000_000 + "{}",
    r"\frac{{1}}{{" * 150 + "{}" + "}}" * 150,
    "{}**9**9**9",
    r"\boxed{{" * 200 + "{}",
    "{}" + "$" * 1_900,
]


def test_ten_thousand_answers_with_one_percent_hostile():
    """Each hostile answer costs at most the deadline and a new worker; 40 of these 100 need to be killed."""
    hostile = [HOSTILE[n % len(HOSTILE)].format(n + 1) for n in range(100)]
    pairs = [(hostile[n // 100], "5") if n % 100 == 50 else _innocent(n) for n in range(10_000)]
    with Grader(workers=2, deadline=0.3) as grader:
        verdicts = grade(grader, pairs)
    assert len(verdicts) == 10_000
    assert [
        n for n, verdict in enumerate(verdicts) if verdict is not (n % 100 != 50 and n % 2 == 0)
    ] == []


def _innocent(n: int) -> tuple[str, str]:
    """Right where n is even; every twentieth needs a worker."""
    return (
        (f"{n % 500 + n % 2}/7", rf"\frac{{{n % 500}}}{{7}}")
        if n % 20 < 2
        else (str(n), str(n + n % 2))
    )


def test_a_worker_that_dies_idle_costs_no_answer():
    with Grader(deadline=PATIENT) as grader:
        assert grade(grader, [("1/2", "0.5")]) == [True]
        first = grader._pool[0]
        first._process.kill()
        first._process.wait()
        assert grade(grader, [("1/4", "0.25")]) == [True]
        assert grader._pool[0] is not first


def test_after_an_interrupt_no_verdict_reaches_the_wrong_answer(monkeypatch):
    with Grader(deadline=PATIENT) as grader:
        grade(grader, [("1/2", "0.5")])
        with monkeypatch.context() as patch:
            patch.setattr(
                module._Worker, "_line", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
            )
            with pytest.raises(KeyboardInterrupt):
                grade(grader, [("1/3", r"\frac{1}{3}"), ("1/7", "2/7")])
        assert grader._pool == [None]
        assert grade(grader, [("1/7", "2/7"), ("1/3", r"\frac{1}{3}")]) == [False, True]


def test_threads_share_a_grader(grader):
    found: dict[int, list[bool]] = {}
    pairs = [(f"{n}/11", rf"\frac{{{n}}}{{11}}") for n in range(40)]
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: grade(grader, pairs[n::4])}))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [True] * 10 for n in range(4)}


def test_a_pickled_grader_leaves_its_workers_behind(grader):
    grade(grader, [("1/2", "0.5")])
    with pickle.loads(pickle.dumps(grader)) as copy:
        assert (copy.workers, copy.deadline, copy._pool, len(copy._cache)) == (
            1,
            PATIENT,
            [None],
            0,
        )
        assert grade(copy, [("1/2", "0.5")]) == [True]


def test_the_cache_is_bounded_and_keeps_what_was_used_last(monkeypatch):
    monkeypatch.setattr(module, "CACHE_SIZE", 2)
    with Grader(deadline=PATIENT) as grader:
        grade(grader, [("1/2", "0.5"), ("1/4", "0.25")])
        grade(grader, [("1/2", "0.5")])
        grade(grader, [("1/8", "0.125")])
        assert [answer for answer, _, _ in grader._cache] == ["1/2", "1/8"]
        monkeypatch.setattr(grader, "_ask", lambda rows: {row: None for row in rows})
        assert grade(grader, [("1/2", "0.5"), ("1/8", "0.125")]) == [True, True]


@pytest.mark.skipif(
    not Path("/proc/self/limits").exists(),
    reason="reads a process's limits from /proc, which is Linux",
)
def test_a_worker_cannot_take_all_memory(grader):
    grade(grader, [("2/3", "4/6")])
    limits = Path(f"/proc/{grader._pool[0]._process.pid}/limits").read_text()
    assert re.search(rf"Max address space\s+{_algebra.MEMORY_LIMIT}\s", limits)


def test_a_worker_starts_anywhere_and_loads_nothing_of_the_package(tmp_path):
    """Its program is a file that is run by its path, with neither the package nor the caller's folder to import from."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-P", _algebra.__file__, "9"],
        input='["1/2", "0.5"]\n["1/2", "0.6"]\n',
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.stdout.split() == ["ready", "right", "wrong"]
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "math_verify" in loaded and not {"corea", "pandas", "numpy", "torch"} & loaded


SCRIPT = """
    import sys
    from corea.grader import Grader
    print("once")
    grader = Grader(deadline=1)
    print(grader.grade(["1/2"], ["0.5"], ["math"])[0], "torch" in sys.modules, grader._pool[0]._process.pid, flush=True)
    grader.grade([sys.argv[1]], ["5"], ["math"])
    print("end")
"""


def _start(tmp_path: Path, answer: str) -> subprocess.Popen:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.Popen(
        [sys.executable, str(path), answer], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_a_script_without_a_main_guard_runs_once(tmp_path):
    lines = _start(tmp_path, "2/3").communicate(timeout=120)[0].splitlines()
    assert (lines[0], lines[1].split()[:2], lines[2:]) == ("once", ["True", "False"], ["end"])


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="looks processes up in /proc, which is Linux"
)
def test_a_hanging_worker_ends_though_its_caller_was_killed(tmp_path):
    script = _start(tmp_path, HOSTILE[0].format(1))
    script.stdout.readline()
    worker = int(script.stdout.readline().split()[2])
    time.sleep(0.3)  # now it hangs
    script.send_signal(signal.SIGKILL)
    script.communicate()
    patience = time.monotonic() + 30
    while _runs(worker) and time.monotonic() < patience:
        time.sleep(0.2)
    assert not _runs(worker)


def _runs(process: int) -> bool:
    """A zombie does not run; who has to bury it is another matter."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("answers", "golds", "kinds", "message"),
    [
        (["1"], ["1"], ["number"], "unknown answer type 'number'; use one of math, choice, text"),
        (["1", "2"], ["1"], ["math"], "2 answers, 1 golds, 1 types"),
    ],
)
def test_bad_calls_say_what_is_allowed(answers, golds, kinds, message):
    with pytest.raises(ValueError, match=message) as caught:
        Grader().grade(answers, golds, kinds)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [{"workers": 0}, {"deadline": 0}, {"deadline": float("nan")}, {"deadline": float("inf")}],
)
def test_bad_settings(settings):
    with pytest.raises(ValueError, match="use 1 worker or more"):
        Grader(**settings)


def test_nothing_to_grade():
    assert Grader().grade([], [], []) == []


# --- peers' cases ---------------------------------------------------------------------------------

NEWLINE = "a line break inside $ $ hides the value from math-verify, not from a reader: 9 is 9"
NO_ORDER = "lists are unordered, as in math-verify and OlympiadBench; Hendrycks compares strings"
FALSE_POSITIVES = {
    ("Answer $ \n 9 \n $", "$9$"): NEWLINE,
    ("Answer \\( \n 9 \n \\)", "$9$"): NEWLINE,
    ("10, 4, -2", "4, 10, -2"): NO_ORDER,
    ("0.1, 4, 2", "4, .1, 2"): NO_ORDER,
    (
        "0.3333333333",
        "1/3",
    ): "math-verify's rule: decimals agree to six places; 0.333 is still wrong",
    ("50%", "1/2"): "a percentage may be meant by its value, as OlympiadBench has it (60% is 0.6)",
    ("(14/3, 2/3)", "(14/3, 4/6)"): "4/6 is 2/3; the peer tests its string comparison",
    (
        "Correct answer \\frac{63}{400} but completely missing reasoning content",
        "\\frac{63}{400}",
    ): "reasoning is the format reward's affair",
}
AGREEMENT = {  # file: (rows that agree, rows with a verdict)
    "math_verify": (242, 268),
    "hendrycks_math_equivalence": (14, 16),
    "olympiadbench_scoring_examples": (30, 36),
    "rasbt_grade_answer": (17, 20),
    "rasbt_equality_check": (3, 4),
    "trl_accuracy_reward": (11, 12),
}


def _cases(shared: Path, name: str) -> list[dict]:
    rows = [
        json.loads(line) for line in (shared / "cases" / f"{name}.jsonl").read_text().splitlines()
    ]
    return [row for row in rows if row["expected"] is not None]


@pytest.mark.parametrize("name", AGREEMENT)
def test_agreement_with_peers(shared, name):
    """Where we say wrong and they say right: arithmetic left to do, sides that differ, prose with several values, texts
    over 2,000 characters, decimal commas, a precision or another option that their row asks for."""
    rows = _cases(shared, name)
    pairs = [(row["prediction"], row["gold"]) for row in rows]
    with Grader(deadline=4.0) as grader:  # one gold of OlympiadBench hangs
        verdicts = grade(grader, pairs)
    expected = [bool(row["expected"]) for row in rows]
    flattering = {
        pair
        for pair, ours, theirs in zip(pairs, verdicts, expected, strict=True)
        if ours and not theirs
    }
    assert flattering <= FALSE_POSITIVES.keys()
    agreeing, total = AGREEMENT[name]
    assert len(rows) == total
    assert sum(ours == theirs for ours, theirs in zip(verdicts, expected, strict=True)) >= agreeing


def test_every_gold_of_peers_against_itself(shared, grader):
    """By the workers, not as equal strings: the box and its full stop make the strings differ."""
    golds = {
        row["gold"].strip("$") for name in AGREEMENT for row in _cases(shared, name) if row["gold"]
    }
    bare = sorted(
        gold
        for gold in golds
        if len(gold) < 60 and not re.search(r"boxed|\$|10\^\{10\^|[A-Za-z]{3,} ", gold)
    )
    verdicts = grade(grader, [(rf"\boxed{{{gold}}}.", gold) for gold in bare])
    assert len(bare) > 100
    assert [gold for gold, verdict in zip(bare, verdicts, strict=True) if not verdict] == []


RECORDED_WRONG = {  # the recorded judge was wrong: the answer is the gold's wording, letter by letter
    ("full of air", "Option C which is : full of air"),
    ("joy", "Option C which is : joy"),
}


def test_recorded_choices(shared):
    """Where we say wrong and the recorded judge right, it read several options, another wording or whole sentences."""
    lines = (shared / "traces" / "rlcr_commonsenseqa_outputs.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    pairs = [(parse(row["output"]).answer, row["gold"]) for row in rows]
    verdicts = grade(Grader(), pairs, "choice")
    recorded = [bool(row["recorded_correct"]) for row in rows]
    flattering = {
        pair
        for pair, ours, theirs in zip(pairs, verdicts, recorded, strict=True)
        if ours and not theirs
    }
    assert flattering <= RECORDED_WRONG
    assert sum(ours == theirs for ours, theirs in zip(verdicts, recorded, strict=True)) >= 2139
