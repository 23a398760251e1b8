"""Confidence from elsewhere than the stated numeral.

Each estimator maps records (with activations where it needs them) to a column of confidences in [0, 1], NaN
where it has none.  What is fitted is fitted on the calibration split alone; its confidences on that very split are
out-of-fold by question, so that a threshold chosen there is not chosen on what the estimator has seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

_FOLDS = 5
_EPOCHS, _PATIENCE, _RATE, _PENALTY = 400, 20, 1e-3, 1e-3
PROBE_RECIPE = {
    "epochs": _EPOCHS,
    "patience": _PATIENCE,
    "rate": _RATE,
    "penalty": _PENALTY,
    "folds": _FOLDS,
}


# --- from the token probabilities that were kept at generation ------------------------------------


def average_probability(records: pd.DataFrame, over: str = "all") -> pd.Series:
    """AvgProb: mean probability of the tokens of the whole completion (over="all") or of the answer ("answer")."""
    columns = {"all": "mean_probability", "answer": "answer_probability"}
    if over not in columns:
        raise ValueError(f"over={over!r} is not one of {', '.join(columns)}")
    return _kept(records, columns[over])


def digit_expectation(records: pd.DataFrame) -> pd.DataFrame:
    """Expectation over the numerals that could stand for the confidence, in place of the sampled one (CREDO).

    Columns: digits, the expectation over the numerals whose probability is known; mass, their sum: what is missing to 1 was
    cut off by `top_logprobs`, or is text that is no numeral.  NaN and 0 where no confidence was stated.
    """
    found = [parse_numerals(text) for text in _kept(records, "numerals")]
    mass = np.array([sum(numerals.values()) for numerals in found])
    total = np.array(
        [sum(float(numeral) * p for numeral, p in numerals.items()) for numerals in found]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return pd.DataFrame(
            {"digits": np.clip(total / mass, 0, 1), "mass": np.minimum(mass, 1.0)},
            index=records.index,
        )


def parse_numerals(text: str | float | None) -> dict[str, float]:
    """What `evaluation.format_numerals` wrote; empty for a null field."""
    if not isinstance(text, str):
        return {}
    return {numeral: float(p) for numeral, p in (item.split(":") for item in text.split())}


def _kept(records: pd.DataFrame, column: str) -> pd.Series:
    if column not in records or records[column].isna().all():
        raise ValueError(
            f"records hold no {column}: generate them with log-probabilities (keep_logprobs=True)"
        )
    return records[column]


# --- from several samples -------------------------------------------------------------------------


def self_consistency(records: pd.DataFrame) -> pd.DataFrame:
    """The vote of a question's samples: every row gets the majority answer, its share of votes, and the cost of them all.

    Equal answers are equal strings; a tie goes to the answer that came first, and no answer is no vote.  Columns as in the
    records, with answer, correct, confidence, prompt_tokens and completion_tokens (summed over samples) replaced.
    Source: Wang et al. 2022, arXiv 2203.11171.
    """
    keys = ["system", "dataset", "question_id"]
    rows = records.sort_values([*keys, "sample"], kind="stable")
    votes = rows.groupby([*keys, "answer"], sort=False).agg(
        votes=("sample", "size"), first=("sample", "min"), right=("correct", "first")
    )
    best = votes.sort_values(["votes", "first"], ascending=[False, True]).reset_index("answer")
    best = best[~best.index.duplicated()]
    index = pd.MultiIndex.from_frame(rows[keys])
    chosen = best.reindex(index)
    samples = rows.groupby(keys)["sample"].transform("size")
    voted = rows.assign(
        answer=chosen["answer"].to_numpy(),
        correct=np.array([right is True or right == 1 for right in chosen["right"]]),
        confidence=(chosen["votes"].to_numpy() / samples).to_numpy(),
        **{
            name: rows.groupby(keys)[name].transform("sum")
            for name in ("prompt_tokens", "completion_tokens")
        },
    )
    return voted.loc[records.index]


# --- fitted: a probe of the hidden states, and a router that reads the question -------------------


@dataclass(frozen=True)
class Probe:
    """A linear head on one layer's hidden state, and how it was found."""

    layer: int
    epochs: int
    loss: float  # log loss on the held-out questions
    predict: Callable[
        [np.ndarray], np.ndarray
    ]  # states (rows, layers, hidden) -> confidences (rows,)


def fit_probe(states: np.ndarray, correct, question_id, *, seed: int = 0, fold: int = 0) -> Probe:
    """A logistic head on standardised hidden states, early-stopped; layer and epoch are the best on held-out questions.

    states: (rows, layers, hidden), see `engines.hidden_states`; correct, question_id: (rows,).  A fifth of the questions,
    the fold of that number, is held out.  Raises ValueError where rows differ in number or either part has one class only.
    """
    correct = np.asarray(correct, dtype=int)
    held = folds(question_id, seed) == fold
    if len(states) != len(correct) or len(held) != len(correct):
        raise ValueError(
            f"{len(states)} states, {len(correct)} grades and {len(held)} question ids; use one of each a row"
        )
    for name, part in (("held-out", held), ("training", ~held)):
        if len(np.unique(correct[part])) < 2:
            raise ValueError(
                f"the probe's {name} part of the calibration split has no right, or no wrong, answers"
            )
    return min(
        (_layer(states[:, n], correct, held, n, seed) for n in range(states.shape[1])),
        key=lambda probe: probe.loss,
    )


def _layer(
    states: np.ndarray, correct: np.ndarray, held: np.ndarray, layer: int, seed: int
) -> Probe:
    from sklearn.linear_model import SGDClassifier
    from sklearn.metrics import log_loss
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(states[~held])
    inside, outside = scaler.transform(states[~held]), scaler.transform(states[held])
    head = SGDClassifier(
        loss="log_loss",
        alpha=_PENALTY,
        learning_rate="constant",
        eta0=_RATE,
        average=True,
        random_state=seed,
    )
    best, kept = (np.inf, 0), (np.zeros(states.shape[-1]), 0.0)
    for epoch in range(1, _EPOCHS + 1):
        head.partial_fit(inside, correct[~held], classes=[0, 1])
        loss = log_loss(correct[held], head.predict_proba(outside)[:, 1], labels=[0, 1])
        if loss < best[0]:
            best, kept = (loss, epoch), (head.coef_[0].copy(), float(head.intercept_[0]))
        elif epoch - best[1] >= _PATIENCE:
            break
    weights, bias = kept

    def predict(given: np.ndarray) -> np.ndarray:
        return _sigmoid(scaler.transform(given[:, layer]) @ weights + bias)

    return Probe(layer, best[1], float(best[0]), predict)


def probe_confidences(
    states: Mapping[str, np.ndarray],
    records: Mapping[str, pd.DataFrame],
    calibration: str,
    seed: int = 0,
):
    """A probe fitted on the calibration set, and its confidences on every set.

    states, records: by dataset, row for row.  On the calibration set each fifth of the questions is judged by a probe that
    neither trained nor stopped on it.  Returns (probe, {dataset: confidences}).
    """
    known = records[calibration]
    correct, questions = known["correct"].to_numpy(), known["question_id"].to_numpy()
    probe = fit_probe(states[calibration], correct, questions, seed=seed)
    found = {name: probe.predict(given) for name, given in states.items()}
    fold_of = folds(questions, seed)
    for fold in range(_FOLDS):
        inside = fold_of != fold
        own = fit_probe(
            states[calibration][inside], correct[inside], questions[inside], seed=seed + 1
        )
        found[calibration][~inside] = own.predict(states[calibration][~inside])
    return probe, found


def router_confidences(records: pd.DataFrame, calibration: str, *, seed: int = 0) -> pd.Series:
    """P(the SLM is right) from the question alone, before the SLM is asked.

    Logistic regression on counts of character 1- to 3-grams, its strength chosen on held-out
    questions; fitted on the records of group `calibration`, out-of-fold there.
    """
    is_known = (records["group"] == calibration).to_numpy()
    asked = records["question"].to_numpy(dtype=object)
    known, correct = asked[is_known], records.loc[is_known, "correct"].to_numpy().astype(int)
    if len(np.unique(correct)) < 2:
        raise ValueError(
            "the calibration split has no right, or no wrong, answers to fit a router on"
        )
    fold_of = folds(records.loc[is_known, "question_id"], seed)
    strength = _router_strength(known, correct, fold_of == 0)
    right = records["correct"].to_numpy().astype(int)

    def judge(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        return _by_text(_fit_router(asked[inside], right[inside], strength), asked[outside])

    return pd.Series(_out_of_fold(is_known, fold_of, judge), index=records.index)


def _router_strength(texts: np.ndarray, correct: np.ndarray, held: np.ndarray) -> float:
    """The inverse regularisation of least log loss on the held-out rows."""
    from sklearn.metrics import log_loss

    losses = {
        strength: log_loss(
            correct[held],
            _by_text(_fit_router(texts[~held], correct[~held], strength), texts[held]),
            labels=[0, 1],
        )
        for strength in (1e-3, 1e-2, 1e-1)
    }
    return min(losses, key=losses.__getitem__)


def _fit_router(texts: np.ndarray, correct: np.ndarray, strength: float):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    # One row a question and outcome, weighted: the same fit as one row a sample, at a fraction of the time.
    rows = (
        pd.DataFrame({"text": texts, "correct": correct})
        .groupby(["text", "correct"], as_index=False)
        .size()
    )
    model = make_pipeline(
        TfidfVectorizer(
            analyzer="char",
            ngram_range=(1, 3),
            min_df=2,
            sublinear_tf=True,
            norm=None,
            lowercase=False,
        ),
        LogisticRegression(C=strength, max_iter=1000, tol=1e-3),
    )
    return model.fit(rows["text"], rows["correct"], logisticregression__sample_weight=rows["size"])


def _by_text(model, texts: Sequence[str]) -> np.ndarray:
    different = list(dict.fromkeys(texts))
    found = dict(zip(different, model.predict_proba(different)[:, 1], strict=True))
    return np.array([found[text] for text in texts])


def folds(question_id, seed: int = 0) -> np.ndarray:
    """The fold of each row, 0 to 4: all rows of a question are in one, whatever else is in the table."""
    return np.array([_draw(f"{seed}/fold/{question}") % _FOLDS for question in question_id])


def _out_of_fold(
    known: np.ndarray, fold_of: np.ndarray, judge: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Confidences of all rows: of those not known by a fit on the known, of each fold of the known by a fit without it.

    known: (rows,) bool; fold_of: of the known rows; judge(inside, outside): confidences of the rows numbered `outside` by a
    fit on those numbered `inside`.
    """
    rows, found = np.flatnonzero(known), np.empty(len(known))
    if not known.all():
        found[~known] = judge(rows, np.flatnonzero(~known))
    for fold in np.unique(fold_of):
        found[rows[fold_of == fold]] = judge(rows[fold_of != fold], rows[fold_of == fold])
    return found


# --- what asking the LLM is worth -----------------------------------------------------------------


def deferral_gain(
    slm: pd.DataFrame, llm: pd.DataFrame, calibration: str, *, seed: int = 0
) -> pd.Series:
    """How little there is to gain, for each token paid, from asking the LLM: a score in [0, 1], high where to keep.

    A cascade that keeps what is likely right still pays for questions that neither model solves, and as much for a long
    question as for a short one.  Here the score falls with (P(LLM right) - P(SLM right)) / tokens.  Both probabilities are
    logistic in what the SLM's answer shows (`_shown`), fitted on the records of group `calibration`, out-of-fold there; the
    LLM's tokens are taken to grow as the SLM's own.  A score of a half means nothing to gain; it is no probability.
    llm: records of the same questions and samples.  Raises ValueError where some are missing.
    """
    known = (slm["group"] == calibration).to_numpy()
    theirs = _of_llm(slm[known], llm)
    ours = slm.loc[known, "correct"].to_numpy().astype(int)
    shown = _shown(slm)
    fold_of = folds(slm.loc[known, "question_id"], seed)
    gain = _logistic(shown, theirs, known, fold_of) - _logistic(shown, ours, known, fold_of)
    tokens = (slm["prompt_tokens"] + slm["completion_tokens"]).to_numpy()
    return pd.Series(_sigmoid(-gain * tokens[known].mean() / tokens), index=slm.index)


def _shown(slm: pd.DataFrame) -> np.ndarray:
    """What the SLM's answer shows of itself, (rows, 5): doubt in all tokens and in the answer's, stated odds, lengths."""
    tokens = slm["completion_tokens"].to_numpy(dtype=float)
    doubt = (
        1 - average_probability(slm).fillna(0).to_numpy()
    ) * tokens  # expected number of tokens that differ
    answer = 1 - average_probability(slm, "answer").fillna(0).to_numpy()
    stated = digit_expectation(slm)["digits"].fillna(0).to_numpy()
    columns = (
        np.log(doubt + 1e-3),
        np.log(answer + 1e-4),
        _log_odds(stated),
        np.log(tokens),
        np.log(slm["prompt_tokens"]),
    )
    return np.column_stack(columns)


def _logistic(
    features: np.ndarray, right: np.ndarray, known: np.ndarray, fold_of: np.ndarray
) -> np.ndarray:
    """P(right) by logistic regression on standardised features, out-of-fold on the known rows; right: of these alone."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    outcome = np.zeros(len(features), dtype=int)
    outcome[known] = right

    def judge(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        if len(np.unique(outcome[inside])) < 2:
            raise ValueError(
                "the calibration split has no right, or no wrong, answers of one of the models"
            )
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(
            features[inside], outcome[inside]
        )
        return model.predict_proba(features[outside])[:, 1]

    return _out_of_fold(known, fold_of, judge)


# --- on top of any other --------------------------------------------------------------------------

RECALIBRATIONS = ("isotonic", "platt", "temperature")


def recalibration(method: str, confidence, correct) -> Callable[[np.ndarray], np.ndarray]:
    """A rising map from confidence to P(correct), fitted by scikit-learn (temperature: by SciPy); NaN stays NaN.

    confidence, correct: of the calibration split, shape (rows,); rows without a confidence are left out.  "isotonic" is
    stepwise, "platt" logistic in the log-odds, "temperature" divides the log-odds (Guo et al. 2017).  Raises ValueError for an
    unknown method, and without both right and wrong answers.
    """
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=int)
    stated = ~np.isnan(confidence)
    given, right = confidence[stated], correct[stated]
    if method not in RECALIBRATIONS:
        raise ValueError(f"recalibration {method!r} is not one of {', '.join(RECALIBRATIONS)}")
    if len(np.unique(right)) < 2:
        raise ValueError(
            "the calibration split has no right, or no wrong, answers to recalibrate on"
        )
    fitted = {"isotonic": _isotonic, "platt": _platt, "temperature": _temperature}[method](
        given, right
    )

    def apply(values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, dtype=float)
        found = np.full(len(values), np.nan)
        known = ~np.isnan(values)
        if known.any():
            found[known] = np.clip(fitted(values[known]), 0, 1)
        return found

    return apply


def recalibrated(
    method: str, records: pd.DataFrame, calibration: str, *, seed: int = 0
) -> np.ndarray:
    """The confidences of records mapped by a `recalibration` fitted on group `calibration`, out-of-fold there."""
    known = (records["group"] == calibration).to_numpy()
    confidence, correct = records["confidence"].to_numpy(dtype=float), records["correct"].to_numpy()

    def judge(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        return recalibration(method, confidence[inside], correct[inside])(confidence[outside])

    return _out_of_fold(known, folds(records.loc[known, "question_id"], seed), judge)


def _isotonic(given, right):
    from sklearn.isotonic import IsotonicRegression

    return IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(given, right).predict


def _platt(given, right):
    from sklearn.linear_model import LogisticRegression

    # C so large that it is no penalty; a falling map would turn the confidence around, so the slope is kept at 0 or above.
    model = LogisticRegression(C=1e6).fit(_log_odds(given)[:, None], right)
    slope, bias = max(0.0, float(model.coef_[0, 0])), float(model.intercept_[0])
    return lambda values: _sigmoid(slope * _log_odds(values) + bias)


def _temperature(given, right):
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        p = np.clip(_sigmoid(_log_odds(given) / np.exp(log_temperature)), 1e-12, 1 - 1e-12)
        return -float(np.mean(right * np.log(p) + (1 - right) * np.log(1 - p)))

    temperature = np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x)
    return lambda values: _sigmoid(_log_odds(values) / temperature)


def _log_odds(values: np.ndarray) -> np.ndarray:
    p = np.clip(values, 1e-3, 1 - 1e-3)  # stated confidences of 0 and 1 have no finite log-odds
    return np.log(p / (1 - p))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -50, 50)))


# --- the lines below and above all others ---------------------------------------------------------


def random_confidence(records: pd.DataFrame, seed: int = 0) -> pd.Series:
    """A number in [0, 1) drawn by question and sample: it says nothing."""
    keys = records[["dataset", "question_id", "sample"]].itertuples(index=False, name=None)
    return pd.Series(
        [_draw(f"{seed}/random/{d}/{q}/{s}") / 2**64 for d, q, s in keys], index=records.index
    )


def oracle_confidence(slm: pd.DataFrame, llm: pd.DataFrame) -> pd.Series:
    """What a deferral that knows both answers and the LLM's price would do: a score, no probability.

    1 where the SLM is right or the LLM is not; else under a half, the lower the fewer tokens the LLM takes: the cheapest
    rescues come first.
    """
    rescued = ~slm["correct"].to_numpy(dtype=bool) & (_of_llm(slm, llm) == 1)
    tokens = _of_llm(slm, llm, "prompt_tokens") + _of_llm(slm, llm, "completion_tokens")
    return pd.Series(np.where(rescued, 0.5 * tokens / (tokens + 1000), 1.0), index=slm.index)


def _of_llm(slm: pd.DataFrame, llm: pd.DataFrame, column: str = "correct") -> np.ndarray:
    """A column of the LLM's records, as whole numbers, on the question and sample of each row of the SLM's."""
    keys = ["dataset", "question_id", "sample"]
    other = llm.set_index(keys)[column].reindex(pd.MultiIndex.from_frame(slm[keys]))
    if other.isna().any():
        raise ValueError(
            "the LLM's records lack a question that the SLM answered; this estimator needs both"
        )
    return other.to_numpy(dtype=int)


def _draw(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
