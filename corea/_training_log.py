"""The training log: TRL's history under the names of this package, and the alarm for a collapse."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

# Written last: a checkpoint or a run without it was cut off while being written.
COMPLETE = "complete.json"
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
    """Accuracy fell to nothing while the confidence reward rose.

    The model has learnt to fail with confidence 0.
    """


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
    """Say why a training log shows a collapse, or None.

    A collapse: over the last `window` steps accuracy is under a fifth of what it was over the first
    `window`, while the confidence reward has risen. Both at once, since "every answer wrong,
    confidence 0" earns a perfect confidence reward.
    """
    steps = log.pivot(index="step", columns="metric", values="value")
    if len(steps) < 2 * window or "confidence reward" not in steps:
        return None
    first, last = steps.iloc[:window].mean(), steps.iloc[-window:].mean()
    failing = last["accuracy"] < first["accuracy"] / 5
    if not (failing and last["confidence reward"] > first["confidence reward"]):
        return None
    return (
        f"accuracy fell from {first['accuracy']:.2f} to {last['accuracy']:.2f} while the confidence "
        f"reward rose from {first['confidence reward']:.2f} to {last['confidence reward']:.2f}; "
        "lower learning_rate or raise beta"
    )
