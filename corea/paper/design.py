"""The mini world's pair on its design split: no test question, and before any reinforcement.

The targets (`data/base/targets.json`) were written first. Rungs of the test draws were weighted
on these questions alone (`corea.questions.base`); then the pair was frozen by commit.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from corea.analysis.pairs import table_pair
from corea.engines.loading import model_engine
from corea.evaluation import answer_records
from corea.grader import Grader
from corea.grpo import fingerprint
from corea.mini.pretrain import LONGEST
from corea.questions.base import GROUPS, Question
from corea.questions.load import load_questions
from corea.support.hardware import Compute

SIZES = {"in-domain": 1100, "ood-math": 400, "ood-nonmath": 400}  # questions of each set
SEED = 7
_DECODINGS = {"t0.7": 0.7, "greedy": 0.0}


def design_questions() -> dict[str, list[Question]]:
    """The questions of the design split, by set."""
    return {
        name: load_questions(name, "design", size=SIZES[group], seed=SEED)
        for group, names in GROUPS.items()
        for name in names
    }


def design_records(models: Mapping[str, str | Path]) -> pd.DataFrame:
    """One answer of each model to each design question by each decoding, with what tables read."""
    tables, questions = [], design_questions()
    with Grader() as grader:
        for system, folder in models.items():
            options = {"name": system, "max_new_tokens": LONGEST, "keep_logprobs": True}
            engine = model_engine(folder, Compute(), batch_size=256, **options)
            for decoding, engine.temperature in _DECODINGS.items():
                for group, names in GROUPS.items():
                    for name in names:
                        how = {"dataset": name, "group": group, "seed": SEED}
                        rows = answer_records(engine, questions[name], grader, **how)
                        tables.append(rows.assign(system=system, decoding=decoding, seed=0))
    return pd.concat(tables, ignore_index=True)


def main(folder: str | Path) -> int:
    """Measure the pair in a folder of bases, write `design.csv` and `ladder.csv`, and say it."""
    folder = Path(folder)
    models = {"SLM": folder / "slm", "LLM": folder / "llm"}
    records = design_records(models)
    targets = json.loads((folder / "targets.json").read_text())
    pair = table_pair(records, {"main": "LLM"}, targets, resamples=1000, seed=0)
    hashes = {system.lower() + "_sha256": fingerprint(path) for system, path in models.items()}
    pair.assign(**hashes).round(6).to_csv(folder / "design.csv", index=False)
    rows = records[records["decoding"] == "t0.7"]
    ladder = rows.pivot_table(index=["system", "family"], columns="level", values="correct")
    ladder.round(3).to_csv(folder / "ladder.csv")
    print(pair.filter(regex="^(?!.*(_low|_high)$)").round(3).to_string(index=False))
    return 0 if pair["in_targets"].all() else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
