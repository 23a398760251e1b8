"""Records of five systems with believable numbers, for tests of tables, figures and claims."""

from __future__ import annotations

import numpy as np
import pandas as pd

from corea.costs import Price, PriceList

PRICES = PriceList(Price(0.2, 0.2), Price(1.0, 1.0), "test")
SETS = {
    "drill": "in-domain",
    "shopping": "ood-math",
    "weave": "ood-nonmath",
    "shell-game": "ood-nonmath",
}
# (mean of P(correct), how much the stated confidence knows of it, shift towards overconfidence)
SKILL = {"SLM": (0.45, 0.2, 0.35), "RLVR-SLM": (0.52, 0.3, 0.3), "Brier-SLM": (0.5, 0.8, 0.05),
         "L1-SLM": (0.52, 0.95, 0.03), "LLM": (0.8, 0.3, 0.1)}  # fmt: skip


def sign_of(ease: np.ndarray, rng) -> dict:
    """Token probabilities and numerals that know the ease, with some noise."""
    known = np.clip(ease + rng.normal(0, 0.05, len(ease)), 0.01, 0.99)
    return {
        "mean_probability": 0.8 + 0.19 * known,
        "answer_probability": known,
        "numerals": [f"0.{int(10 * k)}:0.6 1:{0.4 * k:.4f}" for k in known],
    }


def fake_records(questions: int = 40, samples: int = 4, seed: int = 0) -> pd.DataFrame:
    """Records of five systems on four datasets and a calibration split, with believable numbers."""
    rng = np.random.default_rng(seed)
    parts = []
    for system, (mean, knowledge, shift) in SKILL.items():
        for dataset, group in {**SETS, "calibration": "calibration"}.items():
            ease = np.repeat(rng.beta(4 * mean, 4 * (1 - mean), questions), samples)
            told = (
                knowledge * ease + (1 - knowledge) * mean + shift + rng.normal(0, 0.08, len(ease))
            )
            confidence = np.clip(told, 0, 1).round(1)
            confidence[rng.random(len(ease)) < 0.03] = np.nan
            parts.append(pd.DataFrame({
                "profile": "test", "system": system, "run": "base", "dataset": dataset,
                "group": group,
                "question_id": np.repeat([f"{dataset}/{n}" for n in range(questions)], samples),
                "content_id": np.repeat([f"{dataset}/{n}" for n in range(questions)], samples),
                "question": "",
                "family": dataset, "level": 1, "sample": np.tile(np.arange(samples), questions),
                "answer": "1", "gold": "1", "answer_type": "math",
                "correct": rng.random(len(ease)) < ease,
                "confidence": confidence, "well_formed": True, "problems": "", "prompt_tokens": 30,
                "completion_tokens": rng.integers(20, 60, len(ease)), "finish": "stop", "text": "x",
                **sign_of(ease, rng),
                "seed": seed, "settings": "0" * 12, "commit": "unknown",
            }))  # fmt: skip
    records = pd.concat(parts, ignore_index=True)
    texts = {
        q: f"{len(q) * 7 % 90 + n % 9}+{n % 13}=?"
        for n, q in enumerate(records["question_id"].unique())
    }
    return records.assign(question=records["question_id"].map(texts))
