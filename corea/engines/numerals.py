"""Where a completion states its confidence, and how likely each other numeral was there.

Pure functions over tokens and log-probabilities, whichever engine they come from.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate

BRANCH = "0."  # how every stated confidence but 1 begins
Likely = Sequence[tuple[str, float]]  # likely tokens of a step and their log-probabilities


def span_of(pieces: Sequence[str], opening: str, closing: str) -> tuple[int, int] | None:
    """Find the tokens between the last `opening` tag and the `closing` tag after it, or the end.

    A token that a tag shares with what it encloses counts as the tag's.

    Returns:
        Index of the first token and one past the last; None if there are none.
    """
    before, tag, after = "".join(pieces).rpartition(opening)
    if not tag:
        return None
    begin = len(before + tag)
    end = begin + len(after.partition(closing)[0])
    starts = [0, *accumulate(map(len, pieces))]
    first, last = bisect_left(starts, begin), bisect_left(starts, end)
    return (first, last) if first < last else None


def numerals_of_path(path: Sequence[tuple[str, float, Likely]]) -> dict[str, float]:
    """Compute how likely each numeral in [0, 1] was, from the tokens written in its place.

    A step of the path is the token written, its log-probability, and what was likely instead.
    What was not written is known by its first differing token only. A digit in the place of the
    last one gives a whole numeral, except a leading 0, which may go on; a "1" in the place of a
    leading "0" can only be 1. Any other branch is left out, so the values may sum to less than 1.
    """
    numerals: dict[str, float] = {}
    before, mass = "", 1.0
    for n, (token, logprob, likely) in enumerate(path):
        is_last = n == len(path) - 1
        for other, other_logprob in likely:
            ends = other.lstrip().startswith("<")  # the numeral ends where the next tag begins
            numeral = before.strip() if ends else (before + other).strip()
            is_whole = (is_last and numeral != "0") or ends or numeral in ("1", "1.")
            if other != token and is_whole:
                _add(numerals, numeral, mass * math.exp(other_logprob))
        before, mass = before + token, mass * math.exp(logprob)
    _add(numerals, before.strip(), mass)
    return dict(sorted(numerals.items()))


def before_unread_branch(text: str, numerals: Mapping[str, float] | None) -> str | None:
    """The text up to the numeral of a completion that states 1, so that "0." was not read there."""
    before, tag, stated = text.rpartition("<confidence>")
    is_unread = numerals is not None and sum(numerals.values()) < 0.999
    return before + tag if is_unread and stated.lstrip().startswith("1") else None


def with_branch(numerals: Mapping[str, float], likely: Likely) -> dict[str, float]:
    """Add the numerals of the branch "0.": tokens after it, with log-probabilities of the whole."""
    extended = dict(numerals)
    for token, logprob in likely:
        _add(extended, BRANCH + token, math.exp(logprob))
    return dict(sorted(extended.items()))


def parse_numerals(text: str | float | None) -> dict[str, float]:
    """Read a record's field, as "0.7:0.63120 0.8:0.21000"; empty for a null field."""
    pairs = [pair.split(":") for pair in text.split()] if isinstance(text, str) else []
    return {numeral: float(probability) for numeral, probability in pairs}


def _add(numerals: dict[str, float], numeral: str, probability: float) -> None:
    """Add to a numeral's probability; what is no plain decimal in [0, 1] is passed over."""
    digits = numeral.replace(".", "", 1)
    if len(numeral) < 20 and digits.isascii() and digits.isdigit() and 0 <= float(numeral) <= 1:
        key = "1" if float(numeral) == 1 else numeral
        numerals[key] = min(1.0, numerals.get(key, 0.0) + probability)
