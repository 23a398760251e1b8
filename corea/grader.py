r"""Grading: whether an answer is right, by the type of its question.

| type | an answer is right if it is |
|---|---|
| math | equal as mathematics: one value (or list), worked out if the gold is an integer |
| choice | the gold's letter, as in `B`, `(B)`, `B) bank`, `Option B`, `\boxed{B}`, or its wording |
| text | equal but for case, white space, surrounding punctuation and quotes |

An answer is hostile input: it may hang the algebra, exhaust memory or list every candidate. So
mathematics is graded by `corea._algebra` in worker processes that can be killed. An answer that
takes too long, is longer than `MAX_LENGTH`, or contradicts itself is wrong; no other is touched.
"""

import contextlib
import json
import os
import re
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from subprocess import DEVNULL, PIPE, Popen

from corea import _algebra
from corea._algebra import integer, undressed

ANSWER_TYPES = ("math", "choice", "text")
MAX_LENGTH = 2_000  # characters of a math or choice answer
CACHE_SIZE = 50_000  # verdicts kept: reinforcement learning meets the same answers again
_START_LIMIT = 120.0  # seconds a worker may take to import math-verify
_Texts = Sequence[str | None]
_Row = tuple[str | None, str | None, str]  # answer, gold, answer type


class Grader(contextlib.AbstractContextManager["Grader"]):
    """Grades answers. Workers start when they are first needed and live until it is closed.

    Args:
        workers: processes that grade mathematics side by side.
        deadline: seconds for one answer, at most 3600; a later one is wrong, and its worker is
            replaced.

    Example:
        >>> with Grader() as grader:
        ...     grader.grade(["0.5", "(B)"], ["1/2", "A"], ["math", "choice"])
        [True, False]
    """

    def __init__(self, workers: int = 1, deadline: float = 2.0):
        if workers < 1 or not 0 < deadline <= 3600:
            given = f"workers={workers}, deadline={deadline}"
            raise ValueError(f"{given}: use 1 worker or more, up to 3600 seconds")
        self.workers, self.deadline = workers, deadline
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._cache: OrderedDict[_Row, bool] = OrderedDict()
        self._pool: list[_Worker | None] = [None] * workers
        weakref.finalize(self, _kill_all, self._pool)  # also at exit

    def grade(self, answers: _Texts, golds: _Texts, answer_types: Sequence[str]) -> list[bool]:
        """Whether each answer is right; an answer or a gold of None makes it wrong.

        Raises:
            ValueError: if the columns differ in length or a type is not in `ANSWER_TYPES`.
            RuntimeError: if no worker can be started.
        """
        if not len(answers) == len(golds) == len(answer_types):
            lengths = f"{len(answers)} answers, {len(golds)} golds, {len(answer_types)} types"
            raise ValueError(f"{lengths}: use as many of each")
        if unknown := sorted({str(kind) for kind in answer_types} - set(ANSWER_TYPES)):
            allowed = ", ".join(ANSWER_TYPES)
            raise ValueError(f"unknown answer type {unknown[0]!r}; use one of {allowed}")
        rows = list(zip(answers, golds, answer_types, strict=True))
        with self._lock:
            verdicts = {row: self._known(row) for row in dict.fromkeys(rows)}
            verdicts |= self._ask([row for row, verdict in verdicts.items() if verdict is None])
        return [bool(verdicts[row]) for row in rows]

    def _known(self, row: _Row) -> bool | None:
        if row in self._cache:
            self._cache.move_to_end(row)
            return self._cache[row]
        return _without_algebra(*row)

    def _ask(self, rows: list[_Row]) -> dict[_Row, bool]:
        """Verdicts of the workers; a thread feeds each of them from one iterator."""
        if self._owner != os.getpid():  # forked: the workers speak to the parent
            self._owner, self._pool[:] = os.getpid(), [None] * self.workers
        left, verdicts = iter(rows), dict[_Row, bool]()

        def feed(slot: int) -> None:
            for row in left:
                worker = self._pool[slot]
                if worker is None or not worker.is_alive():
                    worker = self._pool[slot] = _Worker(self.deadline)
                verdicts[row] = worker.is_right(*row[:2])

        with ThreadPoolExecutor(self.workers) as executor:
            try:
                list(executor.map(feed, range(min(self.workers, len(rows)))))
            except BaseException:  # Ctrl-C too: a worker in an answer may not speak for the next
                list(left)  # so that the threads find no more rows
                self.close()
                raise
        self._cache |= verdicts
        while len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        return verdicts

    def close(self) -> None:
        """End the workers. The grader can still be used: new ones start."""
        _kill_all(self._pool)

    def __exit__(self, *_) -> None:
        self.close()

    def __reduce__(self):  # a pickled grader leaves its workers behind
        return type(self), (self.workers, self.deadline)


@lru_cache(maxsize=1)
def shared_grader() -> Grader:
    """The grader that all calls of this process share, made when it is first needed."""
    return Grader()


def grade_one(answer: str | None, gold: str | None, answer_type: str = "math") -> bool:
    """Whether one answer is right, by the `shared_grader`; see `Grader.grade`."""
    return shared_grader().grade([answer], [gold], [answer_type])[0]


class _Worker:
    """A process that answers pairs (answer, gold), a JSON line each, with "right" or "wrong".

    It runs `corea._algebra` as a file, so it needs neither the caller's `__main__` (a notebook, a
    script without a guard) nor the package on its path. It ends with its input, so with the caller.
    """

    def __init__(self, deadline: float):
        self._deadline = deadline
        command = [sys.executable, "-P", _algebra.__file__, str(2 * deadline + 1)]
        self._process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
        assert self._process.stdin and self._process.stdout, "both are pipes"
        self._input, self._output = self._process.stdin, self._process.stdout
        if self._line(_START_LIMIT).strip() != b"ready":
            self.kill()
            hint = f"does `{sys.executable} -m pip show math-verify` find it?"
            raise RuntimeError(f"the grader's worker did not start; {hint}")

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def is_right(self, answer: str | None, gold: str | None) -> bool:
        """The verdict; wrong if the worker dies of the answer, or is killed at the deadline."""
        line = b""
        with contextlib.suppress(OSError, ValueError):  # it is dead, or its pipes are closed
            self._input.write(json.dumps([answer, gold]).encode() + b"\n")
            self._input.flush()
            line = self._line(self._deadline)
        if not line.endswith(b"\n"):
            self.kill()
        return line.strip() == b"right"

    def _line(self, limit: float) -> bytes:
        """The next line; less than one if the worker ends, or is killed at the limit."""
        timer = threading.Timer(limit, self.kill)
        timer.daemon = True
        timer.start()
        line = self._output.readline()
        timer.cancel()
        timer.join()  # a timer that has gone off has ended the worker by now
        return line

    def kill(self) -> None:
        """Kill the process, wait for its end and close its pipes."""
        with contextlib.suppress(OSError), self._process:  # what is still to write has no reader
            self._process.kill()


def _kill_all(pool: list[_Worker | None]) -> None:
    for slot, worker in enumerate(pool):
        if worker is not None:
            pool[slot] = None
            worker.kill()


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_OPTION = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+)?(?:answer|option|choice)\s*(?:is)?\s*:?\s*)?(?:option\s+)?"
    r"(?:\(([A-Z])\)|\[([A-Z])\]|([A-Z]))"
    r"(?:\s*[).:\]](.*)|\s+which is(.*)|)",
    re.IGNORECASE | re.DOTALL,
)
_OTHER_OPTION = re.compile(
    r"(?:^|[\s,;/&(\[])[A-Z]\s*[)\]:]|(?:\b(?:or|and|option)\b|[,;/&])\s*(?:option\s+)?[A-Z]\W*$",
    re.IGNORECASE,
)
_YES_OR_NO = ("yes", "no", "true", "false")  # golds that may be written in any case


def _without_algebra(answer: str | None, gold: str | None, answer_type: str) -> bool | None:
    """The verdict, or None if only algebra can tell."""
    if answer is None or gold is None or not answer.strip():
        return False
    if answer_type == "text":
        return _plain(answer) == _plain(gold) != ""
    if answer_type == "choice":
        return _is_chosen(answer, gold)
    if answer.strip() == gold.strip():
        return True
    digits, gold_digits = integer(answer), integer(gold)
    if digits is not None and gold_digits is not None:
        return digits == gold_digits
    if len(answer) > MAX_LENGTH or _CONTROL.search(answer):
        return False
    bare, bare_gold = undressed(answer), undressed(gold)
    if _plain(bare) in _YES_OR_NO and _plain(bare_gold) in _YES_OR_NO:
        return _plain(bare) == _plain(bare_gold)
    return True if bare == bare_gold else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'`“”‘’")


def _is_chosen(answer: str, gold: str) -> bool:
    """Whether the answer names the gold's letter and no other, or repeats the gold's wording."""
    expected, chosen = _option(gold), _option(answer[:MAX_LENGTH])
    if expected is None or chosen is None:
        wording = gold if expected is None else expected[1]
        return _plain(answer) == _plain(wording) != ""
    names_another = len(answer) > MAX_LENGTH or _OTHER_OPTION.search(chosen[1])
    return chosen[0] == expected[0] and not names_another


def _option(text: str) -> tuple[str, str] | None:
    """The letter and the wording, if any, of a text that is one option."""
    option = _OPTION.fullmatch(undressed(text))
    if option is None:
        return None
    letter, *wording = (group for group in option.groups() if group is not None)
    return letter.upper(), "".join(wording).strip(" :")
