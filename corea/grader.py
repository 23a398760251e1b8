"""Answer against gold, by answer type; mathematics by math-verify in worker processes that can be killed.

| type | rule |
|---|---|
| math | equal as mathematics; the answer states one value (or one list), and where the gold is an integer, a worked-out one |
| choice | the one option letter, in the usual dressings: `B`, `(B)`, `B.`, `B) bank`, `Option B`, `\\boxed{B}`; or, with no letter, the wording that the gold gives its option |
| text | equal but for case, white space, surrounding punctuation and quotes |

An answer is hostile input: it may hang the algebra, exhaust memory or list every candidate.  What cannot be read within
the deadline, is longer than `MAX_LENGTH`, or contradicts itself is wrong; no other answer of the batch is touched.

How a mathematical answer is read, in this order; each answer has one reading, so listing candidates buys nothing:

| form | reading |
|---|---|
| `... </tag> rest` | the rest; where tags are left in it, nothing |
| one or several `\\boxed{}` | what the boxes hold, as one list |
| prose: `Thus it is $5$.` | the value after "answer", "therefore", "thus", "hence"; nothing where two of these differ |
| prose with several values and no such word | nothing |
| anything else: `3/4`, `x=1`, `1 or 2`, `(1,2)` | all of it, as one LaTeX expression |
| `1 2 3`, `5 \\quad 6`, `5 # 6`, `5 & 6` | nothing: math-verify adds, multiplies or drops such neighbours |
| `1=2=3` | nothing: the numbers it equates differ |
| `37*4+5`, `2^{10}`, `6/2`, where the gold is an integer | nothing: it is the question, not its answer (`5 \\times 10^3` is read) |
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

ANSWER_TYPES = ("math", "choice", "text")
MAX_LENGTH = 2_000  # characters of a math or choice answer; a longer one is refused unread
MEMORY_LIMIT = 2 << 30  # bytes of address space of one worker, where the system can limit it
START_LIMIT = 120.0  # seconds a worker may take to import math-verify
CACHE_SIZE = (
    50_000  # verdicts kept, as reinforcement learning meets the same answers again and again
)
_Row = tuple[str | None, str, str]  # answer, gold, answer type


class Grader:
    """Grades answers; starts its worker processes when they are first needed and keeps them until closed or dropped.

    workers: processes that grade mathematics side by side.  deadline: seconds of wall clock for one answer; one that
    takes longer is wrong, and its worker is killed and replaced.  A pickled grader leaves its workers behind.
    """

    def __init__(self, workers: int = 1, deadline: float = 2.0):
        if workers < 1 or not 0 < deadline <= 3600:
            raise ValueError(
                f"workers={workers}, deadline={deadline}: use 1 worker or more, and up to 3600 seconds"
            )
        self.workers, self.deadline = workers, deadline
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._cache: OrderedDict[_Row, bool] = OrderedDict()
        self._pool: list[_Worker | None] = [None] * workers
        weakref.finalize(self, _kill_all, self._pool)  # also at exit

    def grade(
        self, answers: Sequence[str | None], golds: Sequence[str], answer_types: Sequence[str]
    ) -> list[bool]:
        """Whether each answer is right; None (no answer) is wrong, and so is any answer to a gold of None.

        Raises ValueError where the columns differ in length or a type is not one of `ANSWER_TYPES`, and RuntimeError
        where no worker can be started.
        """
        if not len(answers) == len(golds) == len(answer_types):
            raise ValueError(
                f"{len(answers)} answers, {len(golds)} golds, {len(answer_types)} types: use as many of each"
            )
        if unknown := sorted({str(kind) for kind in answer_types} - set(ANSWER_TYPES)):
            raise ValueError(
                f"unknown answer type {unknown[0]!r}; use one of {', '.join(ANSWER_TYPES)}"
            )
        rows = list(zip(answers, golds, answer_types, strict=True))
        with self._lock:
            verdicts = {row: self._known(row) for row in dict.fromkeys(rows)}
            asked = [row for row, verdict in verdicts.items() if verdict is None]
            verdicts |= self._ask(asked)
        return [bool(verdicts[row]) for row in rows]

    def _known(self, row: _Row) -> bool | None:
        if row in self._cache:
            self._cache.move_to_end(row)
            return self._cache[row]
        return _without_algebra(*row)

    def _ask(self, rows: list[_Row]) -> dict[_Row, bool]:
        """Verdicts of the workers; a thread feeds each worker from the one queue."""
        if not rows:
            return {}
        if self._owner != os.getpid():  # forked: the workers speak to the parent
            self._owner, self._pool[:] = os.getpid(), [None] * self.workers
        queue, verdicts = deque(rows), dict[_Row, bool]()
        threads = min(self.workers, len(rows))
        with ThreadPoolExecutor(threads) as executor:
            try:
                list(executor.map(lambda slot: self._feed(slot, queue, verdicts), range(threads)))
            except (
                BaseException
            ):  # Ctrl-C leaves workers in the middle of an answer: none may speak for the next one
                queue.clear()
                self.close()
                raise
        self._cache |= verdicts
        while len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        return verdicts

    def _feed(self, slot: int, queue: deque[_Row], verdicts: dict[_Row, bool]) -> None:
        while queue:
            try:
                row = queue.popleft()
            except IndexError:  # another thread took the last one
                return
            worker = self._pool[slot]
            if worker is None or not worker.is_alive():
                worker = self._pool[slot] = _Worker(self.deadline)
            verdict = worker.ask(row[:2], self.deadline)
            if verdict is None:  # dead, or killed as late
                worker.kill()
                self._pool[slot] = None
            verdicts[row] = verdict == "right"

    def close(self) -> None:
        """End the workers.  The grader can still be used: new ones start."""
        _kill_all(self._pool)

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __getstate__(self) -> dict:
        return {"workers": self.workers, "deadline": self.deadline}

    def __setstate__(self, state: dict) -> None:
        Grader.__init__(self, **state)


@lru_cache(maxsize=1)
def _shared_grader() -> Grader:
    return Grader()


def grade_one(answer: str | None, gold: str, answer_type: str) -> bool:
    """Whether one answer is right, by a grader that all calls share."""
    return _shared_grader().grade([answer], [gold], [answer_type])[0]


# --- rules that need no algebra -------------------------------------------------------------------

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_INTEGER = re.compile(r"([+-]?)([0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{3})+)")
_TYPOGRAPHY = str.maketrans(
    dict(zip("−–\u00a0\u2009\u202f", "--   ", strict=True))
    | {"×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "∞": r"\infty "}
)
_DRESSED = re.compile(
    r"\$(.*)\$|\\(?:boxed|fbox|text|textbf|mathrm|mathbf)\s*\{(.*)\}|\*\*(.*)\*\*", re.DOTALL
)
_OPTION = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+)?(?:answer|option|choice)\s*(?:is)?\s*:?\s*)?(?:option\s+)?"
    r"(?:\(([A-Z])\)|\[([A-Z])\]|([A-Z]))(?:\s*[).:\]](.*)|\s+which is(.*)|)",
    re.IGNORECASE | re.DOTALL,
)
_OTHER_OPTION = re.compile(
    r"(?:^|[\s,;/&(\[])[A-Z]\s*[)\]:]|(?:\b(?:or|and|option)\b|[,;/&])\s*(?:option\s+)?[A-Z]\W*$",
    re.IGNORECASE,
)


_VERDICTS = (
    "yes",
    "no",
    "true",
    "false",
)  # golds of questions that ask whether, written in any case


def _without_algebra(answer: str | None, gold: str | None, answer_type: str) -> bool | None:
    """The verdict, or None where only algebra can tell."""
    if answer is None or gold is None or not answer.strip():
        return False
    if answer_type == "text":
        return _plain_text(answer) == _plain_text(gold) != ""
    if answer_type == "choice":
        return _is_chosen(answer, gold)
    if answer.strip() == gold.strip():
        return True
    ours, theirs = _integer(answer), _integer(gold)
    if ours is not None and theirs is not None:
        return ours == theirs
    if len(answer) > MAX_LENGTH or _CONTROL.search(answer):
        return False
    if (verdict := _plain_text(_undressed(gold))) in _VERDICTS and _plain_text(
        _undressed(answer)
    ) in _VERDICTS:
        return _plain_text(_undressed(answer)) == verdict
    return True if _undressed(answer) == _undressed(gold) else None


def _plain_text(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'`“”‘’")


def _integer(text: str) -> str | None:
    """The canonical digits of an integer literal; as text, since `int` is quadratic and refuses 4,300 digits."""
    found = _INTEGER.fullmatch(text.translate(_TYPOGRAPHY).strip())
    if found is None:
        return None
    digits = found[2].replace(",", "").lstrip("0") or "0"
    return "-" + digits if found[1] == "-" and digits != "0" else digits


def _is_chosen(answer: str, gold: str) -> bool:
    """Whether the answer names the gold's letter alone or, without a letter, repeats the gold's wording."""
    expected, chosen = (
        _OPTION.fullmatch(_undressed(gold)),
        _OPTION.fullmatch(_undressed(answer[:MAX_LENGTH])),
    )
    wording = gold if expected is None else _wording(expected)
    if expected is None or chosen is None:
        return _plain_text(answer) == _plain_text(wording) != ""
    names_another = len(answer) > MAX_LENGTH or _OTHER_OPTION.search(_wording(chosen))
    return _letter(chosen) == _letter(expected) and not names_another


def _letter(option: re.Match) -> str:
    return (option[1] or option[2] or option[3]).upper()


def _wording(option: re.Match) -> str:
    return (option[4] or option[5] or "").strip(" :")


def _undressed(text: str) -> str:
    """What stands inside `$...$`, `\\boxed{...}`, `\\text{...}` and the like, however deep."""
    text = text.strip()
    while found := _DRESSED.fullmatch(text):
        text = next(group for group in found.groups() if group is not None).strip()
    return text


# --- reading a mathematical answer ----------------------------------------------------------------

_TAG = re.compile(r"</?[A-Za-z_]\w*\s*/?>")
_END_TAG = re.compile(r"</[A-Za-z_]\w*\s*>")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_TEXT = re.compile(r"\\(?:text\w*|mbox|mathrm|operatorname)\s*\{[^{}]*\}(?:\^\{?\d\}?)?")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(
    r"(?i)\b(?!(?:sqrt|sin|cos|tan|log|exp|and|pct|percent|percentage)\b)[a-z]{3,}\b"
)
_FINAL = re.compile(r"(?i)\bfinal answer\b")
_CONCLUSION = re.compile(r"(?i)\b(?:answer|therefore|thus|hence)\b")
_HEDGE = re.compile(r"(?i)\b(?:or|not|maybe|either)\b")
_MATH = re.compile(r"\$\$.+?\$\$|\$.+?\$|\\\[.+?\\\]|\\\(.+?\\\)", re.DOTALL)
_NUMBER = re.compile(r"-?\d[\d.,/:]*")
_NEIGHBOURS = re.compile(
    r"\d(?:\s|~|\\[ ,;:!]|\\q?quad)+(?!\d+\s*/\s*\d)\.?\d|#|\|\s*\d[^|]*\|\s*\d"
)
_JUXTAPOSED = re.compile(r"\d\s*\)\s*\(\s*-?\.?\d")
_BETWEEN = re.compile(
    r"\d\s*\\(?!(?:cdot|times|div|pm|mp|over|approx|leq?|geq?|neq?|lt|gt|bmod|choose)(?![A-Za-z]))[A-Za-z]+\s*[-.]?\d"
)
_NO_LEFT_SIDE = re.compile(r"[<>≠≤≥]|!=|\\(?:neq?|leq?|geq?|lt|gt)(?![A-Za-z])")
_EQUALS = re.compile(r"(?<![<>!\\:=])=(?!=)")
_UNIT = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\^\s*\{?\\prime\}?")
_SCIENTIFIC = re.compile(
    r"[+-]?(?:[\d.]+\s*(?:\\times|\\cdot|\*)\s*)?10\s*(?:\^|\*\*)\s*\{?\s*[+-]?\d+\s*\}?"
)
_OPERATION = re.compile(
    r"[*/^!√]|(?<=[\w)}\]\s])[+-]|\\(?:[dtc]?frac|sqrt|d?binom|cdot|times|div|sum|prod|int)(?![A-Za-z])"
)
_GROUPED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_SPACED = re.compile(r"[+-]?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?")
_MIXED = re.compile(r"(-?\d+) (\d+)/(\d+)")
_ROOT = re.compile(r"√\s*(\d+|\w)")


def _stated(answer: str) -> str | None:
    """The part of the answer that states its value, or None where there is no such part."""
    text = _END_TAG.split(answer)[-1].translate(_TYPOGRAPHY).strip().strip("`\"'*").strip()
    if _TAG.search(text):
        return None
    if "\\begin" not in text:  # a backslash written twice, as in JSON
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)
    if _BOX.search(text):
        boxes = _boxes(text)
        return ", ".join(dict.fromkeys(boxes)) or None if boxes is not None else None
    return text.removeprefix("####").strip().rstrip(".,;:\\ ") or None


def _boxes(text: str) -> list[str] | None:
    """What the outermost boxes hold, or None where a brace does not close."""
    found, end = [], 0
    while start := _BOX.search(text, end):
        depth, end = 1, start.end()
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            end += 1
        if depth:
            return None
        found.append(text[start.end() : end - 1].strip())
    return found


def _is_prose(text: str) -> bool:
    return bool(_WORD.search(_COMMAND.sub(" ", _TEXT.sub(" ", _MATH.sub(" ", text)))))


def _is_garbled(text: str) -> bool:
    """Whether math-verify would make one value of neighbours that nothing connects."""
    if "\\begin" not in text and ("&" in text or "\\\\" in text):
        return True
    return bool(
        _NEIGHBOURS.search(text)
        or _JUXTAPOSED.search(text)
        or _BETWEEN.search(text)
        or _NO_LEFT_SIDE.match(text)
    )


def _is_unfinished(text: str) -> bool:
    """Whether arithmetic is left to do in the last side of an equation without letters."""
    side = _UNIT.sub("", _TEXT.sub("", _EQUALS.split(text.strip("$ "))[-1])).strip()
    return not _SCIENTIFIC.fullmatch(side) and bool(_OPERATION.search(side))


class _Mathematics:
    """math-verify with one reading an answer; lives in a worker, as nothing here is sure to end."""

    def __init__(self):
        from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

        self._parse, self._verify = parse, verify
        self._how = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
        self._gold = lru_cache(maxsize=1_000)(self._read_gold)

    def is_right(self, answer: str, gold: str) -> bool:
        stated = _stated(answer)
        if stated and _undressed(stated) == _undressed(gold):  # algebra cannot read every gold
            return True
        reading, reference = self._read_answer(answer), self._gold(gold)
        if not reading or not self._same(reference, reading):
            return False
        return _integer(_undressed(gold)) is None or not _is_unfinished(str(reading[-1]))

    def _read_gold(self, gold: str) -> list:
        return (
            self._read(gold)
            if _BOX.search(gold) or _MATH.search(gold) or _is_prose(gold)
            else self._expression(gold)
        )

    def _read_answer(self, answer: str) -> list:
        text = _stated(answer)
        if text is None:
            return []
        if _is_prose(text):
            return self._conclusion(text)
        text = _undressed(text)
        text = text.replace(" ", "") if _SPACED.fullmatch(text) else text
        return [] if _is_garbled(text) or self._contradicts(text) else self._expression(text)

    def _conclusion(self, prose: str) -> list:
        """The one value that prose states; several are read only where math-verify sees a list of them."""
        parts = (_FINAL if _FINAL.search(prose) else _CONCLUSION).split(prose)
        readings = [
            self._read(part) for part in parts[1:] if _MATH.search(part) or _NUMBER.search(part)
        ]
        if readings:
            return (
                readings[-1] if all(self._same(readings[-1], other) for other in readings) else []
            )
        values = set(_MATH.findall(prose) or _NUMBER.findall(prose))
        return self._read(prose) if len(values) == 1 and not _HEDGE.search(prose) else []

    def _contradicts(self, text: str) -> bool:
        numbers = [
            side
            for side in _EQUALS.split(text)
            if not re.search("[A-Za-z,]", _COMMAND.sub("", side))
        ]
        values = [self._expression(side) for side in numbers if side.strip()]
        return any(not self._same(values[-1], value) for value in values[:-1])

    def _expression(self, text: str) -> list:
        text = text.translate(_TYPOGRAPHY).strip()
        text = text.replace(" ", "") if _SPACED.fullmatch(text) else text
        text = _MIXED.sub(r"\1\\frac{\2}{\3}", _ROOT.sub(r"\\sqrt{\1}", text))
        if not re.search(r"[(){}\[\]]", text):
            text = _GROUPED.sub(lambda found: found[0].replace(",", ""), text)
        return self._read(f"\\boxed{{{text}}}")

    def _read(self, text: str) -> list:
        return self._parse(text, extraction_config=self._how, parsing_timeout=None)

    def _same(self, gold: list, answer: list) -> bool:
        return self._verify(gold, answer, timeout_seconds=None)


# --- worker processes -----------------------------------------------------------------------------


class _Worker:
    """A Python process that answers pairs (answer, gold), a JSON line each, with the line "right" or "wrong".

    This file is its program, so that it needs neither the caller's `__main__` (a notebook, a script without a guard) nor
    anything else of corea; it ends with its standard input, and so with the caller.
    """

    def __init__(self, deadline: float):
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(2 * deadline + 1)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin and self._process.stdout, "both are pipes"
        self._input, self._output = self._process.stdin, self._process.stdout
        if self._line(START_LIMIT) != "ready":
            self.kill()
            raise RuntimeError(
                f"the grader's worker did not start; does {sys.executable} -m pip show math-verify find it?"
            )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, pair: tuple[str | None, str], deadline: float) -> str | None:
        """The verdict, or None where the worker died or was killed as the deadline passed."""
        try:
            self._input.write(json.dumps(pair).encode() + b"\n")
            self._input.flush()
        except OSError:
            return None
        return self._line(deadline)

    def _line(self, limit: float) -> str | None:
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(limit, end)
        timer.daemon = True
        timer.start()
        line = self._output.readline()
        timer.cancel()
        timer.join()  # a timer that has gone off has killed the worker by now
        return None if late.is_set() or not line.endswith(b"\n") else line.decode().strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()
        with contextlib.suppress(OSError):  # what was still to be written has no reader
            self._input.close()


def _kill_all(pool: list[_Worker | None]) -> None:
    for slot, worker in enumerate(pool):
        if worker is not None:
            pool[slot] = None
            worker.kill()


def _serve(last_resort: float) -> None:
    """Answer until standard input ends; an answer of `last_resort` seconds ends the worker even if its caller is gone."""
    import faulthandler
    import logging
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller
    logging.disable(logging.CRITICAL)
    replies, sys.stdout = sys.stdout, sys.stderr
    _limit_memory()
    mathematics = _Mathematics()
    _verdict(
        mathematics, r"\frac{1}{2} + x", "x + 0.5"
    )  # the first parse is slow; no answer should pay for it
    print("ready", file=replies, flush=True)
    with open(os.devnull, "w") as nowhere:
        for line in sys.stdin.buffer:
            # a thread of C: it works though the interpreter be stuck in one long power
            faulthandler.dump_traceback_later(last_resort, exit=True, file=nowhere)
            print(
                "right" if _verdict(mathematics, *json.loads(line)) else "wrong",
                file=replies,
                flush=True,
            )
            faulthandler.cancel_dump_traceback_later()


def _verdict(mathematics: _Mathematics, answer: str, gold: str) -> bool:
    try:
        return mathematics.is_right(answer, gold)
    except (
        Exception,
        RecursionError,
        MemoryError,
    ):  # whatever the algebra trips over, the answer has earned nothing
        return False


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    except (ImportError, ValueError, OSError):  # not every system can; the deadline still holds
        pass


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
