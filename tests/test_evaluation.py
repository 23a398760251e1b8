"""From questions to records: judged once, a user's own data with and without answers, and metrics of a file."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from corea import evaluation, metrics
from corea.analysis import systems
from corea.engines.base import Completion
from corea.engines.recorded import Recorded
from corea.evaluation import are_kept, evaluate, judge, measure
from corea.grader import Grader
from corea.paper import runs
from corea.paper.profiles import load_profile
from corea.prompts import response_text
from corea.questions import generated
from corea.questions.base import Question, content_id
from corea.questions.generated import Sketch
from corea.records import SCHEMA, RecordsError, read_records, write_records


class Constant:
    """An engine that always says the same."""

    def __init__(self, name: str = "small", text: str = response_text("", "4", "0.9")):
        self.name, self.text = name, text

    def complete(self, questions, *, samples=1, seed=0, progress=None):
        return [[Completion(self.text, 5, 7, "stop")] * samples for _ in questions]


def test_a_judgement_is_the_response_and_whether_it_is_right():
    questions = [Question("2+2=?", "4"), Question("2+3=?", "5"), Question("Who?")]
    texts = [response_text("", "4.0", "0.9"), response_text("", "4", "0.9"), "no tags"]
    with Grader() as grader:
        judged = judge(texts, questions, grader)
    assert [j.correct for j in judged] == [True, False, None]
    assert [j.response.answer for j in judged] == ["4.0", "4", None]


def test_a_question_needs_its_text_alone():
    question = Question("2+2")
    assert (question.gold, question.answer_type, question.dataset) == (None, "math", "own")
    assert question.id == content_id("2+2") == Question("2+2", "4").id and len(question.id) == 12
    with pytest.raises(ValueError, match="answer_type 'essay' is not one of math, choice, text"):
        Question("2+2", "4", "essay")


def test_the_hashed_fields_are_the_seven_that_runs_are_found_by():
    assert Question("1+1", "2", id="x").hashed() == {
        "id": "x", "dataset": "own", "family": "own", "level": 1, "text": "1+1", "gold": "2", "answer_type": "math",
    }  # fmt: skip


def test_several_engines_are_measured_side_by_side(tmp_path):
    questions = [Question("2+2=?", "4"), Question("2+3=?", "5")]
    rows = evaluate(Constant("small"), Constant("large", "?"), questions=questions, samples=2)
    write_records(rows, tmp_path / "mine.parquet")
    rows = read_records(tmp_path / "mine.parquet")
    assert list(rows) == SCHEMA.names and len(rows) == 8 and set(rows["group"]) == {"own"}
    assert rows.groupby("system")["correct"].mean().to_dict() == {"large": 0.0, "small": 0.5}
    table = measure(tmp_path / "mine.parquet").set_index(["system", "metric"])["value"]
    assert table["small", "pass1"] == 0.5 and table["large", "parse_rate"] == 0


def test_questions_are_a_file_texts_or_questions_and_equal_texts_get_names_of_their_own(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"question": "2+2=?", "answer": 4}) + "\n")
    assert evaluate(Constant(), questions=path)["correct"].tolist() == [True]
    ids = evaluate(Constant(), questions=["2+2=?", "2+2=?", "1"])["question_id"].tolist()
    assert ids == [content_id("2+2=?"), content_id("2+2=?") + "-2", content_id("1")]


def test_records_without_gold_are_kept_and_not_measured(tmp_path):
    write_records(evaluate(Constant(), questions=["2+2=?"]), tmp_path / "mine.parquet")
    rows = read_records(tmp_path / "mine.parquet")
    assert rows["correct"].isna().all() and rows["answer"].tolist() == ["4"]
    with pytest.raises(
        ValueError, match="1 of 1 records have no gold answer; metrics need"
    ) as caught:
        measure(tmp_path / "mine.parquet")
    assert "\n" not in str(caught.value)
    with pytest.raises(RecordsError, match="'correct' must be null exactly if 'gold' is"):
        write_records(rows.assign(correct=True), tmp_path / "graded.parquet")


def test_records_of_an_older_corea_are_told_and_given_their_questions(tmp_path):
    path, questions = tmp_path / "old.parquet", [Question("2+2=?", "4", id="a/1")]
    whole = evaluate(Constant(), questions=questions)
    settings = whole["settings"].iloc[0]
    whole.drop(columns=["question", "content_id"]).to_parquet(path)
    with pytest.raises(
        RecordsError, match=r"old\.parquet: column 'content_id' is missing: an older"
    ) as caught:
        read_records(path)
    assert "\n" not in str(caught.value)
    assert not are_kept(path, "of other settings", questions)
    assert are_kept(path, settings, questions)
    pd.testing.assert_frame_equal(read_records(path), whole)


def test_what_is_drawn_from_records_does_not_move_with_the_generator(monkeypatch):
    """The Router alone reads questions; it finds what the tracked table says, whatever the families make today."""
    for family in generated.FAMILIES:
        monkeypatch.setitem(generated.FAMILIES, family, lambda rng, level: Sketch("edited", "", ""))
    profile = load_profile("cpu").reference()
    records = runs.load_records(profile, ("RLVR-SLM", "LLM"))
    router = systems.rows_of(systems.System("Router+RLVR-SLM", "RLVR-SLM", "Router"), records)
    found = metrics.evaluate_sets(router[router["group"] == "in-domain"], resamples=0)
    drawn = pd.read_csv(profile.figures / "table_sources.csv").set_index(["system", "group"])
    assert found["mean"]["auroc"].value == pytest.approx(
        drawn["auroc"]["Router+RLVR-SLM", "in-domain"], abs=1e-6
    )


@pytest.mark.parametrize("engines", [(), (Constant(), Constant())])
def test_engines_need_names_that_differ(engines):
    with pytest.raises(ValueError, match="needs engines of different names"):
        evaluate(*engines, questions=["1"])


def test_decisions_say_what_is_known_without_gold():
    from corea.cascade import Cascade

    questions = [Question("2+2=?", "4"), Question("Who?")]
    answers = Cascade(Constant(), Constant("large"), 0.5).answer(questions)
    assert evaluation.decisions(questions, answers)["right"].tolist() == [True, None]


@pytest.mark.parametrize(("questions", "samples"), [([], 1), (["1+1"], 0)])
def test_nothing_to_ask_is_one_clear_line(questions, samples):
    slm = Recorded(runs.load_records(load_profile("cpu").reference(), ("SLM",)), "SLM")
    with pytest.raises(
        ValueError, match=rf"{len(questions)} questions, samples={samples}: use 1 or more"
    ):
        evaluate(slm, questions=questions, samples=samples)
