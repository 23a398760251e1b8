"""Tokens to cost: what a model charges per million prompt and completion tokens."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Price:
    """Price of one model, in units (money, FLOPs, ...) per million prompt or completion tokens."""

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        _check_number("price per million prompt tokens", self.prompt)
        _check_number("price per million completion tokens", self.completion)

    def cost(self, prompt_tokens, completion_tokens):
        """Cost, in units, of these token counts: two numbers, or two arrays of one shape."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1_000_000


@dataclass(frozen=True, slots=True)
class PriceList:
    """Prices of a cascade's two models in one unit, and their source, which may not be empty."""

    slm: Price
    llm: Price
    source: str

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not self.source.strip():
            raise ValueError(f"source={self.source!r} of prices: say where the prices come from")

    def cascade_cost(self, attempt, rescue=None) -> float:
        """Cost of one answer: the SLM's completion, and the LLM's if it was asked."""
        cost = self.slm.cost(attempt.prompt_tokens, attempt.completion_tokens)
        if rescue is not None:
            cost += self.llm.cost(rescue.prompt_tokens, rescue.completion_tokens)
        return cost

    @classmethod
    def from_parameters(cls, slm_parameters: int, llm_parameters: int) -> "PriceList":
        """Prices in proportion to the parameter counts; the LLM's is 1 per million tokens.

        So is a forward pass: about 2 FLOPs per parameter (Kaplan et al. 2020, arXiv 2001.08361).
        """
        for name, count in (("slm_parameters", slm_parameters), ("llm_parameters", llm_parameters)):
            _check_number(name, count, least=1)
        ratio = slm_parameters / llm_parameters
        source = f"parameter counts ({slm_parameters:,} and {llm_parameters:,}; forward FLOPs "
        source += "per token are about 2 x parameters); unit: a million LLM tokens"
        return cls(slm=Price(ratio, ratio), llm=Price(1.0, 1.0), source=source)


def _check_number(name: str, value: float, least: int = 0) -> None:
    is_number = hasattr(value, "__float__") and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a finite number of at least {least}")
