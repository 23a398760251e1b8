"""Recorded completions as an engine: what was written comes back, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
from itertools import chain

import pandas as pd
import pytest

from corea.cascade import Cascade
from corea.engines.base import Completion
from corea.engines.recorded import Recorded
from corea.evaluation import evaluate
from corea.prompts import response_text
from corea.questions.base import Question

QUESTIONS = [Question("2+2=?", "4", id="a"), Question("2+3=?", "5", id="b")]


class Counting:
    """An engine whose every completion differs."""

    def __init__(self, name: str):
        self.name, self.count = name, 0

    def complete(self, questions, *, samples=1, seed=0, progress=None):
        return [[self._next() for _ in range(samples)] for _ in questions]

    def _next(self) -> Completion:
        self.count += 1
        text = response_text("", str(self.count), f"0.{self.count}")
        numerals = {f"0.{self.count}": 0.75, "1": 0.25}
        return Completion(text, 5, 10 + self.count, "stop", (-0.1, -0.2), (0, 1), numerals)


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return evaluate(Counting("small"), Counting("large"), questions=QUESTIONS, samples=2)


def test_completions_come_back_as_they_were_without_log_probabilities(records):
    told, expected = [], Counting("small").complete(QUESTIONS, samples=2)
    found = Recorded(records, "small").complete(QUESTIONS, samples=2, progress=told.append)
    for ours, theirs in zip(chain(*found), chain(*expected), strict=True):
        assert (ours.text, ours.prompt_tokens, ours.completion_tokens, ours.finish) == (
            theirs.text, theirs.prompt_tokens, theirs.completion_tokens, theirs.finish,
        )  # fmt: skip
        assert ours.numerals == theirs.numerals and ours.logprobs is None
    assert sum(told) == 4


def test_a_question_is_found_by_its_text_and_not_by_its_place(records):
    engine = Recorded(records, "small")
    (second,) = engine.complete(["2+3=?"])
    assert second == engine.complete(QUESTIONS)[1]
    with pytest.raises(ValueError, match=r"sample 0 of question 'another' is not in the records"):
        engine.complete([Question("another", id="a")])
    with pytest.raises(ValueError, match=r"sample 2 of question '2\+2=\?' is not in the records"):
        engine.complete(QUESTIONS, samples=3)


def test_a_cascade_is_replayed(records):
    answers = Cascade(Recorded(records, "small"), Recorded(records, "large"), 0.2).answer(QUESTIONS)
    assert [(a.source, a.answer) for a in answers] == [("llm", "1"), ("slm", "3")]


@pytest.mark.parametrize("system", ["huge", "small"])
def test_records_must_hold_one_run_of_the_system(records, system):
    with pytest.raises(ValueError, match=f"one run of '{system}'; there are runs of large, small"):
        Recorded(pd.concat([records, records]), system)


def test_it_is_usable_without_torch():
    code = "import sys; sys.modules['torch'] = None; from corea.engines.recorded import Recorded"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
