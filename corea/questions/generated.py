"""The mini world: families of questions that a small model learns on a laptop, in eight levels.

Every family is one function `(rng, level) -> Sketch`: a question, the working that a careful pupil
would write, and the answer. Only `corea.mini.pretrain` reads the working, in the place of a real
model's pretraining text; reinforcement and evaluation see the question and its answer only.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise, zip_longest
from string import ascii_lowercase, ascii_uppercase

LEVELS = 8
_WORD_LENGTHS = (2, 3, 4, 5, 6, 8, 10, 12)
_DIGITS = (1, 2, 2, 3, 3, 4, 5, 6)
# Next term: the largest first term, the largest difference, and by how much differences may grow.
_FIRST = (20, 50, 99, 20, 50, 99, 99, 499)
_STEP = (9, 9, 19, 9, 9, 19, 29, 59)
_GROWTH = (0, 0, 0, 3, 5, 5, 9, 19)


@dataclass(frozen=True, slots=True)
class Sketch:
    """A question with the working that leads to its answer."""

    text: str
    working: str
    answer: str
    answer_type: str = "math"


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


def _add(rng: random.Random, level: int) -> Sketch:
    digits = _DIGITS[level - 1]
    a, b = _number(rng, digits), _number(rng, rng.randint(1, digits))
    return Sketch(f"{a}+{b}=?", _columns(a, "+", b), str(a + b))


def _sub(rng: random.Random, level: int) -> Sketch:
    digits = _DIGITS[level - 1]
    b, a = sorted((_number(rng, digits), _number(rng, rng.randint(1, digits))))
    return Sketch(f"{a}-{b}=?", _columns(a, "-", b), str(a - b))


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
    steps = list(zip(values, accumulate(values), strict=True))[1:]
    return str(values[0]) + "".join(f"+{value}={total}" for value, total in steps)


def _sum(rng: random.Random, level: int) -> Sketch:
    values = [rng.randint(1, 9 if level < 4 else 19 if level < 7 else 39) for _ in range(level + 1)]
    return Sketch("sum " + " ".join(map(str, values)), _adding_up(values), str(sum(values)))


def _binary(rng: random.Random, level: int) -> Sketch:
    bits = "1" + "".join(rng.choice("01") for _ in range(level + 1))
    totals = [str(int(bits[:end], 2)) for end in range(1, len(bits) + 1)]
    return Sketch(f"binary {bits}", " ".join(totals), totals[-1])


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
        steps.append(f"{shown[-1]}={value}")
    return Sketch("chain " + " ".join(shown), " ".join(steps), str(value))


def _reverse(rng: random.Random, level: int) -> Sketch:
    word = _word(rng, _WORD_LENGTHS[level - 1])
    return Sketch(f"reverse {word}", " ".join(word[::-1]), word[::-1], "text")


def _sort(rng: random.Random, level: int) -> Sketch:
    word = _word(rng, _WORD_LENGTHS[level - 1])
    letters = sorted(word)
    return Sketch(f"sort {word}", " ".join(letters), "".join(letters), "text")


def _shift(rng: random.Random, level: int) -> Sketch:
    word, by = _word(rng, _WORD_LENGTHS[level - 1]), rng.randint(1, 5)
    moved = "".join(chr(97 + (ord(letter) - 97 + by) % 26) for letter in word)
    return Sketch(f"shift {by} {word}", " ".join(map(str.__add__, word, moved)), moved, "text")


def _drop(rng: random.Random, level: int) -> Sketch:
    length, unwanted = _WORD_LENGTHS[level - 1] + 2, rng.choice(ascii_lowercase)
    others = ascii_lowercase.replace(unwanted, "")
    word = [rng.choice(others) for _ in range(length)]
    for place in rng.sample(range(length), rng.randint(1, max(1, length // 3))):
        word[place] = unwanted
    shown = "".join(word)
    steps, kept = shown.replace(unwanted, "-"), shown.replace(unwanted, "")
    return Sketch(f"drop {unwanted} {shown}", steps, kept, "text")


def _missing_addend(rng: random.Random, level: int) -> Sketch:
    digits = _DIGITS[level - 1]
    addend, total = sorted((_number(rng, rng.randint(1, digits)), _number(rng, digits)))
    text = f"?+{addend}={total}" if rng.random() < 0.5 else f"{addend}+?={total}"
    return Sketch(text, _columns(total, "-", addend), str(total - addend))


def _next_term(rng: random.Random, level: int) -> Sketch:
    """Levels 1-3: a constant difference; 4-8: differences that grow by a constant."""
    growth = rng.randint(1, _GROWTH[level - 1]) if level > 3 else 0
    start, step = rng.randint(1, _FIRST[level - 1]), rng.randint(1, _STEP[level - 1])
    added = [start, *(step + n * growth for n in range(4))]
    *shown, answer = map(str, accumulate(added))
    return Sketch("next " + " ".join(shown), _adding_up(added), answer)


def _shopping(rng: random.Random, level: int) -> Sketch:
    kinds, most = (level + 1) // 2, (6, 9, 9, 12, 12, 15, 15, 19)[level - 1]
    lines = [(rng.randint(2, 9), rng.randint(2, most)) for _ in range(kinds)]
    goods = rng.sample(("pens", "cups", "hats", "keys", "figs", "maps"), kinds)
    order = ", ".join(f"{n} {g} at {p}" for (n, p), g in zip(lines, goods, strict=True))
    working = " ".join(f"{n}*{p}={n * p}" for n, p in lines)
    bills = [n * p for n, p in lines]
    return Sketch(order, f"{working} {_adding_up(bills)}", str(sum(bills)))


def _shell_game(rng: random.Random, level: int) -> Sketch:
    cups = rng.sample(ascii_lowercase, 3 + level // 3 + (level > 6))
    start, swaps, steps = "".join(cups), [], []
    for _ in range(max(1, level - 1)):
        i, j = sorted(rng.sample(range(len(cups)), 2))
        cups[i], cups[j] = cups[j], cups[i]
        swaps.append(f"{i + 1}{j + 1}")
        steps.append(f"{swaps[-1]}:{''.join(cups)}")
    return Sketch(f"swap {start} {' '.join(swaps)}", " ".join(steps), "".join(cups), "text")


def _pointer_chase(rng: random.Random, level: int) -> Sketch:
    nodes = rng.sample(ascii_uppercase, 4 + level)
    arrows = [f"{a}>{b}" for a, b in pairwise([*nodes, nodes[0]])]
    steps = " ".join(arrows[:level])
    rng.shuffle(arrows)
    return Sketch(f"chase {' '.join(arrows)}, {nodes[0]} {level}", steps, nodes[level], "choice")


def _weave(rng: random.Random, level: int) -> Sketch:
    a, b = _word(rng, level + 1), _word(rng, level + 1)
    pairs = [*map(str.__add__, a, b)]
    return Sketch(f"weave {a} {b}", " ".join(pairs), "".join(pairs), "text")


FAMILIES: dict[str, Callable[[random.Random, int], Sketch]] = {
    "add": _add, "sub": _sub, "mul": _mul, "division": _div, "sum": _sum, "binary": _binary,
    "chain": _chain, "reverse": _reverse, "sort": _sort, "cipher": _shift, "drop": _drop,
    "missing-addend": _missing_addend, "next-term": _next_term, "shopping": _shopping,
    "shell-game": _shell_game, "pointer-chase": _pointer_chase, "weave": _weave,
}  # fmt: skip
OOD_MATH = ("missing-addend", "division", "shopping")
OOD_NONMATH = ("shell-game", "cipher", "weave")
IN_DOMAIN = tuple(name for name in FAMILIES if name not in OOD_MATH + OOD_NONMATH)
