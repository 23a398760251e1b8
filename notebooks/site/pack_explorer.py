"""What the site's threshold explorer reads: every answer of a run, packed into one small file.

The page computes by itself what `corea.cascade.sweep` would give, for any source of confidence,
price ratio and threshold. It needs of each answer only whether it was right, its tokens, and which
thresholds keep it. Thresholds lie on a grid of `STEPS` steps, and a confidence is stored as the
last of them that it reaches: on that grid nothing is rounded. What depends on neither threshold nor
price (bins, ECE, AUROC) is computed here, by `corea.metrics`.

`python notebooks/site/pack_explorer.py OUT.js` packs the tracked reference run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from corea import cascade, metrics
from corea.analysis import systems
from corea.costs import Price, PriceList
from corea.questions.base import CALIBRATION, GROUPS
from corea.support.files import atomic_write

STEPS = 1000
SLMS = ("L1-SLM", "RLVR-SLM", "SLM")
SOURCES = ("Verb", "AvgProb", "Digits", "Probe", "Gain")
SYSTEMS = (*SLMS, "LLM")
EXAMPLES = 120  # questions a group whose text is shown
NO_CONFIDENCE = 4095
_ALPHABET = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))
_TOKENS = PriceList(
    Price(1e6, 1e6), Price(1e6, 1e6), source="a token costs 1, so that costs are token counts"
)


def explorer_data(records: pd.DataFrame, prices: PriceList) -> dict:
    """Everything the page needs, as plain JSON values.

    Args:
        records: of `SYSTEMS` with the calibration split, as from `runs.load_records`.
        prices: of the run, whose ratio the page starts at.

    Raises:
        ValueError: unless both models answered the same questions.
    """
    llm = records[(records["system"] == "LLM") & (records["group"] != CALIBRATION)]
    columns = {
        (slm, source): _rows(records, llm, slm, source) for slm in SLMS for source in SOURCES
    }
    groups = {
        group: [d for d in names if (llm["dataset"] == d).any()] for group, names in GROUPS.items()
    }
    known = records[(records["system"] == "LLM") & (records["group"] == CALIBRATION)]
    return {
        "steps": STEPS,
        "threshold": round(cascade.llm_pass1(known) * STEPS),
        "ratio": prices.slm.completion / prices.llm.completion,
        "groups": groups,
        "datasets": {name: _packed(columns, name) for names in groups.values() for name in names},
        "calibration": {group: _calibration(columns, names) for group, names in groups.items()},
        "examples": {group: _examples(records, columns, names) for group, names in groups.items()},
    }


def steps_reached(confidence) -> np.ndarray:
    """For each confidence (rows,) the last n with n / STEPS at most it; `NO_CONFIDENCE` if none."""
    confidence = np.asarray(confidence, dtype=float)
    reached = np.searchsorted(np.arange(STEPS + 1) / STEPS, confidence, side="right") - 1
    return np.where(np.isnan(confidence), NO_CONFIDENCE, reached)


def pack(values: Sequence[int] | np.ndarray) -> str:
    """Whole numbers from 0 to 4095 as text, two characters of base64 each; else ValueError."""
    values = np.asarray(values)
    if ((values < 0) | (values > 4095)).any():
        numbers = f"a number from {values.min()} to {values.max()}"
        raise ValueError(f"{numbers} does not fit two characters; use 0 to 4095")
    high, low = np.divmod(values.astype(int), 64)
    return "".join(np.column_stack([_ALPHABET[high], _ALPHABET[low]]).ravel().tolist())


def _rows(records: pd.DataFrame, llm: pd.DataFrame, slm: str, source: str) -> pd.DataFrame:
    """The rows of `cascade.replay` with token counts for costs, in the order of their keys."""
    system = systems.System(f"{slm}-{source}", slm, source)
    rows = systems.rows_of(system, records)
    rows = rows[rows["group"] != CALIBRATION].sort_values(cascade.KEY)
    return cascade.replay(rows, llm, cascade.DEFER_ALL, _TOKENS).reset_index(drop=True)


def _packed(columns: Mapping[tuple[str, str], pd.DataFrame], dataset: str) -> dict:
    """One dataset: outcomes (twice the tokens, plus 1 if right) by model, confidences by source."""
    parts = {key: rows[rows["dataset"] == dataset] for key, rows in columns.items()}
    first = parts[SLMS[0], SOURCES[0]]
    slms = {}
    for slm in SLMS:
        rows = parts[slm, SOURCES[0]]
        slms[slm] = {"outcome": pack(2 * rows["slm_cost"] + rows["slm_correct"])}
        slms[slm] |= {
            source: pack(steps_reached(parts[slm, source]["confidence"])) for source in SOURCES
        }
    return {
        "rows": len(first),
        "llm": pack(2 * first["llm_cost"] + first["llm_correct"]),
        "slms": slms,
    }


def _calibration(columns: Mapping[tuple[str, str], pd.DataFrame], datasets: Sequence[str]) -> dict:
    """ECE and AUROC (means over datasets) and the bins of the pooled answers, by SLM and source."""
    by_source = {}
    for (slm, source), rows in columns.items():
        rows = rows[rows["dataset"].isin(datasets)]
        rows = rows.assign(correct=rows["slm_correct"])
        mean = metrics.evaluate_sets(rows, resamples=0)["mean"]
        bins = metrics.reliability(rows["confidence"], rows["correct"])
        by_source[f"{slm}-{source}"] = {
            "ece": None if source in systems.SCORES else round(mean["ece"].value, 9),
            "auroc": round(mean["auroc"].value, 9),
            "bins": [[round(value, 9) for value in row] for row in bins.to_numpy().tolist()],
        }
    return by_source


def _examples(
    records: pd.DataFrame, columns: Mapping[tuple[str, str], pd.DataFrame], datasets: Sequence[str]
) -> list[dict]:
    """Questions spread evenly over the datasets, with the first sample's answers.

    `row` finds the rest in the dataset.
    """
    chosen = []
    firsts_of = records[records["sample"] == 0].set_index(["system", "question_id"])
    for dataset in datasets:
        rows = columns[SLMS[0], SOURCES[0]]
        rows = rows[rows["dataset"] == dataset].reset_index(drop=True)
        firsts = rows.index[rows["sample"] == 0]
        count = min(len(firsts), EXAMPLES // len(datasets))
        for row in firsts[np.linspace(0, len(firsts) - 1, count).astype(int)]:
            question = rows["question_id"][row]
            of_llm = firsts_of.loc[("LLM", question)]
            answers = {system: firsts_of.loc[(system, question), "answer"] for system in SYSTEMS}
            example = {"dataset": dataset, "row": int(row), "question": of_llm["question"]}
            example["gold"] = of_llm["gold"]
            example["answers"] = {s: None if pd.isna(a) else a for s, a in answers.items()}
            chosen.append(example)
    return chosen


def write(data: dict, path: str | Path) -> None:
    """Write the data as a script, which a page in a file may read while it may not read JSON."""
    with atomic_write(path) as stream:
        stream.write(f"globalThis.COREA_RECORDS = {json.dumps(data, separators=(',', ':'))};\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Pack the tracked reference run of the `cpu` profile into the file named."""
    from corea.paper import runs
    from corea.paper.profiles import load_profile

    cli = argparse.ArgumentParser(
        prog="python notebooks/site/pack_explorer.py", description=__doc__.splitlines()[0]
    )
    cli.add_argument("out", type=Path)
    given = cli.parse_args(arguments)
    profile = load_profile("cpu").reference()
    records = runs.load_records(profile, SYSTEMS)
    write(explorer_data(records, runs.prices_of(profile)), given.out)


if __name__ == "__main__":
    main()
