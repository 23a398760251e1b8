"""Pairs on the map that no run here makes: the paper's, real ones, the first tracked run's.

`paper_points.csv` holds what is reported, and says what of it is an estimate; `turn_1_points.csv`
and `turn_1_pair.csv` what `corea.analysis.pairs` made of the first tracked run's records.
`python -m corea.paper.known_pairs FOLDER` writes `real_points.csv` from ZeroEval's recorded answers
(WildEval/ZeroEval, Apache-2.0; a file per set, columns question, model, answer, gold, characters):
figures only. Nothing was stated there, so what decides is the length of the SLM's answer, the
shorter the surer, and a character costs in proportion to the model's parameters.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from corea.analysis import map as model
from corea.analysis import pairs
from corea.costs import Price, PriceList
from corea.grader import Grader
from corea.paper.profiles import ROOT, Profile
from corea.paper.variants import runs_of

TARGETS = ROOT / "data" / "base" / "targets.json"  # written before the mini world was made
SOURCE = "WildEval/ZeroEval at 8c1485e (Apache-2.0), greedy, by corea.paper.known_pairs"
SETS = {"MATH level 5": "zeroeval_math_l5.csv.gz", "GSM8K": "zeroeval_gsm8k.csv.gz"}
PAIRS = (  # set, family, SLM and LLM with their nominal billions of parameters
    ("MATH level 5", "Qwen2.5-{}B-Instruct", 7, 32),
    ("MATH level 5", "Qwen2.5-{}B-Instruct", 7, 72),
    ("MATH level 5", "Qwen2.5-{}B-Instruct", 3, 7),
    ("MATH level 5", "Qwen2.5-{}B-Instruct", 3, 32),
    ("GSM8K", "Meta-Llama-3.1-{}B-Instruct", 8, 70),
    ("GSM8K", "Qwen2-{}B-Instruct", 7, 72),
    ("GSM8K", "Meta-Llama-3-{}B-Instruct", 8, 70),
)


def read_answers(path: str | Path, dataset: str, models: Iterable[str]) -> pd.DataFrame:
    """Graded answers of some models, with the columns of records that a pair is measured from."""
    rows = pd.read_csv(path, dtype={"answer": str, "gold": str})
    rows = rows[rows["model"].isin(set(models))].sort_values(["model", "question"])
    answers = [None if pd.isna(answer) else answer for answer in rows["answer"]]
    with Grader(deadline=60) as grader:  # a busy machine makes no answer wrong
        correct = grader.grade(answers, list(rows["gold"]), ["math"] * len(rows))
    columns = {
        "system": rows["model"], "dataset": dataset, "group": dataset, "sample": 0, "seed": 0,
        "question_id": rows["question"].astype(str), "answer": answers, "correct": correct,
        "confidence": 1 / (1 + rows["characters"]), "prompt_tokens": 0,
        "completion_tokens": rows["characters"],
    }  # fmt: skip
    return pd.DataFrame(columns)


def table_real(folder: str | Path, **options) -> pd.DataFrame:
    """A point of the map per pair of `PAIRS`, and the share that neither model solves."""
    table = []
    for dataset, path in SETS.items():
        chosen = [row for row in PAIRS if row[0] == dataset]
        names = {family.format(size) for _, family, *sizes in chosen for size in sizes}
        answers = dict(tuple(read_answers(Path(folder) / path, dataset, names).groupby("system")))
        for _, family, *sizes in chosen:
            slm, llm = (answers[family.format(size)] for size in sizes)
            small, large = (Price(float(size), float(size)) for size in sizes)
            found = pairs.point(slm, llm, PriceList(small, large, "parameters"), **options)
            pair = f"{family.format(sizes[0]).removesuffix('-Instruct')} to {sizes[1]}B"
            about = {"name": f"{pair}, {dataset}", "kind": "real", "pair": pair, "group": dataset}
            about |= {"system": "Shorter answers", "decoding": "greedy", "source": SOURCE}
            table.append(about | found)
    known = [name for name in pairs.POINT_COLUMNS if not name.startswith("rule_")]
    table = pd.DataFrame(table).reindex(columns=[*known, "neither"])
    return table.dropna(axis=1, how="all").round(6)


def llm_runs(profile: Profile) -> list[str]:
    """The LLMs of a sequence of pairs: the runs "LLM-..." of a profile."""
    return [name for name in runs_of(profile) if name.startswith("LLM-")]


def with_known(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """A table of `corea.analysis.pairs` ("points" or "pair") with the known rows before it."""
    names = {"points": ("paper", "real", "turn_1"), "pair": ("turn_1",)}[kind]
    known = [pd.read_csv(Path(__file__).with_name(f"{name}_{kind}.csv")) for name in names]
    if kind == "points":
        known[0] = _of_paper(known[0])
    return pd.concat([*known, table.assign(source="this run")], ignore_index=True)


def _of_paper(rows: pd.DataFrame) -> pd.DataFrame:
    """Reported savings, which are by the paper's rule, beside what the model says of that rule."""
    rule = model.by_rule(*(rows[name] for name in ("slm", "llm", "auroc", "rho", "price")))
    gap = rows["llm"] - rows["slm"]
    columns = {"gap": gap, "predicted": rule.saving, "difference": rows["saving"] - rule.saving}
    columns |= {"rule_saving": rows["saving"], "rule_predicted": rule.saving}
    columns |= {"coin": model.coin_saving(gap, rows["price"]), "rule_loss_predicted": rule.loss}
    return rows.assign(kind="paper", system="COREA", **columns)


def main(arguments: Sequence[str]) -> int:
    """Write the table; one line and status 2 without a folder."""
    if len(arguments) != 1:
        print("usage: python -m corea.paper.known_pairs FOLDER", file=sys.stderr)
        return 2
    table_real(arguments[0]).to_csv(Path(__file__).with_name("real_points.csv"), index=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
