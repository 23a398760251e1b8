"""When a cascade saves: what two accuracies, their errors' correlation, AUROC and price decide.

A model answers right if its margin, a standard normal, is high enough for its accuracy. The margins
of SLM and LLM correlate by `rho`. A confidence correlates with the SLM's margin as its AUROC says,
and knows of the LLM's only through it. The most confident share is kept; a loss is the LLM's Pass@1
less the cascade's, a saving a share of the LLM's cost. All arguments are numbers or arrays that
broadcast, and all of it is quadrature: nothing is drawn. SciPy is imported where it is needed.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

WITHIN = 0.02  # the loss that the paper allows
GAPS = (0.02, 0.04, 0.05, 0.06, 0.08, 0.10, 0.12, 0.15, 0.20, 0.25, 0.30, 0.36, 0.40)
AUROCS = (0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95)
RHOS = (0.6, 0.7, 0.85, 0.95)
PRICES = (0.1, 0.2, 0.3, 0.5)
LLM = 0.80  # the LLM's accuracy on the map; the SLM's is that less the gap
EXTREME = 8.0  # margins beyond it do not occur
_STEPS = 201  # of the shares kept, even in the confidence
_NODES = 24  # of the quadrature


class Curve(NamedTuple):
    """A cascade by the share it keeps: arrays (..., shares), the shares from none to all."""

    kept: np.ndarray
    loss: np.ndarray
    saving: np.ndarray


def both(first, second, rho) -> np.ndarray:
    """The probability of two events with these probabilities whose probit latents correlate by rho.

    The integral of the bivariate normal over its correlation (Drezner and Wesolowsky 1990).
    """
    from scipy.special import ndtri

    first, second, rho = (np.asarray(value, dtype=float) for value in (first, second, rho))
    h, k = (np.clip(ndtri(p), -EXTREME, EXTREME)[..., None] for p in (first, second))
    angle = np.arcsin(np.clip(rho, -0.99999, 0.99999))
    nodes, weights = quadrature()
    sine = np.sin(angle[..., None] * (nodes + 1) / 2)
    density = np.exp((h * k * sine - (h * h + k * k) / 2) / (1 - sine * sine))
    return first * second + angle / (4 * np.pi) * (density @ weights)


@functools.cache
def quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Nodes in [-1, 1] and weights of the integral in `both`."""
    return np.polynomial.legendre.leggauss(_NODES)


@functools.cache
def shares() -> np.ndarray:
    """The shares kept of a smooth confidence, dense where few or nearly all are."""
    from scipy.special import ndtr

    inside = ndtr(np.linspace(-5, 5, _STEPS))
    return np.concatenate([[0.0], inside, [1.0]])


def auroc_of(correlation, accuracy, kept=None) -> np.ndarray:
    """The AUROC of a confidence that correlates so with the margin of a model of this accuracy.

    Args:
        kept: the shares at which it can be cut, rising from 0 to 1, if it has few levels (a tie
            counts half); by default it is smooth.
    """
    kept = shares() if kept is None else np.asarray(kept)
    accuracy = np.asarray(accuracy)[..., None]
    right = both(accuracy, kept, np.asarray(correlation)[..., None])
    right, wrong = right / accuracy, (kept - right) / (1 - accuracy)
    return (np.diff(wrong) * (right[..., 1:] + right[..., :-1]) / 2).sum(-1)


def correlation_of(auroc, accuracy, kept=None) -> np.ndarray:
    """The correlation that gives an AUROC: the inverse of `auroc_of`."""
    return _solve(lambda correlation: auroc_of(correlation, accuracy, kept), auroc, accuracy)


def _solve(rising: Callable[[np.ndarray], np.ndarray], target, *shapes) -> np.ndarray:
    """The correlation at which a rising function reaches a target, by bisection; NaN for NaN."""
    shape = np.broadcast_shapes(np.shape(target), *map(np.shape, shapes))
    low, high, target = np.full(shape, -1.0), np.full(shape, 1.0), np.asarray(target)
    for _ in range(30):
        middle = (low + high) / 2
        below = rising(middle) < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(np.isnan(target), np.nan, middle)


def tetrachoric(first, second) -> float:
    """The correlation of two probit latents behind columns of 0 and 1 (rows,); see below."""
    first, second = (np.asarray(column, dtype=float) for column in (first, second))
    together = (first * second).mean()
    return float(tetrachoric_of(first.mean(), second.mean(), together, len(first)))


def tetrachoric_of(first, second, together, rows: float) -> np.ndarray:
    """The tetrachoric correlation from shares: of each column right, and of both right.

    An empty one of the four cells of `rows` rows would make it 1 or -1: half a row is added to each
    then. NaN if all of a column are right, or all wrong.
    """
    first, second, together = (
        np.asarray(share, dtype=float) for share in (first, second, together)
    )
    cells = np.stack([together, first - together, second - together, 1 - first - second + together])
    cells = np.where((cells < 1e-9).any(axis=0), (cells * rows + 0.5) / (rows + 2), cells)
    one, other = cells[0] + cells[1], cells[0] + cells[2]
    rho = _solve(lambda rho: both(one, other, rho), cells[0])
    varies = [abs(2 * share - 1) < 1 - 1e-9 for share in (first, second)]
    return np.where(np.logical_and(*varies), rho, np.nan)


def curve(
    slm, llm, auroc, rho, price=0.2, dearer=1.0, *, kept=None, before_generation: bool = False
) -> Curve:
    """The cascade of every share kept.

    Args:
        slm, llm: accuracies.
        price: the SLM's cost per question over the LLM's.
        dearer: the LLM's cost of the deferred questions over its cost of all.
        kept: as in `auroc_of`.
        before_generation: a router decides, so that only kept questions pay the SLM.
    """
    kept = shares() if kept is None else np.asarray(kept)
    slm, llm, rho, price, dearer, correlation = (
        np.asarray(value, dtype=float)[..., None]
        for value in (slm, llm, rho, price, dearer, correlation_of(auroc, slm, kept))
    )
    loss = both(llm, kept, correlation * rho) - both(slm, kept, correlation)
    return Curve(kept, loss, _saved(kept, price, dearer, before_generation))


def _saved(kept, price, dearer, before_generation: bool) -> np.ndarray:
    return 1 - price * (kept if before_generation else 1) - (1 - kept) * dearer


def largest_saving(cascade: Curve, within: float = WITHIN, *, alone: bool = False) -> np.ndarray:
    """The largest saving of a curve, or of a coin between neighbours on it, within a loss.

    It is negative where the cascade costs more than the LLM: such a one saves nothing. NaN if the
    losses are not known.

    Args:
        alone: a coin may also send questions to the LLM alone, without the SLM: the least is 0.
    """
    loss, saving = np.broadcast_arrays(cascade.loss, cascade.saving)
    fits = loss <= within + 1e-12
    best = np.where(fits, saving, -np.inf).max(axis=-1)
    crosses = fits[..., 1:] != fits[..., :-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (within - loss[..., :-1]) / np.diff(loss)
        between = saving[..., :-1] + share * np.diff(saving)
        asked = np.where(fits, 1.0, within / loss)  # the share of questions sent to the cascade
    best = np.maximum(best, np.where(crosses, between, -np.inf).max(axis=-1))
    if alone:
        best = np.maximum(best, (asked * saving).max(axis=-1).clip(min=0))
    return np.where(np.isnan(loss).any(axis=-1), np.nan, best)


def by_rule(
    slm, llm, auroc, rho, price=0.2, dearer=1.0, *, before_generation: bool = False
) -> Curve:
    """The paper's rule with a calibrated confidence: keep where P(right) is the LLM's accuracy."""
    from scipy.special import ndtr, ndtri

    slm, llm = np.asarray(slm, dtype=float), np.asarray(llm, dtype=float)
    knows = correlation_of(auroc, slm).clip(min=1e-9)  # of a constant one all or nothing is kept
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = ndtr((ndtri(slm) - ndtri(llm) * np.sqrt(1 - knows**2)) / knows)
    loss = both(llm, kept, knows * rho) - both(slm, kept, knows)
    return Curve(kept, loss, _saved(kept, np.asarray(price), dearer, before_generation))


def coin_saving(gap, price, within: float = WITHIN) -> np.ndarray:
    """What a coin saves that is tossed before either model is asked: no confidence, no cascade."""
    return (1 - np.asarray(price)) * np.minimum(1, within / np.maximum(gap, 1e-9))


def auroc_needed(saving: float, gap: float, rho: float, price: float, llm: float = LLM) -> float:
    """The least AUROC at which a cascade saves so much within 2 points; NaN if .99 does not."""
    aurocs = np.linspace(0.5, 0.99, 50)
    savings = largest_saving(curve(llm - gap, llm, aurocs, rho, price))
    return float(np.interp(saving, savings, aurocs, right=np.nan))


def table_map(llm: float = LLM) -> pd.DataFrame:
    """The map, a row for each gap, AUROC, rho and price.

    Returns:
        saving_best, within 2 points, negative where there is none; saving_mixed, the same with a
        coin that may send questions to the LLM alone; saving_coin, of a coin by itself, which asks
        no SLM about itself; saving_rule and loss_rule, by the paper's rule.
    """
    gap, auroc, rho, price = np.ix_(GAPS, AUROCS, RHOS, PRICES)
    cascade, rule = (
        curve(llm - gap, llm, auroc, rho, price),
        by_rule(llm - gap, llm, auroc, rho, price),
    )
    columns = {
        "gap": gap, "auroc": auroc, "rho": rho, "price": price,
        "saving_best": largest_saving(cascade),
        "saving_mixed": largest_saving(cascade, alone=True),
        "saving_coin": coin_saving(gap, price),
        "saving_rule": rule.saving, "loss_rule": rule.loss,
    }  # fmt: skip
    together = np.broadcast_arrays(*columns.values())
    return pd.DataFrame(dict(zip(columns, map(np.ravel, together), strict=True)))
