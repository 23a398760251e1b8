"""The paper's sets: small files of the hub's own columns with made-up content, read by `datasets` itself without a network."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections import Counter
from types import SimpleNamespace

import datasets
import huggingface_hub.constants
import numpy as np
import pandas as pd
import pytest
from huggingface_hub.errors import GatedRepoError

from corea.grader import Grader
from corea.questions import base, hub
from corea.questions.load import load_questions

NAMES = base.test_datasets("paper")


def deepmath_row(question, answer="7", difficulty=5.5, topic="Mathematics -> Algebra -> Equations"):
    solutions = {f"r1_solution_{n}": f"a long way {n}" for n in (1, 2, 3)}
    return {
        "question": question,
        "final_answer": answer,
        "difficulty": difficulty,
        "topic": topic,
        **solutions,
    }


def math500_row(problem, answer="12", subject="Geometry", level=4):
    names = {"unique_id": f"test/{problem}.json", "subject": subject, "level": level}
    return {"problem": problem, "solution": "so", "answer": answer, **names}


def gsm8k_row(question, answer="2 + 40 = <<2+40=42>>42\n#### 42"):
    return {"question": question, "answer": answer}


def olympiad_row(question, answers=("$5$",), context=None, kind="Numerical", subfield="Algebra"):
    return {
        "id": len(question), "question": question, "solution": ["so"],
        "final_answer": answers if answers is None else list(answers), "context": context,
        "image_1": None, "modality": "Text-only", "difficulty": "Competition",
        "is_multiple_answer": bool(answers and len(answers) > 1), "unit": None, "answer_type": kind, "error": None,
        "question_type": "Open-ended", "subfield": subfield, "subject": "Math", "language": "English",
    }  # fmt: skip


def gpqa_row(question, right="iron", wrong=("gold", "lead", "zinc"), domain="Chemistry"):
    others = {f"Incorrect Answer {n}": option for n, option in enumerate(wrong, start=1)}
    names = {"Record ID": f"rec{question}", "High-level domain": domain, "Subdomain": "x"}
    return {"Question": question, "Correct Answer": right, **others, **names}


def commonsense_row(question, key="C", options=("sky", "sea", "land", "moon", "sun")):
    choices = {"label": list("ABCDE"), "text": list(options)}
    return {
        "id": f"id-{question}",
        "question": question,
        "question_concept": "place",
        "choices": choices,
        "answerKey": key,
    }


ROWS = {
    "deepmath": [
        deepmath_row(f"Find $x$ if $x + {n} = {n + 7}$.", str(n % 19)) for n in range(300)
    ],
    "math500": [math500_row(f"What is $3 \\cdot {n}$?", str(3 * n)) for n in range(12)],
    "gsm8k": [
        gsm8k_row(f"Ann has {n} pears and buys 2.", f"{n}+2\n#### {n + 2}") for n in range(12)
    ],
    "olympiadbench": [
        olympiad_row(f"Determine all $k$ with $k^2 = {n * n}$.", [f"${n}$", f"$-{n}$"])
        for n in range(1, 13)
    ],
    "gpqa": [gpqa_row(f"Which metal is number {n}?", f"metal {n}") for n in range(40)],
    "commonsenseqa": [commonsense_row(f"Where is thing {n}?", "ABCDE"[n % 5]) for n in range(15)],
}


def save(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        path.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """No network, no cache and no checkout but those of the test."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(hub, "ROOT", tmp_path / "checkout")
    monkeypatch.delenv("COREA_HUB", raising=False)
    datasets.disable_progress_bars()
    yield
    hub._read.cache_clear()


@pytest.fixture
def lay(tmp_path, monkeypatch):
    """Lay rows of a set down where it is looked for, and expect as many."""

    def write(name, rows, file=None):
        entry = hub.SETS[name]
        monkeypatch.setitem(hub.SETS, name, dataclasses.replace(entry, rows=len(rows)))
        save(
            tmp_path / "checkout" / "data" / "hub" / name / (file or entry.files.replace("*", "0")),
            rows,
        )

    return write


@pytest.fixture
def all_sets(lay):
    for name, rows in ROWS.items():
        lay(name, rows)


# --- the table of sets ---


def test_every_set_of_the_paper_is_pinned_and_grouped():
    assert set(hub.SETS) == set(NAMES)
    for name, entry in hub.SETS.items():
        assert entry.name == name and re.fullmatch("[0-9a-f]{40}", entry.revision), name
    assert {base.group_of(name) for name in hub.SETS} == set(base.SUITES["paper"])
    rows = {name: entry.rows for name, entry in hub.SETS.items()}
    assert rows == {
        "deepmath": 103_022,
        "math500": 500,
        "gsm8k": 1319,
        "olympiadbench": 674,
        "gpqa": 198,
        "commonsenseqa": 1221,
    }


# --- rows become questions ---

EXPECTED = {
    "deepmath": ("Find $x$ if", "math", {6}, {"Algebra"}),
    "math500": ("What is $3", "math", {4}, {"Geometry"}),
    "gsm8k": ("Ann has", "math", {1}, {"gsm8k"}),
    "olympiadbench": ("Determine all", "math", {1}, {"Algebra"}),
    "gpqa": ("Which metal", "choice", {1}, {"Chemistry"}),
    "commonsenseqa": ("Where is", "choice", {1}, {"commonsenseqa"}),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_the_hubs_columns_is_read(lay, name):
    lay(name, ROWS[name])
    start, kind, levels, families = EXPECTED[name]
    questions, others = load_questions(name, "test"), 0
    if name == "deepmath":
        others = len(load_questions(name, "train")) + len(load_questions(name, "calibration"))
    assert others + len(questions) == len(ROWS[name])
    assert all(
        q.dataset == name and q.text.startswith(start) and q.answer_type == kind for q in questions
    )
    assert {q.level for q in questions} == levels and {q.family for q in questions} == families
    assert len({q.id for q in questions}) == len(questions) > 9
    assert all(re.fullmatch(rf"{name}/test/\d{{5}}", q.id) for q in questions)
    np.asarray([q.level for q in questions], dtype=np.int16)


def test_gold_against_gold_is_right_and_a_constant_answer_is_not(all_sets):
    questions = [q for name in NAMES for q in load_questions(name, "test")]
    golds, types = [q.gold for q in questions], [q.answer_type for q in questions]
    with Grader() as grader:
        assert all(grader.grade(golds, golds, types))
        for constant in ("31415", "F", "iron", "", None):
            assert not any(grader.grade([constant] * len(golds), golds, types)), constant


@pytest.mark.parametrize("dressed", ["{0}", "({0})", "{0}) foo", "Option {0}", "\\boxed{{{0}}}"])
def test_the_grader_takes_a_letter_in_its_usual_dress(all_sets, dressed):
    questions = [
        *load_questions("gpqa", "test", size=2),
        *load_questions("commonsenseqa", "test", size=2),
    ]
    with Grader() as grader:
        assert all(
            grader.grade(
                [dressed.format(q.gold) for q in questions],
                [q.gold for q in questions],
                ["choice"] * 4,
            )
        )


ODD = [
    ("deepmath", deepmath_row("q", None), "no answer"),
    ("deepmath", deepmath_row("q", "  "), "no answer"),
    ("deepmath", deepmath_row("  "), "no question"),
    ("deepmath", deepmath_row("q", "\\frac{1}{2} "), "\\frac{1}{2}"),
    ("math500", math500_row("q", ""), "no answer"),
    ("math500", math500_row("Wie groß ist ∠ABC?", "90^\\circ"), "90^\\circ"),
    ("gsm8k", gsm8k_row("q", "so\n#### 1,234,000"), "1234000"),
    ("gsm8k", gsm8k_row("q", "so\n#### -5"), "-5"),
    ("gsm8k", gsm8k_row("q", "#### 1 was wrong\n#### 2"), "2"),
    ("gsm8k", gsm8k_row("q", "the answer is 42"), "no answer"),
    ("gsm8k", gsm8k_row("q", "so\n####"), "no answer"),
    ("gsm8k", gsm8k_row("q", None), "no answer"),
    ("olympiadbench", olympiad_row("q", None), "no answer"),
    ("olympiadbench", olympiad_row("q", []), "no answer"),
    ("olympiadbench", olympiad_row("q", [" "]), "no answer"),
    ("olympiadbench", olympiad_row("q", ["$(1,8,19), (2,7,13)$"]), "$(1,8,19), (2,7,13)$"),
    ("olympiadbench", olympiad_row("q", ["$\\frac{1}{2}$", "$2$"]), "$\\frac{1}{2}$, $2$"),
    ("olympiadbench", olympiad_row("q", ["a proof"], kind="Need_human_evaluate"), "only a human can grade it"),
    ("gpqa", gpqa_row("q", wrong=("gold", None, "zinc")), "an option is empty"),
    ("gpqa", gpqa_row("q", right=None), "an option is empty"),
    ("commonsenseqa", commonsense_row("q", ""), "no answer"),
    ("commonsenseqa", commonsense_row("q", "F"), "no answer"),
    ("commonsenseqa", commonsense_row("q", options=("a", "", "c", "d", "e")), "an option is empty"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row", "outcome"), ODD, ids=[f"{name}-{n}" for n, (name, *_) in enumerate(ODD)]
)
def test_odd_rows_give_their_gold_or_are_left_out_and_counted(lay, name, row, outcome):
    lay(name, [*ROWS[name][:3], row], file="odd.parquet")
    asked = [q for questions in hub.read(name).questions.values() for q in questions]
    if len(asked) == 3:
        assert hub.read(name).dropped == {outcome: 1}
    else:
        assert max(asked, key=lambda q: q.id.rsplit("/")[-1]).gold == outcome
        assert not hub.read(name).dropped


@pytest.mark.parametrize(
    ("difficulty", "level"),
    [(-1.0, 1), (0.0, 1), (1.0, 1), (4.4, 4), (4.5, 5), (5.5, 6), (10.0, 10), (None, 1)],
)
def test_levels_are_rounded_half_up_and_at_least_one(difficulty, level):
    """Python's own round takes 4.5 to 4."""
    assert hub.SETS["deepmath"].question(deepmath_row("q", difficulty=difficulty)).level == level


@pytest.mark.parametrize(
    ("topic", "family"),
    [
        ("Mathematics -> Calculus -> Limits", "Calculus"),
        ("Mathematics", "Mathematics"),
        (None, "deepmath"),
        ("", "deepmath"),
    ],
)
def test_a_family_is_the_second_topic(lay, topic, family):
    lay("deepmath", [deepmath_row("q", topic=topic), deepmath_row("other")])
    asked = [q for questions in hub.read("deepmath").questions.values() for q in questions]
    assert {q.text: q.family for q in asked}["q"] == family


def test_a_context_comes_before_its_question(lay):
    lay("olympiadbench", [olympiad_row("Find $T$.", context="Let $T = 7$.")])
    assert load_questions("olympiadbench", "test")[0].text == "Let $T = 7$.\n\nFind $T$."


@pytest.mark.parametrize("multiple", ["$-3$, $3$", "3, -3", "\\pm 3"])
def test_all_of_several_answers_are_wanted_in_any_order(all_sets, multiple):
    question = next(q for q in load_questions("olympiadbench", "test") if q.gold == "$3$, $-3$")
    with Grader() as grader:
        assert grader.grade([multiple, "3"], [question.gold] * 2, ["math"] * 2) == [True, False]


# --- options ---


def test_options_stand_one_a_line_and_the_gold_letter_names_the_right_one(all_sets):
    for name in ("gpqa", "commonsenseqa"):
        for question in load_questions(name, "test"):
            assert question.answer_type == "choice"
            options = dict(re.findall(r"^([A-E])\) (.+)$", question.text, re.MULTILINE))
            number = int(re.search(r"\d+", question.text)[0])
            assert list(options) == list("ABCD" if name == "gpqa" else "ABCDE")
            right = (
                f"metal {number}"
                if name == "gpqa"
                else ("sky", "sea", "land", "moon", "sun")[number % 5]
            )
            assert options[question.gold] == right


def test_the_right_option_stands_everywhere_and_always_at_the_same_place(all_sets):
    golds = Counter(q.gold for q in load_questions("gpqa", "test"))
    assert set(golds) == set("ABCD") and max(golds.values()) < 25, (
        "40 questions: never one place for nearly all"
    )
    row = gpqa_row("q")
    moved = {
        **row,
        "Incorrect Answer 1": row["Incorrect Answer 3"],
        "Incorrect Answer 3": row["Incorrect Answer 1"],
    }
    question = hub.SETS["gpqa"].question
    assert question(row) == question(row) == question(moved), (
        "nor does the order of the columns play a part"
    )


def test_an_option_of_several_lines_takes_one(lay):
    lay("gpqa", [gpqa_row("q", right="iron\n and  steel")])
    assert re.search(
        r"^[A-D]\) iron and steel$", load_questions("gpqa", "test")[0].text, re.MULTILINE
    )


# --- draws ---


def test_splits_share_no_question_and_take_their_shares(lay):
    lay("deepmath", [deepmath_row(f"Find the root of {n}.") for n in range(2000)])
    parts = hub.read("deepmath").questions
    texts = {split: {q.text for q in questions} for split, questions in parts.items()}
    assert sum(map(len, texts.values())) == len(set().union(*texts.values())) == 2000
    assert 0.77 < len(texts["train"]) / 2000 < 0.83 and 0.09 < len(texts["test"]) / 2000 < 0.15


def test_the_order_of_rows_plays_no_part(lay, tmp_path):
    lay("deepmath", ROWS["deepmath"])
    before = {
        s: [q.text for q in load_questions("deepmath", s, size=10, seed=4)]
        for s in ("train", "calibration", "test")
    }
    hub._read.cache_clear()
    lay("deepmath", random.Random(0).sample(ROWS["deepmath"], k=300))
    assert before == {
        s: [q.text for q in load_questions("deepmath", s, size=10, seed=4)] for s in before
    }


@pytest.mark.parametrize(
    ("name", "split"), [("gsm8k", "test"), ("deepmath", "train"), ("deepmath", "calibration")]
)
def test_a_draw_is_settled_by_its_seed_and_a_smaller_one_begins_a_larger(all_sets, name, split):
    def draw(size, seed=0):
        return load_questions(name, split, size=size, seed=seed)

    assert draw(10) == draw(10) and draw(10)[:4] == draw(4) and draw(10) != draw(10, seed=1)
    assert {q.id for q in draw(None)} == {q.id for q in draw(None, seed=1)} and draw(0) == []


def test_more_than_there_are_is_refused(all_sets):
    with pytest.raises(
        ValueError, match=r"^gsm8k/test holds 12 different questions of the 13 asked for$"
    ):
        load_questions("gsm8k", "test", size=13)
    with pytest.raises(
        ValueError, match=r"^deepmath/train holds \d+ different questions of the 16000 asked for$"
    ):
        load_questions("deepmath", "train", size=16_000)
    with pytest.raises(ValueError, match=r"of the -1 asked for$"):
        load_questions("gsm8k", "test", size=-1)


# --- overlap ---

SAME = [
    ("What is $x+1$?", "what is x + 1?"),
    ("What is $x+1$?", "What  is\n\\(x\\,+\\;1\\)?"),
    ("\\left(1,2\\right)", "(1,\\quad 2)"),
    ("a~b\\ c", "A b c"),
]
OTHER = [
    ("What is $x+1$?", "What is $x-1$?"),
    ("\\leftarrow", "arrow"),
    ("\\quadratic", "ratic"),
    ("x_1", "x^1"),
    ("2.5", "25"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_texts_that_look_alike_are_one(one, other):
    assert hub.normalised(one) == hub.normalised(other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_texts_that_mean_different_things_are_two(one, other):
    assert hub.normalised(one) != hub.normalised(other)


def test_a_repeated_question_is_asked_once_and_counted(lay):
    lay(
        "gsm8k",
        [
            gsm8k_row("How many?", "#### 1"),
            gsm8k_row("how  many?", "#### 2"),
            gsm8k_row("How few?"),
        ],
    )
    assert {q.gold for q in load_questions("gsm8k", "test")} == {"1", "42"}
    assert hub.read("gsm8k").dropped == {"a repeated question": 1}


def test_one_question_with_other_options_is_another(lay):
    lay(
        "commonsenseqa",
        [commonsense_row("Where?"), commonsense_row("Where?", options=("a", "b", "c", "d", "e"))],
    )
    assert len(load_questions("commonsenseqa", "test")) == 2


@pytest.fixture
def leaked(all_sets, lay):
    """DeepMath with a question of each other set in another spelling, in training or calibration as its hash will have it."""
    stems = {
        "math500": [f"what is $ 3\\cdot {n} $ ?" for n in range(12)],
        "gsm8k": [f"ANN has {n} pears and buys 2." for n in range(12)],
        "olympiadbench": [f"Determine all \\(k\\) with \\(k^2={n * n}\\)." for n in range(1, 13)],
        "gpqa": [f"Which metal is\nnumber {n}?" for n in range(40)],
        "commonsenseqa": [f"Where is  thing {n}?" for n in range(15)],
    }
    lay(
        "deepmath",
        [*ROWS["deepmath"], *(deepmath_row(text) for texts in stems.values() for text in texts)],
    )
    return {
        name: Counter(base.split_of(hub.normalised(t)) for t in texts)
        for name, texts in stems.items()
    }


@pytest.mark.parametrize("split", ["train", "calibration"])
def test_what_a_test_set_asks_is_left_out_of_training_and_counted(leaked, split):
    questions = load_questions("deepmath", split)
    assert len(questions) > 9 and all(q.text.startswith("Find $x$") for q in questions)
    splits = {"train": ("pretrain", "train"), "calibration": ("calibration",)}[split]
    dropped = sum(count[part] for count in leaked.values() for part in splits)
    assert dropped > 0
    assert len(questions) + dropped == len(hub.read("deepmath").questions[split])


def test_test_questions_are_left_as_they_are(leaked):
    asked = [q.text for q in load_questions("deepmath", "test")]
    assert any(not text.startswith("Find $x$") for text in asked)


def test_a_test_set_that_is_missing_is_said_and_not_passed_over(
    leaked, capsys, monkeypatch, tmp_path
):
    (tmp_path / "checkout" / "data" / "hub" / "gpqa").rename(tmp_path / "elsewhere")
    load_questions("deepmath", "train", size=20)
    out = capsys.readouterr().out
    assert (
        out.startswith("deepmath/train was not compared with gpqa: gpqa: cannot load")
        and out.count("\n") == 1
    )


# --- what goes wrong ---


def one_line(caught) -> str:
    message = str(caught.value)
    assert "\n" not in message and isinstance(caught.value, ValueError)
    return message


def test_another_number_of_rows_is_refused(all_sets, monkeypatch):
    monkeypatch.setitem(hub.SETS, "gsm8k", dataclasses.replace(hub.SETS["gsm8k"], rows=1319))
    says = r"^gsm8k: .*hub/gsm8k.* holds 12 rows; the pinned revision cc7b047\w+ has 1319$"
    with pytest.raises(hub.HubSetError, match=says) as caught:
        load_questions("gsm8k", "test")
    one_line(caught)


def test_a_missing_column_is_named_beside_those_found(lay):
    lay("gsm8k", [{"question": "q", "solution": "#### 1"}])
    says = r"^gsm8k: .* has no column 'answer'; its columns are question, solution$"
    with pytest.raises(hub.HubSetError, match=says) as caught:
        load_questions("gsm8k", "test")
    one_line(caught)


def test_a_broken_file_is_one_line(lay, tmp_path):
    lay("gsm8k", ROWS["gsm8k"])
    next((tmp_path / "checkout").rglob("*.parquet")).write_bytes(b"no parquet\nat all")
    with pytest.raises(hub.HubSetError, match=r"^gsm8k: cannot load .*\.parquet") as caught:
        load_questions("gsm8k", "test")
    one_line(caught)


def test_files_of_two_formats_are_refused(lay):
    lay("gsm8k", ROWS["gsm8k"], file="a.parquet")
    lay("gsm8k", ROWS["gsm8k"], file="b.jsonl")
    with pytest.raises(
        hub.HubSetError, match=r"^gsm8k: cannot load .*a\.parquet and its neighbours"
    ):
        load_questions("gsm8k", "test")


def test_a_whole_repository_may_lie_there_and_only_the_split_is_read(lay, tmp_path):
    lay("gsm8k", ROWS["gsm8k"])
    save(
        tmp_path / "checkout/data/hub/gsm8k/main/train-0.parquet",
        [gsm8k_row("a training question")],
    )
    assert len(load_questions("gsm8k", "test")) == 12


@pytest.mark.parametrize("file", ["mine.parquet", "mine.jsonl", "mine.csv"])
def test_any_format_will_do_and_the_named_folder_comes_first(all_sets, tmp_path, monkeypatch, file):
    save(tmp_path / "downloads" / "gsm8k" / file, [gsm8k_row(f"mine {n}") for n in range(12)])
    monkeypatch.setenv("COREA_HUB", str(tmp_path / "downloads"))
    assert all(
        q.text.startswith("mine") and q.gold == "42" for q in load_questions("gsm8k", "test")
    )
    assert len(load_questions("math500", "test")) == 12, (
        "what is not there is looked for in the checkout"
    )


@pytest.mark.parametrize("name", NAMES)
def test_without_network_and_files_the_message_says_what_to_fetch_and_where_to(name, tmp_path):
    entry = hub.SETS[name]
    with pytest.raises(hub.HubSetError) as caught:
        load_questions(name, "test")
    message = one_line(caught)
    for part in (
        f"{name}: cannot load {entry.hub_id} (config {entry.config}, split {entry.split}, revision {entry.revision})",
        "HF_HUB_OFFLINE=0 make",
        f"hf download {entry.hub_id} --repo-type dataset --revision {entry.revision} --include \"{entry.files}\" "
        f"--local-dir {tmp_path}/checkout/data/hub/{name}",
    ):  # fmt: skip
        assert part in message
    assert ("gated" in message) == entry.gated


def refusal(*, from_hub: bool, text: str):
    error = datasets.exceptions.DatasetNotFoundError(text)
    if from_hub:
        error.__cause__ = GatedRepoError(
            "403", response=SimpleNamespace(headers={}, status_code=403, request=None)
        )
    return error


@pytest.mark.parametrize(
    "error",
    [
        refusal(
            from_hub=True,
            text="Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub.\nVisit the page",
        ),
        refusal(from_hub=False, text="Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub."),
        refusal(
            from_hub=False,
            text="Dataset 'Idavidrein/gpqa' doesn't exist on the Hub or cannot be accessed.",
        ),
        refusal(from_hub=True, text="something new"),
    ],
)
def test_a_gated_set_says_how_to_get_in(monkeypatch, error):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(
        hub.HubSetError, match=r"^gpqa: cannot load Idavidrein/gpqa .* it is gated"
    ) as caught:
        load_questions("gpqa", "test")
    message = one_line(caught)
    for part in (
        "https://huggingface.co/datasets/Idavidrein/gpqa",
        "`hf auth login`",
        "HF_TOKEN",
        "`HF_HUB_OFFLINE=0 make ...`",
    ):
        assert part in message


@pytest.mark.parametrize(
    "error",
    [
        refusal(
            from_hub=False,
            text="Revision 'cc7b' doesn't exist for dataset 'openai/gsm8k' on the Hub.",
        ),
        refusal(
            from_hub=False,
            text="Dataset 'openai/gsm8k' doesn't exist on the Hub or cannot be accessed.",
        ),
        ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub\n(LocalEntryNotFoundError)"),
        ValueError("BuilderConfig 'main' not found"),
    ],
)
def test_other_trouble_with_the_hub_keeps_its_reason(monkeypatch, error):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(
        hub.HubSetError, match=rf"^gsm8k: cannot load .*{type(error).__name__}: {str(error)[:15]}"
    ) as caught:
        load_questions("gsm8k", "test")
    one_line(caught)
    assert caught.value.__cause__ is error


def test_the_pinned_revision_is_what_is_asked_of_the_hub(monkeypatch):
    asked = []
    table = datasets.Dataset.from_list(ROWS["gsm8k"])
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *names, **options: asked.append((names, options)) or table
    )
    monkeypatch.setitem(hub.SETS, "gsm8k", dataclasses.replace(hub.SETS["gsm8k"], rows=12))
    assert load_questions("gsm8k", "test", size=3) == load_questions("gsm8k", "test", size=5)[:3]
    assert asked == [
        (("openai/gsm8k", "main"), {"split": "test", "revision": hub.SETS["gsm8k"].revision})
    ], "and once"


def test_another_revision_in_the_cache_is_not_taken_for_the_pinned_one(monkeypatch, tmp_path):
    """Without a network `datasets` takes the last revision that it has cached, whichever was asked for."""
    cached = tmp_path / "cache" / "openai___gsm8k" / "main" / "0.0.0"
    for revision in ("f" * 40, hub.SETS["gsm8k"].revision):
        table = SimpleNamespace(
            cache_files=[{"filename": str(cached / revision / "gsm8k-test.arrow")}]
        )
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, table=table, **__: table)
        if revision[0] == "f":
            with pytest.raises(
                hub.HubSetError,
                match=rf"^gsm8k: the cache holds revision {'f' * 40} of openai/gsm8k; allow",
            ):
                hub._load(hub.SETS["gsm8k"], ())
        else:
            assert hub._load(hub.SETS["gsm8k"], ()) is table
