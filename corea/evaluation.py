"""From questions to records: ask an engine, judge what it wrote, measure the records.

`judge` is the one place that parses and grades completions; training alone grades apart, inside its rewards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from corea import metrics
from corea.grader import Grader
from corea.parser import Response, parse
from corea.questions.base import Question, content_id, with_distinct_ids
from corea.questions.load import load_jsonl
from corea.records import read_records, typed, write_records
from corea.support.files import git_commit, settings_hash

if TYPE_CHECKING:
    from corea.cascade import CascadeAnswer
    from corea.engines.base import Completion, Engine


@dataclass(frozen=True, slots=True)
class Judgement:
    """A completion parsed and graded; `correct` is None if the question has no gold answer."""

    response: Response
    correct: bool | None


def judge(
    completions: Sequence[str], questions: Sequence[Question], grader: Grader
) -> list[Judgement]:
    """Parse completions and grade their answers.

    Args:
        completions: raw texts.
        questions: the question of each completion, so of the same length.
        grader: an open grader.
    """
    responses = [parse(text) for text in completions]
    grades = _grades([response.answer for response in responses], questions, grader)
    return [Judgement(*pair) for pair in zip(responses, grades, strict=True)]


def _grades(
    answers: Sequence[str | None], questions: Sequence[Question], grader: Grader
) -> list[bool | None]:
    """Whether each answer is right; None for a question without a gold answer."""
    pairs = [
        (answer, question)
        for answer, question in zip(answers, questions, strict=True)
        if question.gold is not None
    ]
    grades = iter(
        grader.grade(
            [answer for answer, _ in pairs],
            [str(question.gold) for _, question in pairs],
            [question.answer_type for _, question in pairs],
        )
    )
    return [None if question.gold is None else next(grades) for question in questions]


def evaluate(
    *engines: Engine,
    questions: str | Path | Sequence[str | Question],
    samples: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Ask engines questions and judge the answers.

    Args:
        engines: their names must differ; each is a `system` of the records.
        questions: a JSONL file as `load_jsonl` reads it, or texts or `Question`s.
        samples: completions per question and engine.
        seed: of the sampling.

    Returns:
        Records in the columns of `corea.records.SCHEMA`, ready for `write_records`.  `correct` is missing for questions
        without a gold answer.

    Raises:
        ValueError: no engine, two of one name, or a file that `load_jsonl` refuses.
    """
    names = [engine.name for engine in engines]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"evaluate needs engines of different names; it was given {names}")
    if isinstance(questions, (str, Path)):
        asked = load_jsonl(questions)
    else:
        asked = with_distinct_ids(Question(q) if isinstance(q, str) else q for q in questions)
    frames = []
    with Grader() as grader:
        for engine in engines:
            rows = answer_records(engine, asked, grader, samples=samples, seed=seed)
            settings = settings_hash([engine.name, [q.hashed() for q in asked], samples, seed])
            frames.append(
                rows.assign(
                    profile="own", system=engine.name, run="own", seed=seed, settings=settings
                )
            )
    return typed(pd.concat(frames, ignore_index=True).assign(commit=git_commit()[0]))


def answer_records(
    engine: Engine,
    questions: Sequence[Question],
    grader: Grader,
    *,
    dataset: str | None = None,
    group: str = "own",
    samples: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """`samples` judged answers of an engine per question: records, but for the columns that name the run.

    dataset: what the records say instead of each question's own set, as "calibration" does.
    """
    from tqdm.auto import tqdm

    title = f"{engine.name} {dataset or group}"
    with tqdm(total=len(questions) * samples, desc=title, mininterval=5) as bar:
        groups = engine.complete(questions, samples=samples, seed=seed, progress=bar.update)
    rows = [
        (question, sample, completion)
        for question, completions in zip(questions, groups, strict=True)
        for sample, completion in enumerate(completions)
    ]
    judgements = judge([c.text for _, _, c in rows], [q for q, _, _ in rows], grader)
    return pd.DataFrame(
        [
            _of_question(question, dataset, group)
            | {"sample": sample}
            | _of_judgement(judgement)
            | _of_completion(completion)
            for (question, sample, completion), judgement in zip(rows, judgements, strict=True)
        ]
    )


def _of_question(question: Question, dataset: str | None, group: str) -> dict:
    return {
        "dataset": dataset or question.dataset,
        "group": group,
        "question_id": question.id,
        "content_id": content_id(question.text),
        "question": question.text,
        "family": question.family,
        "level": question.level,
        "gold": question.gold,
        "answer_type": question.answer_type,
    }


def _of_judgement(judgement: Judgement) -> dict:
    response = judgement.response
    return {
        "answer": response.answer,
        "correct": judgement.correct,
        "confidence": response.confidence,
        "well_formed": response.well_formed,
        "problems": " ".join(response.problems),
    }


def _of_completion(completion: Completion) -> dict:
    row = {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "finish": completion.finish,
        "text": completion.text,
        "mean_probability": None,
        "answer_probability": None,
        "numerals": None,
    }
    if completion.logprobs is not None:
        probabilities = np.exp(completion.logprobs)
        row["mean_probability"] = _mean(probabilities)
        row["numerals"] = format_numerals(completion.numerals)
        if completion.answer_span is not None:
            row["answer_probability"] = _mean(probabilities[slice(*completion.answer_span)])
    return row


def _mean(probabilities: np.ndarray) -> float:
    return round(min(1.0, float(probabilities.mean())), 6)


def format_numerals(numerals: Mapping[str, float] | None) -> str | None:
    """Numerals and their probabilities as one field of a record, "0.7:0.63120 0.8:0.21000"; those under 1e-5 are dropped."""
    if numerals is None:
        return None
    return " ".join(f"{numeral}:{p:.5f}" for numeral, p in numerals.items() if p >= 1e-5)


def decisions(questions: Sequence[Question], answers: Sequence[CascadeAnswer]) -> pd.DataFrame:
    """What a cascade did with each question, one sample each: who answered, what, whether right (None without gold), at what cost."""
    with Grader() as grader:
        right = _grades([a.answer for a in answers], questions, grader)
    return pd.DataFrame(
        {
            "question": [q.text for q in questions],
            "confidence": [a.confidence for a in answers],
            "answered by": [a.source.upper() for a in answers],
            "answer": [a.answer for a in answers],
            "right": right,
            "cost": [a.cost for a in answers],
        }
    )


def settings_of(path: Path) -> str | None:
    """The settings hash of a file of records or of a probe; None if there is no such file, or it is empty."""
    if not path.exists():
        return None
    column = pq.read_table(path, columns=["settings"])["settings"]
    return column[0].as_py() if len(column) else None


def are_kept(path: Path, settings: str, questions: Sequence[Question]) -> bool:
    """Whether records of these settings lie there; those of an older corea are given the questions that they lack.

    That is safe: the hash of the settings is made of the questions too.
    """
    if settings_of(path) != settings:
        return False
    if "question" not in pq.read_schema(path).names:
        rows = pd.read_parquet(path)
        question = rows["question_id"].map({q.id: q.text for q in questions})
        write_records(rows.assign(question=question, content_id=question.map(content_id)), path)
    return True


def measure(records: str | Path | pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """The metrics of `metrics.evaluate` for each system of some records, with 95% intervals over questions.

    Args:
        records: a frame, or a file of records.
        seed: of the bootstrap.

    Returns:
        Columns system, metric, value, low, high.

    Raises:
        ValueError: a question has no gold answer.
    """
    rows = records if isinstance(records, pd.DataFrame) else read_records(records)
    if lacking := int(rows["correct"].isna().sum()):
        raise ValueError(
            f"{lacking} of {len(rows)} records have no gold answer; metrics need an `answer` to every question"
        )
    return pd.DataFrame(
        [
            (system, metric, interval.value, interval.low, interval.high)
            for system, part in rows.groupby("system", sort=False)
            for metric, interval in metrics.evaluate(
                part["question_id"], part["correct"].astype(bool), part["confidence"], seed=seed
            ).items()
        ],
        columns=["system", "metric", "value", "low", "high"],
    )
