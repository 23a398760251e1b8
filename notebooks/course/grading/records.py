"""What assignments and their tests read of the tracked run."""

from __future__ import annotations

from functools import cache

import pandas as pd

from corea.costs import PriceList
from corea.paper import profiles, runs
from corea.questions.base import CALIBRATION
from corea.records import read_records

PROFILE = profiles.load_profile("cpu").reference()
DATA = "calibration.csv"
_KEY = ["dataset", "question_id", "sample"]
_SHOWN = [
    "question_id", "sample", "text", "answer", "gold", "answer_type", "correct", "confidence",
    "mean_probability", "answer_probability", "prompt_tokens", "completion_tokens",
    "llm_correct", "llm_prompt_tokens", "llm_completion_tokens",
]  # fmt: skip


def rows(*datasets: str, slm: str = "L1-SLM") -> pd.DataFrame:
    """Records of an SLM, and of the LLM on the same samples as columns `llm_...`; all test sets
    where none is named."""
    datasets = datasets or tuple(sorted({*runs.all_sets(PROFILE)} - {CALIBRATION}))
    ours, theirs = (
        read_records([runs.records_path(PROFILE, system, name) for name in datasets])
        for system in (slm, "LLM")
    )
    kept = ["correct", "prompt_tokens", "completion_tokens"]
    theirs = theirs[_KEY + kept].rename(columns={name: f"llm_{name}" for name in kept})
    return ours.merge(theirs, on=_KEY, how="inner", validate="one_to_one")


@cache
def prices() -> PriceList:
    """The prices of the tracked run, by parameter counts."""
    return runs.prices_of(PROFILE)


@cache
def calibration_table() -> str:
    """The calibration split as the CSV that is handed out with every assignment."""
    return rows("calibration")[_SHOWN].to_csv(index=False)
