"""Accuracy and calibration metrics, each with a bootstrap interval over questions.

Conventions, the same everywhere in the package:

- A confidence that was not stated is NaN or None, and only `parse_rate` and Pass@1 count its row. A
  metric that is not defined (AUROC if all answers are right or all are wrong) is NaN.
- ECE has 10 bins of equal width **closed on the left**: [0, .1), [.1, .2), ..., [.9, 1]. Stated
  confidences lie on the edges, so this matters. Edges are the decimals themselves (i / 10);
  `numpy.linspace(0, 1, 11)` is a rounding error above .3, .6 and .7, and `bins=` takes that too.
- Ties are never broken by the order of the rows: AUROC counts a tied pair as half, AURC and
  selective accuracy take the expectation over random orders of the tied rows.
- Pass@1 is the mean over questions of each question's mean over its samples.
- The bootstrap draws questions with replacement and keeps all samples of a question together.
  Intervals are the 2.5th and 97.5th percentile, widened if needed to hold the value itself
  (resampling biases ECE upwards). Resamples in which a metric is not defined are left out.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

_BLOCK = 2**18  # weights held at a time: resamples x questions
Draws = dict[str, np.ndarray]  # by metric, (1 + resamples,): the value, then each resample's


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95% interval."""

    value: float
    low: float
    high: float


def ece(confidence, correct, *, bins=10, closed: str = "left") -> float:
    """Expected calibration error: the bins' |mean confidence - accuracy|, weighted by their shares.

    Args:
        confidence: in [0, 1], NaN or None if not stated; shape (samples,).
        correct: 0/1 or bool, shape (samples,).
        bins: how many of equal width, or the edges themselves, rising from 0 to 1.
        closed: which edge belongs to a bin, "left" or "right"; the outermost edges always do.

    Source: Naeini et al. 2015; Guo et al. 2017.
    """
    levels, right, wrong = _histogram(confidence, correct)
    return float(_ece(levels, right, wrong, _edges(bins), closed))


def brier(confidence, correct) -> float:
    """Brier score: mean squared distance between stated confidence and correctness (Brier 1950)."""
    return float(_brier(*_histogram(confidence, correct)))


def auroc(confidence, correct) -> float:
    """Probability that a right answer is more confident than a wrong one; a tied pair counts half.

    NaN unless there are both right and wrong answers.
    """
    return float(_auroc(*_histogram(confidence, correct)))


def aurc(confidence, correct) -> float:
    """Area under the risk-coverage curve: mean over k of the error rate of the k most confident.

    k runs from 1 to all answers. Tied rows count in expectation over their order. Lower is better.
    Source: Geifman et al. 2019, arXiv 1805.08206.
    """
    return float(_aurc(*_histogram(confidence, correct)))


def selective_accuracy(confidence, correct, coverage: float) -> float:
    """Accuracy of the most confident share (rounded up to whole rows); ties as in `aurc`."""
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage={coverage!r}; it must be above 0 and at most 1")
    _, right, wrong = _histogram(confidence, correct)
    right, count = right[::-1], (right + wrong)[::-1]
    # The small term keeps 0.07 * 100 = 7.000000000000001 from being rounded up to 8.
    wanted = np.ceil(coverage * count.sum() - 1e-9)
    taken = np.clip(wanted - (count.cumsum() - count), 0, count)
    return float((taken * right / count).sum() / wanted) if len(count) else float("nan")


def reliability(confidence, correct, *, bins=10, closed: str = "left") -> pd.DataFrame:
    """The filled bins of `ece`, a row each: low, high, count, mean confidence and accuracy."""
    levels, right, wrong = _histogram(confidence, correct)
    edges, count = _edges(bins), right + wrong
    filled, starts = np.unique(_bin_of(levels, edges, closed), return_index=True)
    count, stated, right = np.add.reduceat([count, levels * count, right], starts, axis=1)
    table = {"low": np.clip(edges, 0, 1)[filled], "high": np.clip(edges, 0, 1)[filled + 1]}
    table |= {"count": count.astype(int), "confidence": stated / count, "accuracy": right / count}
    return pd.DataFrame(table)


def evaluate(question_id, correct, confidence, **options) -> dict[str, Interval]:
    """Every metric of one system on one set, with its interval; arguments as in `bootstrap`.

    The metrics: pass1, ece, brier, auroc, aurc, levels (distinct stated confidences), parse_rate.
    """
    return intervals(bootstrap(question_id, correct, confidence, **options))


def evaluate_sets(records: pd.DataFrame, **options) -> dict[str, dict[str, Interval]]:
    """`evaluate` for each dataset, then for "mean", the plain mean over the datasets."""
    return {name: intervals(draws) for name, draws in set_draws(records, **options).items()}


def paired_difference(first: pd.DataFrame, second: pd.DataFrame, **options) -> dict[str, dict]:
    """Metrics of `first` less those of `second` on the same resamples, as `evaluate_sets` does.

    The numbers of samples may differ. ValueError unless both are about the same questions.
    """
    keys = ["dataset", "question_id"]
    one, other = (set(frame.groupby(keys).groups) for frame in (first, second))
    if unpaired := one ^ other:
        dataset, question = min(unpaired, key=str)
        raise ValueError(f"question {question!r} of {dataset!r} is on one side only")
    sets, less = set_draws(first, **options), set_draws(second, **options)
    return {
        dataset: intervals({name: draws[name] - less[dataset][name] for name in draws})
        for dataset, draws in sets.items()
    }


def verdict(low: float, high: float, bound=0.0, above=True, words=("yes", "no")) -> str:
    """Whether a value lies above (or below) a bound, by its 95% interval: the one rule.

    The first word if the whole interval lies on the claimed side, the second if on the other;
    "undecided" if it reaches across the bound, touches it or is not known.
    """
    if not above:
        low, high, bound = -high, -low, -bound
    return words[0] if low > bound else words[1] if high < bound else "undecided"


def intervals(draws: Draws) -> dict[str, Interval]:
    """The `interval` of each metric."""
    return {name: interval(values) for name, values in draws.items()}


def flat(by_name: Mapping[str, Interval]) -> dict[str, float]:
    """Table columns of intervals: name, name_low and name_high of each."""
    return {
        name + end: value
        for name, each in by_name.items()
        for end, value in (("", each.value), ("_low", each.low), ("_high", each.high))
    }


def sizes(rows: pd.DataFrame) -> dict[str, float]:
    """How many questions, and samples of each."""
    questions = rows.groupby(["dataset", "question_id"]).ngroups
    samples = len(rows) / questions
    return {"questions": questions, "samples": int(samples) if samples.is_integer() else samples}


def interval(draws: np.ndarray) -> Interval:
    """95% percentile interval of draws whose first entry is the value; NaN draws are left out."""
    value, rest = float(draws[0]), draws[1:][~np.isnan(draws[1:])]
    if np.isnan(value) or not len(rest):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(rest, [2.5, 97.5])
    return Interval(value, min(float(low), value), max(float(high), value))


# --- the bootstrap --------------------------------------------------------------------------------


def bootstrap(
    question_id, correct, confidence, *, bins=10, closed="left", resamples: int = 1000, seed=0
) -> Draws:
    """The metrics of `evaluate` as arrays (1 + resamples,): the value, then each resample's.

    The columns have shape (samples,); bins and closed are those of `ece`. Equal seeds draw the same
    questions for every system that answered them, so draws can be subtracted. All resamples are one
    matrix product: their weights by each question's right and wrong answers at each confidence.
    """
    from scipy.sparse import csr_array

    correct, confidence = checked(correct, confidence)
    question, questions = _numbered(question_id, len(correct))
    stated = ~np.isnan(confidence)
    levels, level = np.unique(confidence[stated], return_inverse=True)
    cells = (question[stated], level + len(levels) * correct[stated])
    histograms = csr_array((np.ones(len(level)), cells), shape=(questions, 2 * len(levels)))
    samples, hits, parsed = (np.bincount(question, w, questions) for w in (None, correct, stated))
    blocks = []
    for weights in question_weights(questions, resamples, seed):
        wrong, right = np.split(weights @ histograms, 2, axis=-1)
        block = {"pass1": weights @ (hits / samples) / questions}
        block["ece"] = _ece(levels, right, wrong, _edges(bins), closed)
        for name, metric in (("brier", _brier), ("auroc", _auroc), ("aurc", _aurc)):
            block[name] = metric(levels, right, wrong)
        block["levels"] = (right + wrong > 0).sum(axis=-1, dtype=float)
        block["parse_rate"] = (weights @ parsed) / (weights @ samples)
        blocks.append(block)
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def set_draws(
    records: pd.DataFrame, draw: Callable[..., Draws] | None = None, *, seed: int = 0, **options
) -> dict[str, Draws]:
    """Draws of each dataset, then of "mean", their plain mean: NaN if one of them is.

    Args:
        draw: makes the draws of one dataset's rows, given seed and options; `bootstrap` if None.
        seed: each dataset makes its own of it, whichever datasets stand beside it.
    """
    draw = draw or (lambda r, **o: bootstrap(r["question_id"], r["correct"], r["confidence"], **o))
    by_dataset = records.groupby("dataset", sort=False)
    sets = {name: draw(rows, seed=_seed_of(seed, name), **options) for name, rows in by_dataset}
    if not sets:
        raise ValueError("no records to evaluate")
    names = next(iter(sets.values()))
    means = {name: np.mean([draws[name] for draws in sets.values()], axis=0) for name in names}
    return {**sets, "mean": means}


def question_means(rows: pd.DataFrame, columns: Mapping, *, resamples: int = 1000, seed=0) -> Draws:
    """Means over one dataset's questions of several columns (rows,), all on the same resamples."""
    question, questions = _numbered(rows["question_id"], len(rows))
    samples = np.bincount(question, minlength=questions)
    rates = [np.bincount(question, column, questions) / samples for column in columns.values()]
    blocks = question_weights(questions, resamples, seed)
    draws = np.concatenate([block @ np.column_stack(rates) for block in blocks]) / questions
    return dict(zip(columns, draws.T, strict=True))


def row_weights(rows: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Weights (1 + resamples, rows) of rows, whose sum is a mean over datasets of question means.

    The first draw is the data itself; the others resample each dataset's questions as `set_draws`.
    """
    weights = np.zeros((1 + resamples, len(rows)))
    datasets = rows["dataset"].unique()
    for dataset in datasets:
        at = np.flatnonzero(rows["dataset"] == dataset)
        question, questions = _numbered(rows["question_id"].to_numpy()[at], len(at))
        samples = np.bincount(question, minlength=questions)
        draws = np.concatenate([*question_weights(questions, resamples, _seed_of(seed, dataset))])
        weights[:, at] = draws[:, question] / (samples[question] * questions * len(datasets))
    return weights


def _seed_of(seed: int, dataset: str) -> list[int]:
    return [seed, zlib.crc32(dataset.encode())]


def question_weights(questions: int, resamples: int, seed) -> Iterator[np.ndarray]:
    """How often each question counts (rows, questions): once each, then as resamples drew it."""
    yield np.ones((1, questions))
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // questions)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        picks = rng.integers(questions, size=(rows, questions))
        picks += questions * np.arange(rows)[:, None]
        counts = np.bincount(picks.ravel(), minlength=rows * questions)
        yield counts.reshape(rows, questions).astype(float)


# --- metrics of histograms: levels (L,) rising; right, wrong (..., L) -----------------------------


def _ece(levels, right, wrong, edges, closed):
    gaps = levels * (right + wrong) - right
    bin_of = _bin_of(levels, edges, closed)
    starts = np.flatnonzero(np.diff(bin_of, prepend=-1))
    return _divide(np.abs(np.add.reduceat(gaps, starts, axis=-1)).sum(-1), (right + wrong).sum(-1))


def _brier(levels, right, wrong):
    return _divide((right * (1 - levels) ** 2 + wrong * levels**2).sum(-1), (right + wrong).sum(-1))


def _auroc(levels, right, wrong):
    wrong_below = wrong.cumsum(-1) - wrong / 2
    return _divide((right * wrong_below).sum(-1), right.sum(-1) * wrong.sum(-1))


def _aurc(levels, right, wrong):
    from scipy.special import digamma

    wrong, count = wrong[..., ::-1], (right + wrong)[..., ::-1]
    covered = count.cumsum(-1)
    before, errors_before = covered - count, wrong.cumsum(-1) - wrong
    rate = wrong / np.maximum(count, 1)
    # Within a tie the expected errors rise evenly with k, so that its part of the sum over k of
    # (errors before + rate (k - before)) / k has a closed form.
    harmonic = digamma(covered + 1) - digamma(before + 1)
    return _divide((wrong + (errors_before - rate * before) * harmonic).sum(-1), count.sum(-1))


def _divide(numerator, denominator):
    """The ratio, NaN if the denominator is 0."""
    empty = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=empty, where=np.asarray(denominator) > 0)


def _bin_of(levels: np.ndarray, edges: np.ndarray, closed: str) -> np.ndarray:
    if closed not in ("left", "right"):
        raise ValueError(f'closed={closed!r}; use "left" or "right"')
    after = np.searchsorted(edges, levels, side="right" if closed == "left" else "left")
    return np.clip(after - 1, 0, len(edges) - 2)


def _edges(bins) -> np.ndarray:
    if np.ndim(bins) == 1:
        edges = np.asarray(bins, dtype=float)
        if len(edges) < 2 or np.any(np.diff(edges) <= 0) or edges[0] > 0 or edges[-1] < 1:
            raise ValueError(f"bins={bins!r}; edges must rise from 0 to 1")
        return edges
    if not isinstance(bins, (int, np.integer)) or bins < 1:
        raise ValueError(f"bins={bins!r}; use a whole number of at least 1, or the edges")
    return np.arange(bins + 1) / bins


def _histogram(confidence, correct) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct stated confidences, rising, and how many right and wrong answers stand at each."""
    correct, confidence = checked(correct, confidence)
    stated = ~np.isnan(confidence)
    levels, level = np.unique(confidence[stated], return_inverse=True)
    right = np.bincount(level, correct[stated], len(levels))
    return levels, right, np.bincount(level, minlength=len(levels)) - right


def checked(correct, confidence) -> tuple[np.ndarray, np.ndarray]:
    """Both columns as integers and floats; ValueError for other shapes or values out of range."""
    correct, confidence = np.asarray(correct), np.asarray(confidence, dtype=float)
    if correct.shape != confidence.shape or correct.ndim != 1:
        shapes = f"correct is {correct.shape}, confidence {confidence.shape}"
        raise ValueError(f"{shapes}; both must be (samples,)")
    if not np.isin(correct, (0, 1)).all():
        raise ValueError("correct holds something other than 0, 1, False and True")
    outside = (confidence < 0) | (confidence > 1)
    if outside.any():
        row = outside.argmax()
        raise ValueError(f"confidence {confidence[row]} at row {row} is outside [0, 1]")
    return correct.astype(int), confidence


def _numbered(question_id, rows: int) -> tuple[np.ndarray, int]:
    """Each row's question as a number, by sorted id so that the order of rows cannot matter."""
    numbers, ids = pd.factorize(np.asarray(question_id), sort=True)
    if len(numbers) != rows or not rows or numbers.min() < 0:
        given = (numbers >= 0).sum()
        raise ValueError(f"{given} question ids for {rows} rows; give each row one, and some row")
    return numbers, len(ids)
