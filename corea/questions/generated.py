"""The mini world: families of questions that a small model learns on a laptop, in ten rungs.

Every family is one function `(rng, rung) -> Sketch`: the core of a question, the working that a
careful pupil would write, and the answer. Only `corea.mini.pretrain` reads the working, in the
place of a real model's pretraining text; reinforcement and evaluation see the question and its
answer only. A rung is hard by what has to be done, not by what has to be read: each core has at
most 27 characters, and `dressed` fills it up with idle words to a length that tells nothing.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise, zip_longest
from string import ascii_lowercase, ascii_uppercase

RUNGS = 10
_WHOLE = (28, 36)  # characters of a whole question, at least and at most
_IDLE = (
    "ah", "so", "now", "hey", "well", "then", "dear", "hello", "quick", "again", "please", "kindly",
    "friend", "another",
)  # fmt: skip
_GOODS = (
    "pens",
    "cups",
    "hats",
    "keys",
    "figs",
    "maps",
    "nuts",
    "pins",
    "jars",
    "rugs",
    "bags",
    "mugs",
)
_LETTERS = (2, 3, 3, 4, 4, 5, 6, 7, 8, 9)
_DIGITS = (2, 2, 2, 3, 3, 4, 4, 5, 5, 6)


@dataclass(frozen=True, slots=True)
class Sketch:
    """A question with the working that leads to its answer."""

    text: str
    working: str
    answer: str
    answer_type: str = "math"


def dressed(sketch: Sketch, rng: random.Random) -> Sketch:
    """The sketch after idle words, of a length that does not depend on its core."""
    text, wanted = sketch.text, rng.randint(*_WHOLE)
    while fitting := [word for word in _IDLE if len(word) < wanted - len(text)]:
        text = f"{rng.choice(fitting)} {text}"
    return replace(sketch, text=text)


def _number(rng: random.Random, digits: int) -> int:
    return rng.randint(10 ** (digits - 1) if digits > 1 else 1, 10**digits - 1)


def _word(rng: random.Random, length: int) -> str:
    return "".join(rng.choice(ascii_lowercase) for _ in range(length))


def _columns(a: int, sign: str, b: int) -> str:
    """Adding or subtracting column by column, ones first; "b" says that ten were borrowed."""
    steps, carry = [], 0
    for x, y in zip_longest(map(int, str(a)[::-1]), map(int, str(b)[::-1]), fillvalue=0):
        result = x + y + carry if sign == "+" else x - y - carry
        shown = result if sign == "+" else f"{result % 10}{'b' if result < 0 else ''}"
        steps.append(f"{x}{sign}{y}{sign + '1' if carry else ''}={shown}")
        carry = abs(result // 10)
    return " ".join(steps)


def _two(rng: random.Random, rung: int) -> list[int]:
    """Two numbers, the smaller first; those of rung 1 have two digits and one."""
    if rung == 1:
        return [rng.randint(1, 9), rng.randint(10, 99)]
    digits = _DIGITS[rung - 1]
    return sorted((_number(rng, digits), _number(rng, rng.randint(1 if rung < 4 else 2, digits))))


def _add(rng: random.Random, rung: int) -> Sketch:
    b, a = _two(rng, rung)
    return Sketch(f"{a}+{b}=?", _columns(a, "+", b), str(a + b))


def _sub(rng: random.Random, rung: int) -> Sketch:
    b, a = _two(rng, rung)
    return Sketch(f"{a}-{b}=?", _columns(a, "-", b), str(a - b))


def _mul(rng: random.Random, rung: int) -> Sketch:
    a, b = _number(rng, _DIGITS[rung - 1]), rng.randint(2, 4 if rung == 1 else 9)
    steps, carry = [], 0
    for digit in map(int, reversed(str(a))):
        total = digit * b + carry
        steps.append(f"{digit}*{b}{f'+{carry}' if carry else ''}={total}")
        carry = total // 10
    return Sketch(f"{a}*{b}=?", " ".join(steps), str(a * b))


def _div(rng: random.Random, rung: int) -> Sketch:
    quotient = _number(rng, (3, 3, 3, 3, 3, 4, 4, 4, 5, 6)[rung - 1])
    divisor = rng.randint(2, (2, 2, 3, 5, 9, 5, 9, 9, 9, 9)[rung - 1])
    product, steps, rest = quotient * divisor, [], 0
    for digit in map(int, str(product)):
        dividend = rest * 10 + digit
        rest = dividend % divisor
        steps.append(f"{dividend}:{dividend // divisor}r{rest}")
    return Sketch(f"{product}/{divisor}=?", " ".join(steps), str(quotient))


def _adding_up(values: list[int]) -> str:
    """`3+8=11+5=16`: each step shows what it adds, so that a writer does not lose the place."""
    steps = list(zip(values, accumulate(values), strict=True))[1:]
    return str(values[0]) + "".join(f"+{value}={total}" for value, total in steps)


def _sum(rng: random.Random, rung: int) -> Sketch:
    count, most = (
        (3, 3, 4, 4, 5, 5, 6, 6, 7, 7)[rung - 1],
        9 if rung < 4 else 19 if rung < 7 else 39,
    )
    values = [rng.randint(1, most) for _ in range(count)]
    return Sketch("sum " + " ".join(map(str, values)), _adding_up(values), str(sum(values)))


def _largest(rng: random.Random, rung: int) -> Sketch:
    count, digits = (
        (3, 3, 4, 4, 5, 4, 5, 5, 5, 6)[rung - 1],
        (2, 2, 2, 2, 2, 3, 3, 3, 4, 3)[rung - 1],
    )
    values = [_number(rng, digits) for _ in range(count)]
    text = "max " + " ".join(map(str, values))
    return Sketch(text, " ".join(map(str, accumulate(values, max))), str(max(values)))


def _chain(rng: random.Random, rung: int) -> Sketch:
    value = rng.randint(1, 40)
    shown, steps = [str(value)], []
    for _ in range((1, 1, 2, 2, 3, 3, 4, 4, 5, 5)[rung - 1]):
        allowed = ["+"] + ["-"] * (value >= 20) + ["*"] * (value <= 30)
        sign, operand = rng.choice(allowed), rng.randint(2, 19 if rung % 2 == 0 else 9)
        if sign == "*":
            operand = rng.randint(2, 3)
        value = {"+": value + operand, "-": value - operand, "*": value * operand}[sign]
        shown.append(f"{sign}{operand}")
        steps.append(f"{shown[-1]}={value}")
    return Sketch("do " + " ".join(shown), " ".join(steps), str(value))


def _reverse(rng: random.Random, rung: int) -> Sketch:
    word = _word(rng, _LETTERS[rung - 1])
    return Sketch(f"reverse {word}", " ".join(word[::-1]), word[::-1], "text")


def _sort(rng: random.Random, rung: int) -> Sketch:
    word = _word(rng, _LETTERS[rung - 1])
    letters = sorted(word)
    return Sketch(f"sort {word}", " ".join(letters), "".join(letters), "text")


def _shift(rng: random.Random, rung: int) -> Sketch:
    word, by = (
        _word(rng, _LETTERS[rung - 1]),
        rng.randint(1, (1, 1, 2, 2)[rung - 1] if rung < 5 else 3),
    )
    moved = "".join(chr(97 + (ord(letter) - 97 + by) % 26) for letter in word)
    return Sketch(f"shift {by} {word}", " ".join(map(str.__add__, word, moved)), moved, "text")


def _missing_addend(rng: random.Random, rung: int) -> Sketch:
    addend, total = _two(rng, rung)
    text = f"?+{addend}={total}" if rng.random() < 0.5 else f"{addend}+?={total}"
    return Sketch(text, _columns(total, "-", addend), str(total - addend))


def _shopping(rng: random.Random, rung: int) -> Sketch:
    kinds, most = 1 if rung < 4 else 2, (9, 19, 49, 9, 12, 19, 29, 49, 79, 99)[rung - 1]
    lines = [(rng.randint(2, 9), rng.randint(2, most)) for _ in range(kinds)]
    goods = rng.sample(_GOODS, kinds)
    order = ", ".join(f"{n} {g} at {p}" for (n, p), g in zip(lines, goods, strict=True))
    working = " ".join(f"{n}*{p}={n * p}" for n, p in lines)
    bills = [n * p for n, p in lines]
    added = f" {_adding_up(bills)}" if kinds > 1 else ""
    return Sketch(order, f"{working}{added}", str(sum(bills)))


def _rotate(rng: random.Random, rung: int) -> Sketch:
    word = _word(rng, max(3, _LETTERS[rung - 1]))
    by = rng.randint(1, (1, 1, 2, 2, 3, 4)[min(rung, 6) - 1])
    turned = word[by:] + word[:by]
    return Sketch(f"rotate {by} {word}", " ".join(turned), turned, "text")


def _pointer_chase(rng: random.Random, rung: int) -> Sketch:
    count, hops = (2, 2, 3, 3, 4, 4, 5, 5, 6, 7)[rung - 1], (1, 2, 1, 2, 2, 3, 3, 4, 5, 6)[rung - 1]
    nodes = rng.sample(ascii_uppercase, count + 1)
    arrows = [a + b for a, b in pairwise(nodes)]
    first = rng.randint(0, count - hops)
    steps = " ".join(arrows[first : first + hops])
    rng.shuffle(arrows)
    text = f"go {' '.join(arrows)} {nodes[first]}{hops}"
    return Sketch(text, steps, nodes[first + hops], "choice")


def _weave(rng: random.Random, rung: int) -> Sketch:
    length = (2, 2, 3, 3, 4, 4, 5, 6, 7, 8)[rung - 1]
    a, b = _word(rng, length), _word(rng, length)
    pairs = [*map(str.__add__, a, b)]
    return Sketch(f"weave {a} {b}", " ".join(pairs), "".join(pairs), "text")


FAMILIES: dict[str, Callable[[random.Random, int], Sketch]] = {
    "add": _add, "sub": _sub, "mul": _mul, "division": _div, "sum": _sum, "largest": _largest,
    "chain": _chain, "reverse": _reverse, "sort": _sort, "cipher": _shift,
    "missing-addend": _missing_addend, "shopping": _shopping, "rotate": _rotate,
    "pointer-chase": _pointer_chase, "weave": _weave,
}  # fmt: skip
OOD_MATH = ("missing-addend", "division", "shopping")
OOD_NONMATH = ("rotate", "cipher", "weave")
IN_DOMAIN = tuple(name for name in FAMILIES if name not in OOD_MATH + OOD_NONMATH)
