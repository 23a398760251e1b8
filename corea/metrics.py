"""Accuracy and calibration metrics, each with a bootstrap interval over questions.

Conventions, the same everywhere in the package:

- A confidence that was not stated is NaN or None.  Calibration metrics are over stated confidences
  only, nothing is put in for the others, and `parse_rate` tells the share stated.  A metric that is
  not defined (no confidence stated; AUROC where all answers are right or all are wrong) is NaN.
- ECE has 10 bins of equal width **closed on the left**: [0, .1), [.1, .2), ..., [.9, 1].  Stated
  confidences lie on the edges, so this matters.  Edges are the decimals themselves (i / 10).
  `numpy.linspace(0, 1, 11)`, common elsewhere, is a rounding error above .3, .6 and .7 and so puts
  these three in the bin below; `bins=` takes such edges too.
- Ties are never broken by the order of the rows: AUROC counts a tied pair as half, AURC and
  selective accuracy take the expectation over random orders of the tied rows.
- Pass@1 is the mean over questions of each question's mean over its samples.
- The bootstrap draws questions with replacement and keeps all samples of a question together;
  intervals are the 2.5th and 97.5th percentile, widened where needed to hold the value itself
  (resampling biases ECE upwards and the number of levels downwards).  Resamples in which a metric
  is not defined are left out of its interval.

Every calibration metric depends on the data through a histogram alone: how many right and wrong
answers stand at each distinct confidence.  A resample's histogram is a weighted sum of the
questions' own, so all resamples together are one matrix product.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

_BLOCK = 2**18  # weights held at a time: resamples x questions


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95% interval."""

    value: float
    low: float
    high: float


# --- metrics of one sample ------------------------------------------------------------------------


def pass_at_k(samples, correct, k: int) -> np.ndarray:
    """Unbiased estimate of pass@k for each question: 1 - C(n - c, k) / C(n, k).

    samples, correct: counts n and c of each question, shape (questions,).  Raises ValueError unless
    1 <= k <= n, c <= n.  Source: Chen et al. 2021, arXiv 2107.03374.
    """
    samples, correct = np.broadcast_arrays(np.asarray(samples), np.asarray(correct))
    if np.any(correct < 0) or np.any(correct > samples):
        raise ValueError(
            "pass@k: a question has more correct samples than samples, or fewer than 0"
        )
    if k < 1 or np.any(samples < k):
        raise ValueError(
            f"pass@k: k={k}; use 1 to {samples.min()}, the fewest samples of a question"
        )
    drawn = np.arange(k)
    all_wrong = (samples - correct)[..., None] - drawn
    return 1.0 - np.prod(np.maximum(all_wrong, 0) / (samples[..., None] - drawn), axis=-1)


def ece(confidence, correct, *, bins=10, binning: str = "width", closed: str = "left") -> float:
    """Expected calibration error: the bins' |mean confidence - accuracy|, weighted by their shares.

    confidence: in [0, 1], NaN or None where not stated; correct: 0/1 or bool; both of shape
    (samples,).  bins: their number, or the edges themselves (rising, from 0 to 1).  binning:
    "width", or "mass" for equal counts, with edges halfway between neighbouring rows.  closed:
    which edge belongs to a bin, "left" or "right"; the outermost edges always do.  Source: Naeini
    et al. 2015; Guo et al. 2017.
    """
    levels, right, wrong, edges = _binned(confidence, correct, bins, binning, closed)
    return float(_ece(levels, right, wrong, edges, closed))


def brier(confidence, correct) -> float:
    """Brier score: mean squared distance between stated confidence and correctness (Brier 1950)."""
    return float(_brier(*_histogram(confidence, correct)))


def auroc(confidence, correct) -> float:
    """Probability that a right answer is the more confident one of a right and a wrong answer.

    A tied pair counts half (mean ranks).  NaN where there are not both right and wrong answers.
    """
    return float(_auroc(*_histogram(confidence, correct)))


def aurc(confidence, correct) -> float:
    """Area under the risk-coverage curve: mean over k of the error rate of the k most confident.

    k runs from 1 to all answers.  Tied rows count in expectation over their order.  Lower is
    better.  Source: Geifman et al. 2019, arXiv 1805.08206.
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


def reliability(
    confidence, correct, *, bins=10, binning: str = "width", closed: str = "left"
) -> pd.DataFrame:
    """The filled bins of `ece`, a row each: low, high, count, mean confidence and accuracy."""
    levels, right, wrong, edges = _binned(confidence, correct, bins, binning, closed)
    bin_of = _bin_of(levels, edges, closed)
    sums = pd.DataFrame(
        {"count": right + wrong, "confidence": levels * (right + wrong), "accuracy": right}
    )
    table = sums.groupby(bin_of).sum()
    table[["confidence", "accuracy"]] = table[["confidence", "accuracy"]].div(
        table["count"], axis=0
    )
    table.insert(0, "low", np.clip(edges, 0, 1)[table.index])
    table.insert(1, "high", np.clip(edges, 0, 1)[table.index + 1])
    return table.astype({"count": int}).reset_index(drop=True)


# --- metrics with intervals -----------------------------------------------------------------------


def evaluate(question_id, correct, confidence, **options) -> dict[str, Interval]:
    """Every metric of one system on one set, with its interval; options as in `bootstrap`.

    Keys: pass1, ece, brier, auroc, aurc, levels (distinct stated confidences), parse_rate, and
    pass@k for each k asked.
    """
    return {
        name: interval(draws)
        for name, draws in bootstrap(question_id, correct, confidence, **options).items()
    }


def evaluate_sets(records: pd.DataFrame, **options) -> dict[str, dict[str, Interval]]:
    """`evaluate` for each dataset, then "mean": the plain mean over the datasets.

    records: columns dataset, question_id, correct, confidence.  Each dataset is resampled by
    itself.  A dataset's intervals do not depend on the others given.  A mean is NaN where one of
    the datasets' is.
    """
    return {
        dataset: {name: interval(draws) for name, draws in metrics.items()}
        for dataset, metrics in set_draws(records, options).items()
    }


def paired_difference(
    first: pd.DataFrame, second: pd.DataFrame, **options
) -> dict[str, dict[str, Interval]]:
    """Metrics of `first` less those of `second`, as `evaluate_sets` gives them.

    Both are taken on the same resampled questions.  The sample counts of the two may differ.
    Raises ValueError where they are not about the same questions.
    """
    keys = ["dataset", "question_id"]
    questions = [set(frame[keys].itertuples(index=False, name=None)) for frame in (first, second)]
    if questions[0] != questions[1]:
        odd = min(questions[0] ^ questions[1], key=str)
        raise ValueError(
            f"paired difference: question {odd[1]!r} of {odd[0]!r} is on one side only"
        )
    ours, theirs = set_draws(first, options), set_draws(second, options)
    return {
        dataset: {name: interval(draws - theirs[dataset][name]) for name, draws in metrics.items()}
        for dataset, metrics in ours.items()
    }


def bootstrap(
    question_id,
    correct,
    confidence,
    *,
    ks: Sequence[int] = (),
    bins=10,
    closed: str = "left",
    resamples: int = 1000,
    seed: int | Sequence[int] = 0,
) -> dict[str, np.ndarray]:
    """The metrics of `evaluate` as arrays (1 + resamples,): the value itself, then each resample's.

    question_id, correct, confidence: shape (samples,).  ks: the k of each pass@k wanted.  bins,
    closed: as in `ece`.  Equal seeds draw the same questions for every system that answered the
    same ones, so draws can be subtracted.
    """
    from scipy.sparse import csr_array

    correct, confidence = checked(correct, confidence)
    question, questions = numbered(question_id, len(correct))
    stated = ~np.isnan(confidence)
    levels, level = np.unique(confidence[stated], return_inverse=True)
    cells = (question[stated], level + len(levels) * correct[stated])
    histograms = csr_array((np.ones(len(level)), cells), shape=(questions, 2 * len(levels)))
    samples, hits, parsed = (np.bincount(question, w, questions) for w in (None, correct, stated))
    rates = np.column_stack([hits / samples, *(pass_at_k(samples, hits, k) for k in ks)])
    edges = _edges(confidence[stated], bins, "width")
    blocks = []
    for weights in question_weights(questions, resamples, seed):
        wrong, right = np.split(weights @ histograms, 2, axis=-1)
        means = weights @ rates / questions
        blocks.append(
            {
                "pass1": means[:, 0],
                **_of_confidence(levels, right, wrong, edges, closed),
                "parse_rate": (weights @ parsed) / (weights @ samples),
                **{f"pass@{k}": means[:, n] for n, k in enumerate(ks, start=1)},
            }
        )
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def paired_bootstrap(
    question_id,
    columns: Mapping[str, np.ndarray],
    *,
    resamples: int = 1000,
    seed: int | Sequence[int] = 0,
) -> dict[str, np.ndarray]:
    """Means over questions of several columns, all on the same resamples.

    columns: arrays of shape (samples,).  Returns arrays of shape (1 + resamples,), the value itself
    and then each resample's, to be combined and given to `interval`; for a paired difference,
    `interval(draws["ours"] - draws["theirs"])`.
    """
    names, values = list(columns), [np.asarray(column, dtype=float) for column in columns.values()]
    question, questions = numbered(question_id, len(values[0]))
    samples = np.bincount(question, minlength=questions)
    rates = np.column_stack([np.bincount(question, value, questions) / samples for value in values])
    draws = (
        np.concatenate(
            [weights @ rates for weights in question_weights(questions, resamples, seed)]
        )
        / questions
    )
    return dict(zip(names, draws.T, strict=True))


def interval(draws: np.ndarray) -> Interval:
    """95% percentile interval of draws whose first entry is the value; NaN draws are left out."""
    value, rest = float(draws[0]), draws[1:][~np.isnan(draws[1:])]
    if np.isnan(value) or not len(rest):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(rest, [2.5, 97.5])
    return Interval(value, min(float(low), value), max(float(high), value))


def dataset_seed(seed: int, dataset: str) -> list[int]:
    """The seed of one dataset's resamples: its own, whichever datasets stand beside it."""
    return [seed, zlib.crc32(dataset.encode())]


def set_draws(records: pd.DataFrame, options: dict) -> dict[str, dict[str, np.ndarray]]:
    """`bootstrap` for each dataset, then "mean": the draws behind `evaluate_sets`."""
    options = dict(options)
    seed = options.pop("seed", 0)
    sets = {
        dataset: bootstrap(
            rows["question_id"],
            rows["correct"],
            rows["confidence"],
            seed=dataset_seed(seed, dataset),
            **options,
        )
        for dataset, rows in records.groupby("dataset", sort=False)
    }
    if not sets:
        raise ValueError("no records to evaluate")
    names = next(iter(sets.values()))
    return {
        **sets,
        "mean": {name: np.mean([draws[name] for draws in sets.values()], axis=0) for name in names},
    }


def question_weights(
    questions: int, resamples: int, seed: int | Sequence[int]
) -> Iterator[np.ndarray]:
    """How often each question counts (rows, questions): once each, then as resamples drew it."""
    yield np.ones((1, questions))
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // questions)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        picks = (
            rng.integers(questions, size=(rows, questions)) + questions * np.arange(rows)[:, None]
        )
        yield (
            np.bincount(picks.ravel(), minlength=rows * questions)
            .reshape(rows, questions)
            .astype(float)
        )


# --- metrics of histograms: levels (L,) rising; right, wrong (..., L) -----------------------------


def _of_confidence(levels, right, wrong, edges, closed) -> dict[str, np.ndarray]:
    """Metrics of histograms of right and wrong answers by stated confidence, one a row."""
    return {
        "ece": _ece(levels, right, wrong, edges, closed),
        "brier": _brier(levels, right, wrong),
        "auroc": _auroc(levels, right, wrong),
        "aurc": _aurc(levels, right, wrong),
        "levels": (right + wrong > 0).sum(axis=-1, dtype=float),
    }


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
    """The ratio, NaN where the denominator is 0."""
    empty = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=empty, where=np.asarray(denominator) > 0)


def _binned(confidence, correct, bins, binning, closed):
    levels, right, wrong = _histogram(confidence, correct)
    rows = np.repeat(levels, (right + wrong).astype(int))
    return levels, right, wrong, _edges(rows, bins, binning)


def _bin_of(levels: np.ndarray, edges: np.ndarray, closed: str) -> np.ndarray:
    if closed not in ("left", "right"):
        raise ValueError(f'closed={closed!r}; use "left" or "right"')
    index = np.searchsorted(edges, levels, side="right" if closed == "left" else "left") - 1
    return np.clip(index, 0, len(edges) - 2)


def _edges(rows: np.ndarray, bins, binning: str) -> np.ndarray:
    if np.ndim(bins) == 1:
        edges = np.asarray(bins, dtype=float)
        if len(edges) < 2 or np.any(np.diff(edges) <= 0) or edges[0] > 0 or edges[-1] < 1:
            raise ValueError(f"bins={bins!r}; edges must rise from 0 to 1")
        return edges
    if not isinstance(bins, (int, np.integer)) or bins < 1:
        raise ValueError(f"bins={bins!r}; use a whole number of at least 1, or the edges")
    if binning == "width":
        return np.arange(bins + 1) / bins
    if binning != "mass":
        raise ValueError(f'binning={binning!r}; use "width" or "mass"')
    parts = [part for part in np.array_split(np.sort(rows), bins) if len(part)]
    halfway = [(below[-1] + above[0]) / 2 for below, above in pairwise(parts)]
    return np.unique([-np.inf, *halfway, np.inf])


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
        raise ValueError(
            f"correct is {correct.shape}, confidence {confidence.shape}; both must be (samples,)"
        )
    if not np.isin(correct, (0, 1)).all():
        raise ValueError("correct holds something other than 0, 1, False and True")
    outside = (confidence < 0) | (confidence > 1)
    if outside.any():
        raise ValueError(
            f"confidence {confidence[outside][0]} at row {outside.argmax()} is outside [0, 1]"
        )
    return correct.astype(int), confidence


def numbered(question_id, rows: int) -> tuple[np.ndarray, int]:
    """Each row's question as a number, by sorted id so that the order of rows cannot matter."""
    numbers, ids = pd.factorize(np.asarray(question_id), sort=True)
    if len(numbers) != rows or not rows or numbers.min() < 0:
        given = (numbers >= 0).sum()
        raise ValueError(
            f"{given} question ids for {rows} rows; each row needs one, of at least one"
        )
    return numbers, len(ids)
