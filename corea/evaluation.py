"""From questions to records: ask engines, judge what they wrote, measure the records.

`judge` is the one place that parses and grades; only training grades apart, inside its rewards.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from corea import metrics
from corea.cascade import CascadeAnswer
from corea.engines.base import Completion, Engine
from corea.grader import Grader
from corea.parser import Response, parse
from corea.questions.base import Question, content_id, with_distinct_ids
from corea.questions.load import load_jsonl
from corea.records import read_columns, read_records, typed, write_records
from corea.support.files import git_commit, settings_hash


class Judgement(NamedTuple):
    """A completion parsed and graded; `correct` is None if the question has no gold answer."""

    response: Response
    correct: bool | None


def judge(
    completions: Sequence[str], questions: Sequence[Question], grader: Grader
) -> list[Judgement]:
    """Parse completions and grade their answers; `questions` has the question of each."""
    responses, golds = [parse(text) for text in completions], [q.gold for q in questions]
    answers = [response.answer for response in responses]
    grades = grader.grade(answers, golds, [question.answer_type for question in questions])
    known = [None if gold is None else grade for gold, grade in zip(golds, grades, strict=True)]
    return list(map(Judgement, responses, known))


def evaluate(
    *engines: Engine,
    questions: str | Path | Sequence[str | Question],
    samples: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Ask engines questions and judge the answers: records, in the columns of `records.SCHEMA`.

    Args:
        engines: each is a `system` of the records, so their names must differ.
        questions: a JSONL file as `load_jsonl` reads it, or texts or questions.
        samples: completions per question and engine.

    Raises:
        ValueError: no engine, two of one name, no question, or a file that `load_jsonl` refuses.
    """
    names = [engine.name for engine in engines]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"evaluate needs engines of different names; it was given {names}")
    if isinstance(questions, (str, Path)):
        questions = load_jsonl(questions)
    questions = with_distinct_ids(questions)
    if not questions or samples < 1:
        raise ValueError(f"{len(questions)} questions, samples={samples}: use 1 or more of each")
    hashed, frames = [question.hashed() for question in questions], []
    named = {"profile": "own", "run": "own", "seed": seed, "commit": git_commit()[0]}
    with Grader() as grader:
        for engine in engines:
            rows = answer_records(engine, questions, grader, samples=samples, seed=seed)
            settings = settings_hash([engine.name, hashed, samples, seed])
            frames.append(rows.assign(system=engine.name, settings=settings, **named))
    return typed(pd.concat(frames, ignore_index=True))


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
    """Judged answers of one engine: records, but for the columns that name the run.

    A `dataset`, such as "calibration", is told instead of each question's own set.
    """
    from tqdm.auto import tqdm

    title = f"{engine.name} {dataset or group}"
    with tqdm(total=len(questions) * samples, desc=title, mininterval=5) as bar:
        groups = engine.complete(questions, samples=samples, seed=seed, progress=bar.update)
    completions = list(chain.from_iterable(groups))
    repeated = [question for question in questions for _ in range(samples)]
    judgements = judge([completion.text for completion in completions], repeated, grader)
    rows = map(_record, repeated, completions, judgements)
    frame = pd.DataFrame(rows).assign(group=group, sample=[*range(samples)] * len(questions))
    return frame if dataset is None else frame.assign(dataset=dataset)


def _record(question: Question, completion: Completion, judgement: Judgement) -> dict:
    response, names = judgement.response, ("dataset", "family", "level", "gold", "answer_type")
    return {name: getattr(question, name) for name in names} | {
        "question_id": question.id,
        "content_id": content_id(question.text),
        "question": question.text,
        "answer": response.answer,
        "correct": judgement.correct,
        "confidence": response.confidence,
        "well_formed": response.well_formed,
        "problems": " ".join(response.problems),
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "finish": completion.finish,
        "text": completion.text,
        "mean_probability": _mean_probability(completion, (0, None)),
        "answer_probability": _mean_probability(completion, completion.answer_span),
        "numerals": format_numerals(completion.numerals),
    }


def _mean_probability(completion: Completion, span: tuple[int, int | None] | None) -> float | None:
    """Of the tokens of a span; None if there is none, or log-probabilities were not kept."""
    if completion.logprobs is None or span is None:
        return None
    return round(min(1.0, float(np.exp(completion.logprobs)[slice(*span)].mean())), 6)


def format_numerals(numerals: Mapping[str, float] | None) -> str | None:
    """Numerals with their probabilities as a record has them, "0.7:0.63120 0.8:0.21000"."""
    if numerals is None:
        return None
    return " ".join(f"{numeral}:{p:.5f}" for numeral, p in numerals.items() if p >= 1e-5)


def decisions(questions: Sequence[Question], answers: Sequence[CascadeAnswer]) -> pd.DataFrame:
    """What a cascade did with each question: who answered, what, whether right, at what cost."""
    with Grader() as grader:
        judgements = judge([answer.text for answer in answers], questions, grader)
    columns = {
        "question": [question.text for question in questions],
        "confidence": [answer.confidence for answer in answers],
        "answered by": [answer.source.upper() for answer in answers],
        "answer": [answer.answer for answer in answers],
        "right": [judgement.correct for judgement in judgements],
        "cost": [answer.cost for answer in answers],
    }
    return pd.DataFrame(columns)


def settings_of(path: Path) -> str | None:
    """The settings hash of a file of records or of a probe; None if there is none."""
    rows = read_columns(path, ["settings"])["settings"] if path.exists() else []
    return next(iter(rows), None)


def are_kept(path: Path, settings: str, questions: Sequence[Question]) -> bool:
    """Whether records of these settings are there; those of an older corea are given questions."""
    if settings_of(path) != settings:
        return False
    rows = read_columns(path)
    if "question" not in rows:
        question = rows["question_id"].map({q.id: q.text for q in questions})
        write_records(rows.assign(question=question, content_id=question.map(content_id)), path)
    return True


def measure(records: str | Path | pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """A row per system and metric of `metrics.evaluate`, with its 95% interval over questions."""
    rows = records if isinstance(records, pd.DataFrame) else read_records(records)
    if ungraded := rows["correct"].isna().sum():
        need = "metrics need an `answer` to every question"
        raise ValueError(f"{ungraded} of {len(rows)} records have no gold answer; {need}")
    table = []
    for system, answers in rows.groupby("system", sort=False):
        judged = answers["question_id"], answers["correct"].astype(bool), answers["confidence"]
        for metric, interval in metrics.evaluate(*judged, seed=seed).items():
            table.append((system, metric, interval.value, interval.low, interval.high))
    return pd.DataFrame(table, columns=["system", "metric", "value", "low", "high"])
