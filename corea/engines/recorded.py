"""Completions that were recorded, so that a cascade can be replayed without a model."""

import pandas as pd

from corea.engines.base import Completion, Progress, Questions
from corea.engines.numerals import parse_numerals
from corea.questions.base import as_questions, content_id


class Recorded:
    """An engine that gives back the completions of records, which must hold one run of a system."""

    def __init__(self, records: pd.DataFrame, system: str):
        self.name = system
        rows = records[records["system"] == system]
        if rows.empty or rows.duplicated(["dataset", "question_id", "sample"]).any():
            known = ", ".join(sorted(records["system"].unique()))
            raise ValueError(f"records must hold one run of {system!r}; there are runs of {known}")
        self._completions: dict[tuple[str, int], Completion] = {}
        for row in rows.to_dict("records"):
            written = {c: row[c] for c in ("text", "prompt_tokens", "completion_tokens", "finish")}
            completion = Completion(**written, numerals=parse_numerals(row["numerals"]) or None)
            self._completions[row["content_id"], row["sample"]] = completion

    def complete(
        self, questions: Questions, *, samples: int = 1, seed: int = 0, progress: Progress = None
    ) -> list[list[Completion]]:
        """Give back the first samples of each question by its text; ValueError without them."""
        completions = []
        for question in as_questions(questions):
            for sample in range(samples):
                if (key := (content_id(question.text), sample)) not in self._completions:
                    missing = f"sample {sample} of question {question.text[:60]!r}"
                    raise ValueError(f"{missing} is not in the records of {self.name!r}")
                completions.append(self._completions[key])
        if progress:
            progress(len(completions))
        return [completions[n : n + samples] for n in range(0, len(completions), samples)]
