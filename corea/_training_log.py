"""The training log: what is measured, under which names, and the alarm for a collapse."""

import math
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from corea.rewards import graded
from corea.support import processes

COMPLETE = "complete.json"  # written last: a run or checkpoint without it was cut off
METRICS = {
    "rewards/correctness_reward/mean": "accuracy",
    "rewards/format_reward/mean": "format",
    "rewards/confidence_reward/mean": "confidence reward",
    "reward": "total reward",
    "confidence/mean": "mean confidence",
    "confidence/entropy": "confidence entropy",
    "group_accuracy": "group accuracy",
    "completions/mean_length": "completion tokens",
    "kl": "KL to base",
    "entropy": "token entropy",
}


class CollapseError(RuntimeError):
    """Accuracy fell to nothing while the confidence reward rose: it fails with confidence 0."""


def log_rollouts(completions, gold=None, *, question_id, log_metric, **columns) -> list[float]:
    """A reward of weight zero, which logs what TRL does not over the rollouts of every process."""
    rows = zip(question_id, graded(completions, gold, columns), strict=True)
    judged = processes.gathered([(q, right, r.confidence) for q, (r, right) in rows])
    stated = [confidence for _, _, confidence in judged if confidence is not None]
    shares = [count / len(stated) for count in Counter(stated).values()]
    solved = {q for q, right, _ in judged if right}
    # The share of questions that a rollout got right: the others give no correctness signal.
    log_metric("group_accuracy", len(solved) / len({q for q, _, _ in judged}))
    log_metric("confidence/mean", sum(stated) / max(1, len(stated)))
    log_metric("confidence/entropy", -sum(p * math.log(p) for p in shares))  # in nats
    return [0.0] * len(completions)


def tidy_log(history: Sequence[dict], run: str) -> pd.DataFrame:
    """TRL's log history as one row per step and metric (columns run, step, metric, value)."""
    rows = [
        (run, entry["step"], label, float(entry[key]))
        for entry in history
        for key, label in METRICS.items()
        if key in entry
    ]
    return pd.DataFrame(rows, columns=["run", "step", "metric", "value"])


def collapse(log: pd.DataFrame, window: int = 20) -> str | None:
    """Why a log is a collapse: accuracy fell under a fifth while the confidence reward rose."""
    steps = log.pivot(index="step", columns="metric", values="value")
    if len(steps) < 2 * window or "confidence reward" not in steps:
        return None
    first, last = steps.iloc[:window].mean(), steps.iloc[-window:].mean()
    reward = [mean["confidence reward"] for mean in (first, last)]
    if last["accuracy"] >= first["accuracy"] / 5 or reward[1] <= reward[0]:
        return None
    accuracy = f"accuracy fell from {first['accuracy']:.2f} to {last['accuracy']:.2f}"
    gain = f"the confidence reward rose from {reward[0]:.2f} to {reward[1]:.2f}"
    return f"{accuracy} while {gain}; lower learning_rate or raise beta"
