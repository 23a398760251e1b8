r"""Reading mathematics: the value that an answer states, and whether it equals the gold.

The grader's worker runs this file as a program, so nothing here may import the rest of corea. Each
answer has one reading, so a list of candidates gains nothing:

| form | reading |
|---|---|
| `... </tag> rest` | the rest; nothing if tags are left in it |
| one or several `\boxed{}` | what the boxes hold, as one list |
| prose: `Thus it is $5$.` | the value after "answer", "therefore", "thus", "hence" |
| prose with two such values, or with several values and no such word | nothing |
| anything else: `3/4`, `x=1`, `1 or 2`, `(1,2)` | all of it, as one LaTeX expression |
| `1 2 3`, `5 \quad 6`, `5 # 6`, `5 & 6` | nothing: math-verify joins or drops such neighbours |
| `1=2=3` | nothing: the numbers it equates differ |
| `37*4+5`, `2^{10}` for an integer gold | nothing: the question (but `5 \times 10^3` is read) |
"""

import contextlib
import faulthandler
import json
import logging
import re
import signal
import sys
from functools import lru_cache, partial

MEMORY_LIMIT = 2 << 30  # bytes of address space of one worker, if the system can limit it

_INTEGER = re.compile(r"([+-]?)([0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{3})+)")
_TYPOGRAPHY = str.maketrans(
    dict(zip("−–\u00a0\u2009\u202f", "--   ", strict=True))
    | {"×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "∞": r"\infty "}
)
_DRESSED = re.compile(
    r"\$(.*)\$|\\(?:boxed|fbox|text|textbf|mathrm|mathbf)\s*\{(.*)\}|\*\*(.*)\*\*", re.DOTALL
)
_TAG = re.compile(r"</?[A-Za-z_]\w*\s*/?>")
_END_TAG = re.compile(r"</[A-Za-z_]\w*\s*>")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_TEXT = re.compile(r"\\(?:text\w*|mbox|mathrm|operatorname)\s*\{[^{}]*\}(?:\^\{?\d\}?)?")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_LETTER = re.compile("[A-Za-z,]")
_WORD = re.compile(r"(?i)\b(?!(?:sqrt|sin|cos|tan|log|exp|and|pct|percent(?:age)?)\b)[a-z]{3,}\b")
_FINAL = re.compile(r"(?i)\bfinal answer\b")
_CONCLUSION = re.compile(r"(?i)\b(?:answer|therefore|thus|hence)\b")
_HEDGE = re.compile(r"(?i)\b(?:or|not|maybe|either)\b")
_MATH = re.compile(r"\$\$.+?\$\$|\$.+?\$|\\\[.+?\\\]|\\\(.+?\\\)", re.DOTALL)
_NUMBER = re.compile(r"-?\d[\d.,/:]*")
_GARBLED = re.compile(
    r"\d(?:\s|~|\\[ ,;:!]|\\q?quad)+(?!\d+\s*/\s*\d)\.?\d"  # numbers side by side
    r"|#|\|\s*\d[^|]*\|\s*\d|\d\s*\)\s*\(\s*-?\.?\d"
    r"|\d\s*\\(?!(?:cdot|times|div|pm|mp|over|approx|leq?|geq?|neq?|lt|gt|bmod|choose)"
    r"(?![A-Za-z]))[A-Za-z]+\s*[-.]?\d"  # numbers with a command between that joins nothing
    r"|\A(?:[<>≠≤≥]|!=|\\(?:neq?|leq?|geq?|lt|gt)(?![A-Za-z]))"  # no left side
)
_EQUALS = re.compile(r"(?<![<>!\\:=])=(?!=)")
_UNIT = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\^\s*\{?\\prime\}?")
_SCIENTIFIC = re.compile(
    r"[+-]?(?:[\d.]+\s*(?:\\times|\\cdot|\*)\s*)?10\s*(?:\^|\*\*)\s*\{?\s*[+-]?\d+\s*\}?"
)
_OPERATION = re.compile(
    r"[*/^!√]|(?<=[\w)}\]\s])[+-]"
    r"|\\(?:[dtc]?frac|sqrt|d?binom|cdot|times|div|sum|prod|int)(?![A-Za-z])"
)
_GROUPED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_SPACED = re.compile(r"[+-]?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?")
_MIXED = re.compile(r"(-?\d+) (\d+)/(\d+)")
_ROOT = re.compile(r"√\s*(\d+|\w)")


def integer(text: str) -> str | None:
    """The canonical digits of an integer literal; as text, since `int` refuses 4,300 digits."""
    literal = _INTEGER.fullmatch(text.translate(_TYPOGRAPHY).strip())
    if literal is None:
        return None
    digits = literal[2].replace(",", "").lstrip("0") or "0"
    return "-" + digits if literal[1] == "-" and digits != "0" else digits


def undressed(text: str) -> str:
    r"""The text inside `$...$`, `\boxed{...}`, `\text{...}` and the like, however deep."""
    text = text.strip()
    while dressed := _DRESSED.fullmatch(text):
        text = next(group for group in dressed.groups() if group is not None).strip()
    return text


def _stated(answer: str) -> str | None:
    """The part of the answer that states its value, or None."""
    text = _END_TAG.split(answer)[-1].translate(_TYPOGRAPHY).strip().strip("`\"'*").strip()
    if _TAG.search(text):
        return None
    if "\\begin" not in text:  # a backslash written twice, as in JSON
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)
    if _BOX.search(text):
        return ", ".join(dict.fromkeys(_boxes(text))) or None
    return text.removeprefix("####").strip().rstrip(".,;:\\ ") or None


def _boxes(text: str) -> list[str]:
    """The contents of the outermost boxes; none if a brace does not close."""
    contents, end = [], 0
    while start := _BOX.search(text, end):
        depth, end = 1, start.end()
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            end += 1
        if depth:
            return []
        contents.append(text[start.end() : end - 1].strip())
    return contents


def _is_prose(text: str) -> bool:
    return bool(_WORD.search(_COMMAND.sub(" ", _TEXT.sub(" ", _MATH.sub(" ", text)))))


def _is_garbled(text: str) -> bool:
    """Whether math-verify would make one value of neighbours that nothing connects."""
    stray_table = "\\begin" not in text and ("&" in text or "\\\\" in text)
    return not _SPACED.fullmatch(text) and (stray_table or bool(_GARBLED.search(text)))


def _is_unfinished(text: str) -> bool:
    """Whether arithmetic is left to do in the last side of an equation without letters."""
    side = _UNIT.sub("", _TEXT.sub("", _EQUALS.split(text.strip("$ "))[-1])).strip()
    return not _SCIENTIFIC.fullmatch(side) and bool(_OPERATION.search(side))


class _Mathematics:
    """math-verify with one reading per answer; only for a worker, since any call may hang."""

    def __init__(self):
        from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

        how = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
        self._read = partial(parse, extraction_config=how, parsing_timeout=None)
        self._same = partial(verify, timeout_seconds=None)
        self._gold = lru_cache(maxsize=1_000)(self._read_gold)

    def is_right(self, answer: str, gold: str) -> bool:
        stated = _stated(answer)
        if stated and undressed(stated) == undressed(gold):  # algebra cannot read every gold
            return True
        reading = self._read_answer(stated)
        if not reading or not self._same(self._gold(gold), reading):
            return False
        return integer(undressed(gold)) is None or not _is_unfinished(str(reading[-1]))

    def _read_gold(self, gold: str) -> list:
        as_text = _BOX.search(gold) or _MATH.search(gold) or _is_prose(gold)
        return self._read(gold) if as_text else self._expression(gold)

    def _read_answer(self, stated: str | None) -> list:
        if stated is None:
            return []
        if _is_prose(stated):
            return self._conclusion(stated)
        text = undressed(stated)
        return [] if _is_garbled(text) or self._contradicts(text) else self._expression(text)

    def _conclusion(self, prose: str) -> list:
        """The one value that prose states; a list only if math-verify reads one."""
        sentences = (_FINAL if _FINAL.search(prose) else _CONCLUSION).split(prose)[1:]
        readings = [self._read(s) for s in sentences if _MATH.search(s) or _NUMBER.search(s)]
        if readings:
            agree = all(self._same(readings[-1], other) for other in readings)
            return readings[-1] if agree else []
        values = set(_MATH.findall(prose) or _NUMBER.findall(prose))
        return self._read(prose) if len(values) == 1 and not _HEDGE.search(prose) else []

    def _contradicts(self, text: str) -> bool:
        sides = [side for side in _EQUALS.split(text) if not _LETTER.search(_COMMAND.sub("", side))]
        values = [self._expression(side) for side in sides if side.strip()]
        return any(not self._same(values[-1], value) for value in values[:-1])

    def _expression(self, text: str) -> list:
        text = text.translate(_TYPOGRAPHY).strip()
        text = text.replace(" ", "") if _SPACED.fullmatch(text) else text
        text = _MIXED.sub(r"\1\\frac{\2}{\3}", _ROOT.sub(r"\\sqrt{\1}", text))
        if not re.search(r"[(){}\[\]]", text):
            text = _GROUPED.sub(lambda number: number[0].replace(",", ""), text)
        return self._read(f"\\boxed{{{text}}}")


def _serve(last_resort: float) -> None:
    """Answer until standard input ends; one answer of `last_resort` seconds ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller
    logging.disable(logging.CRITICAL)
    replies, sys.stdout = sys.stdout, sys.stderr
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system can
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    mathematics = _Mathematics()
    mathematics.is_right(r"\frac{1}{2} + x", "x + 0.5")  # the first parse is slow
    print("ready", file=replies, flush=True)
    for line in sys.stdin.buffer:
        # A thread of C: it works even if the interpreter is stuck and the caller was killed.
        faulthandler.dump_traceback_later(last_resort, exit=True)
        try:
            is_right = mathematics.is_right(*json.loads(line))
        except Exception:  # an answer on which the algebra fails has earned nothing
            is_right = False
        print("right" if is_right else "wrong", file=replies, flush=True)
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
