"""Prices: arithmetic, sources, and refusals in one line."""

from __future__ import annotations

import numpy as np
import pytest

from corea.costs import Price, PriceList


@pytest.mark.parametrize(
    ("price", "prompt", "completion", "cost"),
    [
        (Price(1.0, 1.0), 600_000, 400_000, 1.0),
        (Price(2.0, 8.0), 1_000_000, 0, 2.0),  # prompt tokens alone
        (Price(2.0, 8.0), 0, 1_000_000, 8.0),  # completion tokens alone
        (Price(0.0, 0.0), 10**9, 10**9, 0.0),  # a model that is free
        (Price(1, 3), 0, 0, 0.0),  # nothing asked
    ],
)
def test_cost(price, prompt, completion, cost):
    assert price.cost(prompt, completion) == cost


def test_cost_of_arrays_is_the_cost_of_each():
    price, prompt, completion = Price(0.15, 0.6), np.array([11, 0, 7]), np.array([3, 9, 0])
    each = [price.cost(int(p), int(c)) for p, c in zip(prompt, completion, strict=True)]
    assert price.cost(prompt, completion).tolist() == each  # to the last bit, so that sums agree


@pytest.mark.parametrize("bad", [-1, -1e-9, float("nan"), float("inf"), "1", None, True])
@pytest.mark.parametrize("name", ["prompt", "completion"])
def test_price_refuses(name, bad):
    with pytest.raises(
        ValueError, match=f"price per million {name} tokens is .*at least 0"
    ) as error:
        Price(**{"prompt": 1.0, "completion": 1.0, name: bad})
    assert "\n" not in str(error.value)


def test_price_list_needs_a_source():
    with pytest.raises(ValueError, match="say where the prices come from"):
        PriceList(Price(1, 1), Price(2, 2), source=" ")


def test_from_parameters_is_the_ratio_of_the_counts_and_says_so():
    prices = PriceList.from_parameters(7_000_000_000, 32_000_000_000)
    assert prices.llm == Price(1.0, 1.0)
    assert prices.slm == Price(7 / 32, 7 / 32)
    assert "7,000,000,000" in prices.source and "parameter" in prices.source


@pytest.mark.parametrize("slm, llm", [(0, 1), (1, 0), (-1, 1), (1, float("nan")), (None, 1)])
def test_from_parameters_refuses(slm, llm):
    with pytest.raises(ValueError, match="parameters"):
        PriceList.from_parameters(slm, llm)
