"""Sources of confidence other than the stated numeral.

Each maps records (with what else it needs) to confidences in [0, 1], NaN if it has none. What is
fitted is fitted on the group "calibration" of the records; its confidences on that very split are
out-of-fold by question, so that a threshold chosen there is not chosen on what was fitted to.
"""

import copy
import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from corea.engines.numerals import parse_numerals
from corea.questions.base import CALIBRATION

PROBE_RECIPE: dict = {"epochs": 400, "patience": 20, "rate": 1e-3, "penalty": 1e-3, "folds": 5}
_FOLDS = PROBE_RECIPE["folds"]
_Map = Callable[[np.ndarray], np.ndarray]  # from inputs (rows, ...) to confidences (rows,)


def average_probability(records: pd.DataFrame, over: str = "all") -> pd.Series:
    """Mean probability of the tokens of the whole completion ("all") or of its "answer"."""
    if over not in ("all", "answer"):
        raise ValueError(f"over={over!r} is not one of all, answer")
    return _kept(records, "mean_probability" if over == "all" else "answer_probability")


def digit_expectation(records: pd.DataFrame) -> pd.DataFrame:
    """The expectation over numerals that could stand for the confidence (CREDO), NaN if none does.

    Column mass is their known probability: the rest was cut off.
    """
    numerals = [parse_numerals(text) for text in _kept(records, "numerals")]
    mass = np.array([sum(by_text.values()) for by_text in numerals])
    total = np.array([sum(float(text) * p for text, p in each.items()) for each in numerals])
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {"digits": np.clip(total / mass, 0, 1), "mass": np.minimum(mass, 1.0)}
    return pd.DataFrame(columns, index=records.index)


def _kept(records: pd.DataFrame, column: str) -> pd.Series:
    if column not in records or records[column].isna().all():
        how = "generate them with log-probabilities (keep_logprobs=True)"
        raise ValueError(f"records hold no {column}: {how}")
    return records[column]


def self_consistency(records: pd.DataFrame) -> pd.DataFrame:
    """The vote of a question's samples: the majority answer, its share of votes, the cost of all.

    A tie goes to the answer that came first. Source: Wang et al. 2022, arXiv 2203.11171.
    """
    keys = ["system", "dataset", "question_id"]
    rows = records.sort_values([*keys, "sample"], kind="stable")
    votes = rows.groupby([*keys, "answer"], sort=False).agg(
        votes=("sample", "size"), first=("sample", "min"), right=("correct", "first")
    )
    best = votes.sort_values(["votes", "first"], ascending=[False, True]).reset_index("answer")
    chosen = best[~best.index.duplicated()].reindex(pd.MultiIndex.from_frame(rows[keys]))
    by_question = rows.groupby(keys)
    voted = rows.assign(
        answer=chosen["answer"].to_numpy(),
        correct=chosen["right"].eq(True).to_numpy(),
        confidence=chosen["votes"].to_numpy() / by_question["sample"].transform("size"),
        prompt_tokens=by_question["prompt_tokens"].transform("sum"),
        completion_tokens=by_question["completion_tokens"].transform("sum"),
    )
    return voted.loc[records.index]


@dataclass(frozen=True)
class Probe:
    """A linear head on one layer's hidden state, and the log loss on held-out questions."""

    layer: int
    epochs: int
    loss: float
    model: Any  # a scikit-learn pipeline

    def predict(self, states: np.ndarray) -> np.ndarray:
        """P(right) by row, from states (rows, layers, hidden)."""
        return _sigmoid(self.model.decision_function(states[:, self.layer]))


def fit_probe(states: np.ndarray, correct, question_id, *, seed: int = 0) -> Probe:
    """A logistic head on standardised hidden states (rows, layers, hidden), stopped early.

    Layer and epoch are the best on a held-out fifth of the questions. ValueError if rows differ in
    number, or if all answers of either part are right, or wrong.
    """
    correct, held = np.asarray(correct, dtype=int), folds(question_id, seed) == 0
    if not len(states) == len(correct) == len(held):
        sizes = f"{len(states)} states, {len(correct)} grades and {len(held)} question ids"
        raise ValueError(f"{sizes}; use one of each a row")
    for name, rows in (("held-out", held), ("training", ~held)):
        _need_both(correct[rows], f"the probe's {name} part of the calibration split")
    layers = (_fit_layer(states, correct, held, layer, seed) for layer in range(states.shape[1]))
    return min(layers, key=lambda probe: probe.loss)


def _fit_layer(
    states: np.ndarray, correct: np.ndarray, held: np.ndarray, layer: int, seed: int
) -> Probe:
    from sklearn import linear_model, metrics, pipeline, preprocessing

    scaler = preprocessing.StandardScaler().fit(states[~held, layer])
    inside, outside = (scaler.transform(states[rows, layer]) for rows in (~held, held))
    head = linear_model.SGDClassifier(loss="log_loss", alpha=PROBE_RECIPE["penalty"])
    head.set_params(learning_rate="constant", eta0=PROBE_RECIPE["rate"])
    head.set_params(average=True, random_state=seed)
    best = Probe(layer, 0, np.inf, pipeline.make_pipeline(scaler, head))
    for epoch in range(1, PROBE_RECIPE["epochs"] + 1):
        head.partial_fit(inside, correct[~held], classes=[0, 1])
        loss = metrics.log_loss(correct[held], head.predict_proba(outside)[:, 1], labels=[0, 1])
        if loss < best.loss:
            model = pipeline.make_pipeline(scaler, copy.deepcopy(head))
            best = Probe(layer, epoch, float(loss), model)
        elif epoch - best.epochs >= PROBE_RECIPE["patience"]:
            break
    return best


def probe_confidences(
    states: Mapping[str, np.ndarray], records: Mapping[str, pd.DataFrame], *, seed: int = 0
) -> tuple[Probe, dict[str, np.ndarray]]:
    """A probe fitted on the calibration set, and its confidences on every set, row for row."""
    known = records[CALIBRATION]
    columns = states[CALIBRATION], known["correct"].to_numpy(), known["question_id"].to_numpy()
    probe = fit_probe(*columns, seed=seed)
    confidences = {name: probe.predict(its_states) for name, its_states in states.items()}
    fold_of = folds(known["question_id"], seed)
    for fold in range(_FOLDS):
        apart = fit_probe(*(column[fold_of != fold] for column in columns), seed=seed + 1)
        outside = fold_of == fold
        confidences[CALIBRATION][outside] = apart.predict(states[CALIBRATION][outside])
    return probe, confidences


def router_confidences(records: pd.DataFrame) -> pd.Series:
    """P(the SLM is right) from the question alone, by logistic regression on character n-grams."""
    from sklearn.metrics import log_loss

    known = (records["group"] == CALIBRATION).to_numpy()
    held = known & (folds(records["question_id"]) == 0)
    texts, right = records["question"].to_numpy(dtype=object), records["correct"].to_numpy(int)
    _need_both(right[known], "the calibration split")

    def loss(strength: float) -> float:
        predict = _fit_router(texts[known & ~held], right[known & ~held], strength)
        return log_loss(right[held], predict(texts[held]), labels=[0, 1])

    fit = functools.partial(_fit_router, strength=min((1e-3, 1e-2, 1e-1), key=loss))
    return pd.Series(_out_of_fold(records, texts, right, fit), index=records.index)


def _fit_router(texts: np.ndarray, correct: np.ndarray, strength: float) -> _Map:
    from sklearn import feature_extraction, linear_model, pipeline

    # A row per question and outcome, weighted: the fit of a row per sample, in far less time.
    table = pd.DataFrame({"text": texts, "correct": correct})
    rows = table.groupby(["text", "correct"], as_index=False).size()
    counts = feature_extraction.text.TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2)
    counts.set_params(sublinear_tf=True, norm=None, lowercase=False)
    head = linear_model.LogisticRegression(C=strength, max_iter=1000, tol=1e-3)
    model = pipeline.make_pipeline(counts, head)
    model.fit(rows["text"], rows["correct"], logisticregression__sample_weight=rows["size"])

    def predict(texts: np.ndarray) -> np.ndarray:
        different, number = np.unique(texts, return_inverse=True)
        return model.predict_proba(different)[:, 1][number]

    return predict


def deferral_gain(slm: pd.DataFrame, llm: pd.DataFrame) -> pd.Series:
    """How little there is to gain, for each token paid, from asking the LLM: high if to keep.

    A cascade that keeps what is likely right still pays for questions that neither model solves,
    and as much for a long question as for a short one. This score falls with (P(LLM right) -
    P(SLM right)) / tokens, both logistic in what the SLM's answer shows; the LLM's tokens are taken
    to grow as the SLM's. A half means nothing to gain. ValueError if `llm` lacks a question.
    """
    known = (slm["group"] == CALIBRATION).to_numpy()
    outcomes = np.zeros((2, len(slm)), dtype=int)  # only those of the calibration split are read
    outcomes[:, known] = slm.loc[known, "correct"], _of_llm(slm[known], llm)
    # What the SLM's answer shows of itself: doubts, stated odds, lengths.
    taken, asked = slm["completion_tokens"].to_numpy(float), slm["prompt_tokens"].to_numpy()
    whole, answer = (average_probability(slm, over).fillna(0) for over in ("all", "answer"))
    stated = digit_expectation(slm)["digits"].fillna(0).to_numpy()
    doubts = np.log((1 - whole.to_numpy()) * taken + 1e-3), np.log(1 - answer.to_numpy() + 1e-4)
    shown = np.column_stack([*doubts, _log_odds(stated), np.log(taken), np.log(asked)])
    ours, theirs = (_out_of_fold(slm, shown, right, _fit_logistic) for right in outcomes)
    tokens = asked + taken
    return pd.Series(_sigmoid((ours - theirs) * tokens[known].mean() / tokens), index=slm.index)


def _fit_logistic(features: np.ndarray, right: np.ndarray) -> _Map:
    from sklearn import linear_model, pipeline, preprocessing

    _need_both(right, "one model on the calibration split")
    steps = preprocessing.StandardScaler(), linear_model.LogisticRegression()
    model = pipeline.make_pipeline(*steps).fit(features, right)
    return lambda features: model.predict_proba(features)[:, 1]


def recalibrated(method: str, records: pd.DataFrame) -> np.ndarray:
    """The confidences of records, mapped by a `recalibration`."""
    columns = records["confidence"].to_numpy(dtype=float), records["correct"].to_numpy()
    return _out_of_fold(records, *columns, functools.partial(recalibration, method))


def recalibration(method: str, confidence, correct) -> _Map:
    """A rising map from confidence to P(correct), fitted on rows with a confidence; NaN stays NaN.

    "isotonic" is stepwise, "platt" logistic in the log-odds, "temperature" divides the
    log-odds (Guo et al. 2017).
    """
    if method not in RECALIBRATIONS:
        raise ValueError(f"recalibration {method!r} is not one of {', '.join(RECALIBRATIONS)}")
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=int)
    stated = ~np.isnan(confidence)
    _need_both(correct[stated], "the calibration split")
    fitted = RECALIBRATIONS[method](confidence[stated], correct[stated])
    return lambda values: np.where(np.isnan(values), np.nan, fitted(np.nan_to_num(values)))


def _fit_isotonic(confidence: np.ndarray, right: np.ndarray) -> _Map:
    from sklearn.isotonic import IsotonicRegression

    return IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(confidence, right).predict


def _fit_platt(confidence: np.ndarray, right: np.ndarray) -> _Map:
    from sklearn.linear_model import LogisticRegression

    # C so large that it is no penalty. A falling map would turn the confidence around.
    model = LogisticRegression(C=1e6).fit(_log_odds(confidence)[:, None], right)
    slope, bias = max(0.0, model.coef_.item()), model.intercept_.item()
    return lambda values: _sigmoid(slope * _log_odds(values) + bias)


def _fit_temperature(confidence: np.ndarray, right: np.ndarray) -> _Map:
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        p = np.clip(_sigmoid(_log_odds(confidence) / np.exp(log_temperature)), 1e-12, 1 - 1e-12)
        return -float(np.mean(right * np.log(p) + (1 - right) * np.log(1 - p)))

    temperature = np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x)
    return lambda values: _sigmoid(_log_odds(values) / temperature)


RECALIBRATIONS: dict[str, Callable[[np.ndarray, np.ndarray], _Map]] = {
    "isotonic": _fit_isotonic,
    "platt": _fit_platt,
    "temperature": _fit_temperature,
}


def random_confidence(records: pd.DataFrame) -> pd.Series:
    """A number in [0, 1) drawn by question and sample: it says nothing."""
    keys = records[["dataset", "question_id", "sample"]].itertuples(index=False, name=None)
    drawn = [_draw(f"0/random/{dataset}/{q}/{sample}") / 2**64 for dataset, q, sample in keys]
    return pd.Series(drawn, index=records.index)


def oracle_confidence(slm: pd.DataFrame, llm: pd.DataFrame) -> pd.Series:
    """1 if the LLM would not rescue the answer, else under a half: the fewer its tokens, the
    lower."""
    rescued = ~slm["correct"].to_numpy(dtype=bool) & (_of_llm(slm, llm) == 1)
    tokens = _of_llm(slm, llm, "prompt_tokens") + _of_llm(slm, llm, "completion_tokens")
    return pd.Series(np.where(rescued, 0.5 * tokens / (tokens + 1000), 1.0), index=slm.index)


def folds(question_id, seed: int = 0) -> np.ndarray:
    """The fold of each row, 0 to 4: that of its question, whatever else is in the table."""
    return np.array([_draw(f"{seed}/fold/{question}") % _FOLDS for question in question_id])


def _out_of_fold(
    records: pd.DataFrame, inputs: np.ndarray, right: np.ndarray, fit: Callable[..., _Map]
) -> np.ndarray:
    """P(right) of each row's inputs by `fit(inputs, right)`, out-of-fold by question."""
    known = (records["group"] == CALIBRATION).to_numpy()
    confidences = np.empty(len(known))
    if not known.all():
        confidences[~known] = fit(inputs[known], right[known])(inputs[~known])
    fold_of = np.where(known, folds(records["question_id"]), -1)
    for fold in np.unique(fold_of[known]):
        inside, outside = known & (fold_of != fold), fold_of == fold
        confidences[outside] = fit(inputs[inside], right[inside])(inputs[outside])
    return confidences


def _need_both(correct: np.ndarray, whose: str) -> None:
    if len(np.unique(correct)) < 2:
        raise ValueError(f"{whose} has no right, or no wrong, answers to fit on")


def _of_llm(slm: pd.DataFrame, llm: pd.DataFrame, column: str = "correct") -> np.ndarray:
    """A column of the LLM's records, as whole numbers, on each row's question and sample."""
    keys = ["dataset", "question_id", "sample"]
    other = llm.set_index(keys)[column].reindex(pd.MultiIndex.from_frame(slm[keys]))
    if other.isna().any():
        raise ValueError("the LLM's records lack a question that the SLM answered")
    return other.to_numpy(dtype=int)


def _draw(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def _log_odds(values: np.ndarray) -> np.ndarray:
    p = np.clip(values, 1e-3, 1 - 1e-3)  # stated confidences of 0 and 1 have no finite log-odds
    return np.log(p / (1 - p))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -50, 50)))
