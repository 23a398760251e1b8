"""What assignments and their tests read of the tracked run."""

from __future__ import annotations

from functools import cache

import pandas as pd

from corea.costs import PriceList
from corea.paper import profiles
from corea.records import read_records
from corea.support import models
from grading.sandbox import CHECKOUT

RECORDS = CHECKOUT / "data" / "reference" / "cpu" / "records"
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
    datasets = datasets or tuple(
        sorted(p.stem for p in (RECORDS / slm).glob("*.parquet") if p.stem != "calibration")
    )
    ours, theirs = (
        read_records([RECORDS / system / f"{name}.parquet" for name in datasets])
        for system in (slm, "LLM")
    )
    kept = ["correct", "prompt_tokens", "completion_tokens"]
    theirs = theirs[_KEY + kept].rename(columns={name: f"llm_{name}" for name in kept})
    return ours.merge(theirs, on=_KEY, how="inner", validate="one_to_one")


@cache
def prices() -> PriceList:
    """The prices of the tracked run, by parameter counts."""
    profile = profiles.load_profile("cpu")
    return PriceList.from_parameters(
        *(models.architecture_of(folder).parameters for folder in (profile.slm, profile.llm))
    )


@cache
def calibration_table() -> str:
    """The calibration split as the CSV that is handed out with every assignment."""
    return rows("calibration")[_SHOWN].to_csv(index=False)
