"""The mini world: families of questions that a small model learns on a laptop, in eight levels.

Every family is one function `(rng, level) -> Sketch`: a question, the working that a careful pupil
would write, and the answer. Only `corea.mini.pretrain` reads the working, in the place of a real
model's pretraining text; reinforcement and evaluation see the question and its answer only.

| family | role | a question | its answer |
|---|---|---|---|
| add, sub, mul | in domain | `47+386=?` | column by column |
| sum | in domain | `sum 3 8 5 9` | adding up |
| binary | in domain | `binary 10110` | doubling |
| chain | in domain | `chain 5 +3 *2 -4` | left to right |
| next-term | in domain | `next 3 7 11 15` | the term after the last one shown |
| reverse, sort, drop | in domain | `sort dbca` | letters, one at a time |
| pointer-chase | in domain | `chase A>F B>D F>B, A 2` | the letter reached, one of those shown |
| missing-addend | OOD math | `?+47=433` | the missing number |
| division | OOD math | `861/7=?` | digit by digit, with remainders |
| shopping | OOD math | `4 pens at 7, 3 cups at 12` | the bill |
| shell-game | OOD non-math | `swap abcd 13 24` | the cups after all swaps |
| cipher | OOD non-math | `shift 3 cab` | each letter three places on |
| weave | OOD non-math | `weave abc xyz` | one letter of each in turn |
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

LEVELS = 8
_WORD_LENGTHS = (2, 3, 4, 5, 6, 8, 10, 12)
_DIGITS = (1, 2, 2, 3, 3, 4, 5, 6)
_GOODS = ("pens", "cups", "hats", "keys", "figs", "maps")


@dataclass(frozen=True, slots=True)
class Sketch:
    """A question with the working that leads to its answer."""

    text: str
    working: str
    answer: str
    answer_type: str = "math"


def _number(rng: random.Random, digits: int) -> int:
    return rng.randint(10 ** (digits - 1) if digits > 1 else 1, 10**digits - 1)


def _columns(*numbers: int) -> list[tuple[int, ...]]:
    """Digits of the numbers, ones first, padded with zeros to the longest."""
    width = max(len(str(n)) for n in numbers)
    return list(zip(*(map(int, reversed(str(n).zfill(width))) for n in numbers), strict=True))


def _add_columns(a: int, b: int) -> str:
    steps, carry = [], 0
    for x, y in _columns(a, b):
        total = x + y + carry
        steps.append(f"{x}+{y}{'+1' if carry else ''}={total}")
        carry = total // 10
    return " ".join(steps)


def _subtract_columns(a: int, b: int) -> str:
    steps, borrow = [], 0
    for x, y in _columns(a, b):
        rest = x - y - borrow
        steps.append(f"{x}-{y}{'-1' if borrow else ''}={rest % 10}{'b' if rest < 0 else ''}")
        borrow = int(rest < 0)
    return " ".join(steps)


def _add(rng: random.Random, level: int) -> Sketch:
    digits = _DIGITS[level - 1]
    a, b = _number(rng, digits), _number(rng, rng.randint(1, digits))
    return Sketch(f"{a}+{b}=?", _add_columns(a, b), str(a + b))


def _sub(rng: random.Random, level: int) -> Sketch:
    digits = _DIGITS[level - 1]
    b, a = sorted((_number(rng, digits), _number(rng, rng.randint(1, digits))))
    return Sketch(f"{a}-{b}=?", _subtract_columns(a, b), str(a - b))


def _mul(rng: random.Random, level: int) -> Sketch:
    a, b = _number(rng, _DIGITS[level - 1]), rng.randint(2, 9)
    steps, carry = [], 0
    for digit in map(int, reversed(str(a))):
        total = digit * b + carry
        steps.append(f"{digit}*{b}{f'+{carry}' if carry else ''}={total}")
        carry = total // 10
    return Sketch(f"{a}*{b}=?", " ".join(steps), str(a * b))


def _div(rng: random.Random, level: int) -> Sketch:
    quotient, divisor = _number(rng, _DIGITS[level - 1]), rng.randint(2, 9)
    product, steps, rest = quotient * divisor, [], 0
    for digit in map(int, str(product)):
        dividend = rest * 10 + digit
        rest = dividend % divisor
        steps.append(f"{dividend}:{dividend // divisor}r{rest}")
    return Sketch(f"{product}/{divisor}=?", " ".join(steps), str(quotient))


def _adding_up(values: list[int]) -> str:
    """`3+8=11+5=16`: each step shows what it adds, so that a writer does not lose the place."""
    totals = list(accumulate(values))
    steps = zip(values[1:], totals[1:], strict=True)
    return f"{values[0]}" + "".join(f"+{value}={total}" for value, total in steps)


def _sum(rng: random.Random, level: int) -> Sketch:
    values = [rng.randint(1, 9 if level < 4 else 19 if level < 7 else 39) for _ in range(level + 1)]
    return Sketch("sum " + " ".join(map(str, values)), _adding_up(values), str(sum(values)))


def _binary(rng: random.Random, level: int) -> Sketch:
    bits = "1" + "".join(rng.choice("01") for _ in range(level + 1))
    totals = [int(bits[: end + 1], 2) for end in range(len(bits))]
    return Sketch(f"binary {bits}", " ".join(map(str, totals)), str(totals[-1]))


def _chain(rng: random.Random, level: int) -> Sketch:
    value = rng.randint(1, 20)
    shown, steps = [str(value)], []
    for _ in range(level):
        allowed = ["+"] + ["-"] * (value >= 20) + ["*"] * (value <= 30)
        sign, operand = rng.choice(allowed), rng.randint(2, 9 if level < 5 else 19)
        if sign == "*":
            operand = rng.randint(2, 3)
        value = {"+": value + operand, "-": value - operand, "*": value * operand}[sign]
        shown.append(f"{sign}{operand}")
        steps.append(f"{sign}{operand}={value}")
    return Sketch("chain " + " ".join(shown), " ".join(steps), str(value))


def _word(rng: random.Random, length: int, alphabet: str = string.ascii_lowercase) -> str:
    return "".join(rng.choice(alphabet) for _ in range(length))


def _text(question: str, working: str, answer: str) -> Sketch:
    return Sketch(question, working, answer, "text")


def _reverse(rng: random.Random, level: int) -> Sketch:
    word = _word(rng, _WORD_LENGTHS[level - 1])
    return _text(f"reverse {word}", " ".join(reversed(word)), word[::-1])


def _sort(rng: random.Random, level: int) -> Sketch:
    word = _word(rng, _WORD_LENGTHS[level - 1])
    return _text(f"sort {word}", " ".join(sorted(word)), "".join(sorted(word)))


def _shift(rng: random.Random, level: int) -> Sketch:
    word, by = _word(rng, _WORD_LENGTHS[level - 1]), rng.randint(1, 5)
    moved = [string.ascii_lowercase[(ord(c) - 97 + by) % 26] for c in word]
    steps = " ".join(c + m for c, m in zip(word, moved, strict=True))
    return _text(f"shift {by} {word}", steps, "".join(moved))


def _drop(rng: random.Random, level: int) -> Sketch:
    unwanted = rng.choice(string.ascii_lowercase)
    length = _WORD_LENGTHS[level - 1] + 2
    others = [c for c in string.ascii_lowercase if c != unwanted]
    word = [rng.choice(others) for _ in range(length)]
    for place in rng.sample(range(length), rng.randint(1, max(1, length // 3))):
        word[place] = unwanted
    kept = [c for c in word if c != unwanted]
    steps = "".join("-" if c == unwanted else c for c in word)
    return _text(f"drop {unwanted} {''.join(word)}", steps, "".join(kept))


def _missing_addend(rng: random.Random, level: int) -> Sketch:
    digits = _DIGITS[level - 1]
    addend, total = sorted((_number(rng, rng.randint(1, digits)), _number(rng, digits)))
    text = f"?+{addend}={total}" if rng.random() < 0.5 else f"{addend}+?={total}"
    return Sketch(text, _subtract_columns(total, addend), str(total - addend))


# Per level: the largest first term, the largest difference, and by how much differences may grow.
_TERMS = (
    (20, 9, 0), (50, 9, 0), (99, 19, 0), (20, 9, 3),
    (50, 9, 5), (99, 19, 5), (99, 29, 9), (499, 59, 19),
)  # fmt: skip


def _next_term(rng: random.Random, level: int) -> Sketch:
    """Levels 1-3: a constant difference; 4-8: differences that grow by a constant."""
    first, largest, most = _TERMS[level - 1]
    growth = rng.randint(1, most) if most else 0
    start, step = rng.randint(1, first), rng.randint(1, largest)
    steps = [step + n * growth for n in range(4)]
    terms = list(accumulate([start, *steps]))
    text = "next " + " ".join(map(str, terms[:-1]))
    return Sketch(text, _adding_up([start, *steps]), str(terms[-1]))


def _shopping(rng: random.Random, level: int) -> Sketch:
    kinds, most = (level + 1) // 2, (6, 9, 9, 12, 12, 15, 15, 19)[level - 1]
    lines = [(rng.randint(2, 9), rng.randint(2, most)) for _ in range(kinds)]
    goods = rng.sample(_GOODS, kinds)
    order = ", ".join(f"{n} {g} at {p}" for (n, p), g in zip(lines, goods, strict=True))
    bills = [n * p for n, p in lines]
    working = " ".join(f"{n}*{p}={n * p}" for n, p in lines)
    return Sketch(order, f"{working} {_adding_up(bills)}", str(sum(bills)))


def _shell_game(rng: random.Random, level: int) -> Sketch:
    cups = rng.sample(string.ascii_lowercase, 3 + level // 3 + (level > 6))
    start, swaps, steps = "".join(cups), [], []
    for _ in range(max(1, level - 1)):
        i, j = sorted(rng.sample(range(len(cups)), 2))
        cups[i], cups[j] = cups[j], cups[i]
        swaps.append(f"{i + 1}{j + 1}")
        steps.append(f"{swaps[-1]}:{''.join(cups)}")
    return _text(f"swap {start} {' '.join(swaps)}", " ".join(steps), "".join(cups))


def _pointer_chase(rng: random.Random, level: int) -> Sketch:
    nodes = rng.sample(string.ascii_uppercase, 4 + level)
    follows = dict(zip(nodes, nodes[1:] + nodes[:1], strict=True))
    path = nodes[: level + 1]
    shown = [f"{a}>{b}" for a, b in follows.items()]
    rng.shuffle(shown)
    steps = " ".join(f"{a}>{b}" for a, b in pairwise(path))
    return Sketch(f"chase {' '.join(shown)}, {path[0]} {level}", steps, path[-1], "choice")


def _weave(rng: random.Random, level: int) -> Sketch:
    a, b = _word(rng, level + 1), _word(rng, level + 1)
    pairs = [x + y for x, y in zip(a, b, strict=True)]
    return _text(f"weave {a} {b}", " ".join(pairs), "".join(pairs))


FAMILIES: dict[str, Callable[[random.Random, int], Sketch]] = {
    "add": _add, "sub": _sub, "mul": _mul, "division": _div, "sum": _sum, "binary": _binary,
    "chain": _chain, "reverse": _reverse, "sort": _sort, "cipher": _shift, "drop": _drop,
    "missing-addend": _missing_addend, "next-term": _next_term, "shopping": _shopping,
    "shell-game": _shell_game, "pointer-chase": _pointer_chase, "weave": _weave,
}  # fmt: skip
OOD_MATH = ("missing-addend", "division", "shopping")
OOD_NONMATH = ("shell-game", "cipher", "weave")
IN_DOMAIN = tuple(name for name in FAMILIES if name not in OOD_MATH + OOD_NONMATH)
